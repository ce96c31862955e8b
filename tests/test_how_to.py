"""The how-tos: every Python block runs, in the order of its page, and every command line names parts that exist."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

from flowvae import MLP, Experiment, Pinwheel, Training
from flowvae.cli.command import COMMANDS
from flowvae.comparisons import PRESETS, QUESTIONS, Preset
from flowvae.core.registry import families, kinds
from flowvae.evaluation import AnnealedHMC, Effort

DOCS = Path(__file__).parents[1] / "docs"
HOW_TO = sorted((DOCS / "how_to").glob("*.md"))
PAGES = [*HOW_TO, DOCS / "cheat_sheet.md", DOCS / "index.md"]
SMALLER = {  # the same code, for a test
    r"epochs=\d+": "epochs=1",
    r"steps=\d+": "steps=5",
    r"draws=\d[\d_]*": "draws=10",
    r'(?<!load\()(f?"runs/[^"]+")\)': r"\1, draws=10, figures=False)",
    r"range\(300\)": "range(1)",
    r"range\([35]\)": "range(2)",
    r'"pinwheel", preset="seconds"': "SMALL, preset=TINY",
    r"Pinwheel\(\)": "Pinwheel(60, 20, 20)",
}
SMALL = Experiment(
    latent=2, data=Pinwheel(60, 20, 20), encoder=MLP((8,)), decoder=MLP((8,)), inference=Training(epochs=1)
)
TINY = Preset(
    seeds=2, epochs=1, draws=2, patience=1, effort=Effort(2, 2, AnnealedHMC(chains=2, temperatures=2, leapfrog=2))
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_there_are_pages() -> None:
    linked = (DOCS / "how_to" / "index.md").read_text()
    assert len(HOW_TO) > 10
    assert all(f"({page.name})" in linked for page in HOW_TO if page.name != "index.md")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    names = {"__name__": "how_to", "SMALL": SMALL, "TINY": TINY}
    module = type(sys)("how_to")
    monkeypatch.setitem(sys.modules, "how_to", module)  # dataclasses look their module up
    for code in blocks(page, "python"):
        for pattern, smaller in SMALLER.items():
            code = re.sub(pattern, smaller, code)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "shell")], ids=lambda page: page.stem)
def test_commands_name_what_exists(page: Path) -> None:
    for line in "\n".join(blocks(page, "shell")).splitlines():
        words = line.partition("#")[0].split()
        if words[:1] != ["flowvae"]:
            continue
        words = words[1:]
        assert words[0] in COMMANDS, line
        for word in words[1:]:
            kind, _, name = word.partition(":")
            if kind in kinds() and name:
                assert name in families(kind), line
        if words[0] == "compare":
            assert words[1] in QUESTIONS, line
            assert "--preset" not in words or words[words.index("--preset") + 1] in PRESETS, line
