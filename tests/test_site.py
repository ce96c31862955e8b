"""The site: pages at their places, every public object on a page, and a checker that finds what is broken."""

from __future__ import annotations

import importlib
import re
import shutil
import warnings
from pathlib import Path

import pytest

from website import assemble as assembly
from website.assemble import assemble
from website.docstrings import to_rst
from website.links import check
from website.paths import ROOT, MissingError, repository
from website.reference import ROOMS, TEXTS, entries, page
from website.sections import marked, title, with_links

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nbformat

FINE = "<html><head></head><body><h1 id='top'>Fine</h1><a href='#top'>up</a><img src='a.png'></body></html>"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text(FINE)
    (tmp_path / "a.png").write_bytes(b"")
    return tmp_path


def test_a_fine_site_has_no_findings(site: Path) -> None:
    findings = check(site)
    assert (findings.pages, findings.internal, findings.broken, findings.loaded) == (1, 2, [], [])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<a href='none.html'>x</a>", "no such file"),
        ("<a href='none/'>x</a>", "no such file"),
        ("<a href='#none'>x</a>", "no such anchor"),
        ("<a href='index.html#none'>x</a>", "no such anchor"),
        ("<a href='../index.html'>x</a>", "outside the site"),
        ("<img src='none.png'>", "no such file"),
        ("<img srcset='a.png 1x, none.png 2x'>", "no such file"),
        ("<script src='none.js'></script>", "no such file"),
        ("<link rel='stylesheet' href='none.css'>", "no such file"),
    ],
)
def test_a_broken_link_anchor_or_picture_is_found(body: str, reason: str, site: Path) -> None:
    (site / "index.html").write_text(FINE)
    (site / "b.html").write_text(body)
    (found,) = check(site).broken
    assert found.startswith("b.html: ")
    assert reason in found


@pytest.mark.parametrize(
    "body",
    [
        "<script src='https://x.org/a.js'></script>",
        "<link rel='preload stylesheet' href='//x.org/a.css'>",
        "<img src='http://x.org/a.png'>",
        "<iframe src='https://x.org'></iframe>",
    ],
)
def test_what_a_page_loads_from_the_network_is_found(body: str, site: Path) -> None:
    (site / "b.html").write_text(body)
    findings = check(site)
    assert len(findings.loaded) == 1
    assert findings.broken == []


@pytest.mark.parametrize("text", ["a {background: url(https://x.org/a.png)}", "@import 'https://x.org/a.css';"])
def test_what_a_style_sheet_loads_from_the_network_is_found(text: str, site: Path) -> None:
    (site / "a.css").write_text("a {background: url(a.png)}" + text)
    assert len(check(site).loaded) == 1


def test_a_link_to_another_site_is_counted_and_not_fetched(site: Path) -> None:
    (site / "b.html").write_text("<a href='https://x.org/'>x</a><a href='mailto:a@x.org'>y</a>")
    findings = check(site)
    assert dict(findings.external) == {"https://x.org/": 1}
    assert findings.broken == findings.loaded == []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble([], tmp_path_factory.mktemp("site") / "source")


def test_pages_lie_where_the_repository_has_them(source: Path) -> None:
    wanted = {path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("*.ipynb")}
    wanted |= {path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md") if path.name != "index.md"}
    wanted |= {path.relative_to(ROOT) for path in (ROOT / "docs" / "how_to").glob("*.md")}
    wanted |= {Path("index.md"), Path("CONTRIBUTING.md"), Path("CHANGELOG.md")}
    assert {path for path in wanted if not (source / path).is_file()} == set()


def test_every_page_is_in_the_contents(source: Path) -> None:
    listed = (source / "index.md").read_text()
    kinds = (".md", ".ipynb", ".rst")
    found = {path.relative_to(source).with_suffix("") for path in source.rglob("*") if path.suffix in kinds}
    pages = {path.as_posix() for path in found} - {"index"}
    assert {name for name in pages if not re.search(rf"(^|<){re.escape(name)}>?$", listed, re.MULTILINE)} == set()


def test_the_address_of_the_repository_has_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "repository", lambda: "https://example.org/me/vae")
    place = assemble([], tmp_path / "source")
    texts = [path.read_text() for path in place.rglob("*") if path.suffix in (".md", ".ipynb")]
    assert not any("OWNER/flowvae" in text for text in texts)
    assert "git clone https://example.org/me/vae" in (place / "index.md").read_text()
    assert repository().startswith("https://")


