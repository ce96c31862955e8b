"""A report is one page that opens from disk: well-formed, complete, nothing from elsewhere, nothing executable."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from flowvae import Digits, Experiment, FlowvaeError, Inference, Mixture
from flowvae.comparisons.answer import answer
from flowvae.comparisons.plots import plot_curves
from flowvae.comparisons.question import BASES, PRESETS, Question
from flowvae.comparisons.report import write_report
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
        inference=Inference(epochs=2, device="cpu"),
        data=Digits(),
    )
    question = Question(
        "mixture<b>",
        "Does a <mixture> help?\n\nWhat theory predicts: perhaps.",
        lambda base: {
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


def test_damage_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="no answer in it"):
        write_report(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    next(copy.glob("*/table.csv")).unlink()
    with pytest.raises(FlowvaeError, match="damaged or from another version"):
        write_report(copy)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to open the page with")
def test_a_browser_shows_it(directory: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=390,844"]
    subprocess.run(
        [*command, f"--screenshot={picture}", (directory / "report.html").as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    dump = subprocess.run(
        [*command, "--dump-dom", (directory / "report.html").as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
        text=True,
    ).stdout
    assert "Does a &lt;mixture&gt; help?" in dump
    assert picture.read_bytes().startswith(b"\x89PNG")
    measured = tmp_path / "measured.html"  # nothing but what is in the tables' own boxes is wider than a phone
    script = "<script>document.body.style.width = '390px'; document.title = document.body.scrollWidth</script>"
    measured.write_text((directory / "report.html").read_text() + script)
    dump = subprocess.run(
        [*command, "--dump-dom", measured.as_uri()], check=True, capture_output=True, timeout=120, text=True
    ).stdout
    assert "<title>390</title>" in dump
