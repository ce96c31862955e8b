"""A report is one page that opens from disk: well-formed, complete, nothing from elsewhere, nothing executable."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import HANGS

from flowvae import Digits, Experiment, FlowvaeError, Mixture, Training
from flowvae.comparisons import BASES, PRESETS, Question
from flowvae.comparisons.engine.answer import answer
from flowvae.comparisons.engine.plots import plot_curves
from flowvae.comparisons.engine.report import write_report
from flowvae.networks import MLP

EMPTY = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Tags must nest; keeps images, headings and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("answers")
    base = Experiment(
        latent=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        inference=Training(epochs=2, device="cpu"),
        data=Digits(),
    )
    question = Question(
        "mixture<b>",
        "Does a <mixture> help?\n\nWhat theory predicts: perhaps.",
        lambda base, data: {
            "normal": base,
            "mixture": replace(base, prior=Mixture(2)),
            "hot": replace(base, inference=replace(base.inference, learning_rate=1e18, clip=None)),
        },
        baseline="normal",
        data=("small",),
        draw=lambda runs, table: {
            "a-curve": plot_curves(table, {"": [(1, "normal"), (2, "mixture")]}, "nll", "K", "NLL")
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "small", base)
        patch.setitem(PRESETS, "tiny", replace(PRESETS["minutes"], draws=20))
        result = answer(question, "small", "tiny", place, progress=False)
    assert list(result.grid.failed["arm"]) == ["hot", "hot"]
    write_report(place)
    return place


def test_the_page_is_whole_and_alone(directory: Path) -> None:
    text = (directory / "report.html").read_text()
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "Does a <mixture> help?" in page.text  # escaped, not a tag
    assert "mixture" not in page.tags
    for name, image in enumerate(page.images):
        assert image["alt"], name
        source = image["src"] or ""
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    answer_directory = next(directory.glob("*/answer.json")).parent
    table = pd.read_csv(answer_directory / "table.csv")
    for cell in table["cell"]:
        assert cell in page.text
    assert f"{table.loc[table['arm'] == 'mixture', 'nll'].mean():.2f} ±" in page.text
    assert "hot, seed 1: TrainingStopped" in page.text
    assert len(page.images) == 2 + 3  # differences and curve; samples of data and of the two arms that ran
    assert page.images[1]["alt"] == "A curve on small: the mean over seeds as lines, every seed as a dot."


def test_data_of_one_name_in_two_forms_are_told_apart(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "out")
    place = next((tmp_path / "out").glob("*/answer.json")).parent
    assert "resized" not in write_report(tmp_path / "out").read_text()
    other = shutil.copytree(place, tmp_path / "out" / "other")
    protocol = json.loads((place / "answer.json").read_text())
    protocol["identity"]["preprocessing"] = "resized"
    (other / "answer.json").write_text(json.dumps(protocol))
    text = Page(write_report(tmp_path / "out").read_text()).text
    assert text.count(f"{protocol['data']}: resized") == 2  # in the list and above the section
    assert text.count(f"{protocol['data']}: none") == 2


def test_damage_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="no answer in it"):
        write_report(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    next(copy.glob("*/table.csv")).unlink()
    with pytest.raises(FlowvaeError, match="damaged or from another version"):
        write_report(copy)


SECRET = "the-secret-number"


@pytest.fixture
def stranger(directory: Path, tmp_path: Path) -> Path:
    """The folder of an answer that came from somebody else, with files outside of it that the page must not hold."""
    shutil.copytree(directory, tmp_path / "out" / "answers")
    (tmp_path / "out" / "answers" / "report.html").unlink()
    picture = next(directory.glob("*/differences.png")).read_bytes()
    (tmp_path / "secret.png").write_bytes(picture + SECRET.encode())
    (tmp_path / "secret.csv").write_text(f"arm,seed,cell,error\nnormal,0,{SECRET},{SECRET}\n")
    (tmp_path / "secret.json").write_text(json.dumps({"asks": SECRET}))
    return next((tmp_path / "out" / "answers").glob("*/answer.json")).parent


@pytest.mark.parametrize("name", ["../../../secret", "/etc/secret", "..", "", "a\\b", ".hidden", "x" * 300, "a\nb", 3])
@pytest.mark.parametrize("key", ["arms", "measure", "secondary"])
def test_a_name_in_an_answer_is_not_a_path(stranger: Path, key: str, name: Any) -> None:
    file = stranger / "answer.json"
    protocol = json.loads(file.read_text())
    name = str(stranger.parents[2] / "secret") if name == "/etc/secret" else name
    named = {"arms": {**protocol["arms"], name: {}}, "measure": name, "secondary": [name]}
    if key == "arms" and name == 3:
        named["arms"] = 3
    file.write_text(json.dumps({**protocol, key: named[key]}))
    with pytest.raises(FlowvaeError) as info:
        write_report(stranger.parent)
    assert len(str(info.value)) < 2000
    assert str(info.value).isprintable()
    assert not (stranger.parent / "report.html").exists()


@pytest.mark.parametrize("name", ["answer.json", "table.csv", "failed.csv", "differences-nll.csv", "differences.png"])
def test_a_link_out_of_the_folder_is_not_followed(stranger: Path, name: str) -> None:
    (stranger / name).unlink()
    (stranger / name).symlink_to(stranger.parents[2] / f"secret{Path(name).suffix}")
    with pytest.raises(FlowvaeError, match="leads out of"):
        write_report(stranger.parent)


def test_a_folder_that_is_a_link_out_is_not_followed(stranger: Path, tmp_path: Path) -> None:
    (stranger / "samples").rename(tmp_path / "elsewhere")
    (stranger / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FlowvaeError, match="leads out of"):
        write_report(stranger.parent)
    stranger.rename(tmp_path / "another")
    stranger.symlink_to(tmp_path / "another")
    with pytest.raises(FlowvaeError, match="leads out of"):
        write_report(stranger.parent)


def test_a_picture_is_a_picture(stranger: Path) -> None:
    (stranger / "notes.png").write_text(SECRET)
    with pytest.raises(FlowvaeError, match="PNG"):
        write_report(stranger.parent)


@pytest.mark.parametrize(
    "content",
    ["[]", "3", "null", "{}", "NaN", "[" * 5000, '{"arms": ' * 3000, "\x00", '{"measure": 1e999}'],
    ids=range(9),
)
def test_an_answer_of_another_shape_is_damaged(stranger: Path, content: str) -> None:
    (stranger / "answer.json").write_text(content)
    with pytest.raises(FlowvaeError, match="damaged"):
        write_report(stranger.parent)


@pytest.mark.parametrize(
    "key", ["asks", "predicts", "identity", "arms", "seeds", "sentences", "versions", "level", "split"]
)
@pytest.mark.parametrize("value", [None, 3, [3], {"a": 3}, "text"], ids=["null", "number", "list", "mapping", "text"])
def test_an_entry_of_another_kind_is_damaged_or_shown(stranger: Path, key: str, value: Any) -> None:
    file = stranger / "answer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    try:
        page = write_report(stranger.parent)
    except FlowvaeError as error:
        said = str(error)
    else:
        said = f"damaged, or shown: {len(Page(page.read_text()).tags)} tags"
    assert "damaged" in said


def test_text_of_an_answer_is_no_markup(stranger: Path) -> None:
    mark = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    file = stranger / "answer.json"
    protocol = json.loads(file.read_text())
    texts = dict.fromkeys(("asks", "predicts", "data", "preset", "unit", "split", "flowvae"), mark)
    lists = {"sentences": [mark], "seeds": [mark], "identity": {"preprocessing": mark, "split": mark}}
    arms = {"<script>alert(1)<b>": {mark: mark}, **protocol["arms"]}
    file.write_text(json.dumps({**protocol, **texts, **lists, "arms": arms, "versions": {mark: mark}}))
    for name in ("table.csv", "failed.csv", "differences-nll.csv"):
        frame = pd.read_csv(stranger / name)
        frame["cell" if "cell" in frame else "arm"] = mark
        frame[mark] = mark
        frame.to_csv(stranger / name, index=False)
    failed = pd.read_csv(stranger / "failed.csv")
    failed.assign(arm=mark, error=mark).to_csv(stranger / "failed.csv", index=False)
    shutil.copy(stranger / "differences.png", stranger / "<img src=x onerror=alert(1)>.png")
    page = Page(write_report(stranger.parent).read_text())
    assert "script" not in page.tags
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.images)
    assert not any("onerror" in image for image in page.images)
    assert page.text.count("<script>alert(1)</script>") > 10


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to open the page with")
def test_a_browser_shows_it(directory: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=390,844"]
    subprocess.run(
        [*command, f"--screenshot={picture}", (directory / "report.html").as_uri()],
        check=True,
        capture_output=True,
        timeout=HANGS,
    )
    dump = subprocess.run(
        [*command, "--dump-dom", (directory / "report.html").as_uri()],
        check=True,
        capture_output=True,
        timeout=HANGS,
        text=True,
    ).stdout
    assert "Does a &lt;mixture&gt; help?" in dump
    assert picture.read_bytes().startswith(b"\x89PNG")
    measured = tmp_path / "measured.html"  # nothing but what is in the tables' own boxes is wider than a phone
    script = "<script>document.body.style.width = '390px'; document.title = document.body.scrollWidth</script>"
    measured.write_text((directory / "report.html").read_text() + script)
    dump = subprocess.run(
        [*command, "--dump-dom", measured.as_uri()], check=True, capture_output=True, timeout=HANGS, text=True
    ).stdout
    assert "<title>390</title>" in dump