def test_a_link_to_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    for name in ("docs", "notebooks"):
        (tmp_path / name).mkdir()
    for name in (*assembly.PAGES, "docs/index.md"):
        (tmp_path / name).write_text("# Title\n")
    (tmp_path / "docs" / "a.md").write_text("[x](b.png)")
    with pytest.raises(MissingError, match=r"docs/a\.md links to b\.png"):
        assemble([], tmp_path / "source", tmp_path)


def test_a_page_that_is_html_already_is_linked_as_it_is(source: Path) -> None:
    assert '<a href="answers/report.html">' in (source / "docs" / "results.md").read_text()
    assert (source.with_name("extra") / "docs" / "answers" / "report.html").is_file()


def test_a_mention_of_a_section_becomes_a_link(tmp_path: Path) -> None:
    path = tmp_path / "05_families.ipynb"
    cell = nbformat.v4.new_markdown_cell("# Families: six of them\n\n## 2. Planar: one direction\n\nText.")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert title(path) == "5. Families"
    row = "| planar; 5 of them | 5 · Planar; in the library |"
    assert with_links(row, [path]) == "| planar; 5 of them | [5 · Planar](#section-05-2); in the library |"
    assert "(section-05-2)=\n## 2. Planar" in marked(cell.source, path)
    for row in ("| radial | 5 · Radial |", "| planar | 6 · Planar |"):
        with pytest.raises(MissingError, match="0 sections"):
            with_links(row, [path])


def test_sliders_are_replaced_and_pictures_kept(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("show()")
    widget = {assembly.WIDGET: {"model_id": "1"}, "text/plain": "interactive(…)"}
    cell.outputs = [nbformat.v4.new_output("display_data", data) for data in (widget, {"image/png": "AA=="})]
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assembly._notebook(path, path, tmp_path, tmp_path / "source")
    first, second = nbformat.read(tmp_path / "source" / "notebooks" / "a.ipynb", as_version=4).cells[0].outputs
    assert first.data == {"text/html": assembly.SLIDERS, "text/plain": ""}
    assert second.data == {"image/png": "AA=="}


def test_every_room_has_a_page() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(ROOMS) == {"flowvae"} | {f"flowvae.{folder}" for folder in folders - {"api"}}


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_object_is_on_a_page(room: str) -> None:
    """On its room's page or, where another room exports it too, on that one's, with a link from here."""
    module = importlib.import_module(room)
    documented = {id(entry.value): entry for listed in entries().values() for entry in listed}
    text = "\n".join(page(room))
    for name in module.__all__:
        entry = documented[id(getattr(module, name))]
        if entry.room == room:
            assert re.search(rf"^\.\. (auto|py:data).*::.*\b{name}$", text, re.MULTILINE), name
        elif room == "flowvae":
            assert f":py:obj:`~{entry.full}`" in text, name
        assert entry.summary, name


def test_texts_are_of_objects_that_have_no_docstring() -> None:
    known = {entry.full for listed in entries().values() for entry in listed}
    assert set(TEXTS) <= known


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a `MAF` and `x`"], ["a :py:obj:`MAF <flowvae.flows.MAF>` and ``x``"]),
        (["|det| of a * b, (N, *event)"], [r"\|det\| of a \* b, (N, \*event)"]),
        (["the *normalizing* direction"], ["the *normalizing* direction"]),
        (["q_ is a name_."], [r"q\_ is a name\_."]),
        (["Text.", "", "    f(x)  # code"], ["Text.", "", "", ".. code-block:: python", "", "   f(x)  # code", ""]),
        (["Text.", "", "    E[log p] − λ"], ["Text.", "", "", ".. code-block:: none", "", "   E[log p] − λ", ""]),
        ([">>> 1 * 2", "2"], [">>> 1 * 2", "2"]),
        (["Args:", "    a: one.", "", "    Text inside."], ["Args:", "    a: one.", "", "    Text inside."]),
        (
            ["| a | b |", "| --- | --- |", "| `x` | 1 \\| 2 |"],
            [
                "",
                ".. list-table::",
                "   :header-rows: 1",
                "",
                "   * - a",
                "     - b",
                "   * - ``x``",
                r"     - 1 \| 2",
                "",
            ],
        ),
    ],
)
def test_docstrings_become_restructured_text(lines: list[str], expected: list[str]) -> None:
    assert to_rst(lines, {"MAF": "flowvae.flows.MAF"}.get) == expected


def test_pages_are_assembled_anew(source: Path) -> None:
    left = source / "docs" / "old.md"
    left.write_text("# Old\n")
    assemble([], source)
    assert not left.exists()
    shutil.rmtree(source)
