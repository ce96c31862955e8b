"""The project as a whole: its imports, documentation, files that must agree, and installed form."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import itertools
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import flowvae
from flowvae.cli.family_table import table

ROOT = Path(__file__).parents[1]
MODULES = sorted(["flowvae", *(module.name for module in pkgutil.walk_packages(flowvae.__path__, "flowvae."))])


@pytest.mark.parametrize("order", [*itertools.permutations(["pyro", "zuko", "flowvae"])], ids="-".join)
def test_validation_is_on_whatever_the_import_order(order: tuple[str, ...]) -> None:
    code = f"""
import warnings; warnings.simplefilter("ignore")
import {", ".join(order)}
import torch, pyro.distributions as dist
flowvae.MAF  # whatever is used first
for normal in (torch.distributions.Normal, dist.Normal):
    try:
        normal(0.0, -1.0)
    except ValueError:
        continue
    raise SystemExit("Normal(0, -1) passed")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_validation_that_a_user_switched_off_stays_off() -> None:
    code = """
import warnings; warnings.simplefilter("ignore")
import torch, pyro
pyro.enable_validation(False)
import flowvae
from flowvae.cli.family_table import table
assert not torch.distributions.Distribution._validate_args
torch.distributions.Normal(0.0, -1.0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


USED_LATER = {
    *("arviz", "filelock", "jinja2", "joblib", "matplotlib", "pandas", "scipy", "sklearn", "statsmodels", "tabulate"),
    *("torchmetrics", "torchvision", "xarray"),
}
ROOMS = ("data", "flows", "networks", "models", "guides", "inference", "evaluation", "experiments", "comparisons")


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import flowvae", {"torch", "pyro", "zuko", "numpy", "tyro", *USED_LATER}),
        ("from flowvae.cli.command import main; main(['--help'])", {"torch", "numpy", "tyro", *USED_LATER}),
        ("from flowvae.cli.command import main; main(['trian'])", {"torch", "numpy", "tyro", *USED_LATER}),
        ("from flowvae import *; Experiment(data=Pinwheel()).build(Pinwheel().load(0))", USED_LATER),
        (f"import {', '.join(f'flowvae.{room}' for room in ROOMS)}", USED_LATER),
        ("from flowvae.cli.command import main; main(['list'])", USED_LATER - {"tabulate"}),
    ],
    ids=["import", "--help", "a mistake", "a model", "rooms", "list"],
)
def test_nothing_is_imported_before_it_is_used(code: str, without: set[str]) -> None:
    code += "; import sys; print('modules', *sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    modules = set(found.splitlines()[-1].split())
    assert "flowvae.core.errors" in modules
    assert without & modules == set()


@pytest.mark.parametrize("room", sorted(path.parent.name for path in ROOT.glob("*/__init__.py")))
def test_a_room_that_uses_zuko_guards_validation_first(room: str) -> None:
    """Whichever module of the room is imported first, its package comes before it."""
    sources = [path.read_text() for path in (ROOT / room).rglob("*.py")]
    if room not in ("api", "comparisons") and any(re.search(r"^(import|from) zuko", text, re.M) for text in sources):
        body = ast.parse((ROOT / room / "__init__.py").read_text()).body
        first = next(node for node in body if isinstance(node, ast.Import | ast.ImportFrom))
        assert ast.unparse(first) == "import flowvae.core.validation"


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented_and_annotated(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for key in getattr(module, "__all__", []):
        value = getattr(module, key)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert inspect.getdoc(value), f"{name}.{key}"
        members = (
            [value]
            if inspect.isfunction(value)
            else [
                member
                for label, member in inspect.getmembers(value, inspect.isfunction)
                if not label.startswith("_") and member.__module__.startswith("flowvae")
            ]
        )
        for member in members:
            owner = value if inspect.isclass(value) else module
            assert inspect.getdoc(getattr(owner, member.__name__)), f"{name}.{key}.{member.__name__}"
            assert "return" in member.__annotations__, f"{name}.{key}.{member.__name__}"


def test_every_root_folder_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(settings["package-dir"].values()) == folders
    rooms = {
        "/".join(path.parent.relative_to(ROOT).parts): path.parent
        for folder in folders
        for path in (ROOT / folder).rglob("__init__.py")
    }
    named = {("flowvae/" + room.removeprefix("api")).strip("/").replace("//", "/").replace("/", ".") for room in rooms}
    assert set(settings["packages"]) == named
    assert not (ROOT / "flowvae").exists()


def test_environment_file_agrees_with_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    names = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert f"python{project['requires-python']}" in names
    assert "pip" in names
    (through_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert through_pip == ["-e .[notebooks]"]
    assert "notebooks" in project["optional-dependencies"]
    assert environment["name"] == project["name"]
    wanted = {"pyro-ppl", "zuko", "torch", "torchvision", "arviz"}
    assert wanted <= {dependency.partition(">")[0] for dependency in project["dependencies"]}


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert flowvae.__version__ == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_runs_what_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_costs_in_the_documentation_are_those_of_the_families() -> None:
    rows = {row.name: row for row in table(latent=8)}
    seen = set()
    for line in (ROOT / "docs" / "priors.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or not all(cell.isdigit() for cell in cells[-3:]):
            continue
        for name in cells[0].replace("`", "").split(", "):
            row = rows[name]
            assert [int(cell) for cell in cells[-3:]] == [row.density, row.sample, row.sample_and_density], name
            assert ("prior" in row.roles) == (cells[-5] != ""), name
            assert ("posterior" in row.roles) == (cells[-4] != ""), name
            seen.add(name)
    assert len(seen) > 15


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    assert blocks
    for block in blocks:
        code = block.split("```")[0].replace("range(300)", "range(3)")
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
