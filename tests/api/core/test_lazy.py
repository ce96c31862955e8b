"""Contents of a package that are imported at their first use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import flowvae

INIT = """
from typing import TYPE_CHECKING
from flowvae.core.lazy import lazy

if TYPE_CHECKING:
    from {name}.inside import one
else:
    __getattr__, __dir__ = lazy(__name__)

__all__ = ["one"]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"lazy_{tmp_path.name}".replace("-", "_")
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(INIT.format(name=name))
    (tmp_path / name / "inside.py").write_text("one, two = 1, 2\n")
    (tmp_path / name / "broken.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_name_is_imported_when_it_is_used(package: str) -> None:
    module = __import__(package)
    assert dir(module).count("one") == 1
    assert f"{package}.inside" not in sys.modules
    assert module.one == 1
    assert vars(module)["one"] == 1
    assert module.inside.two == 2


def test_a_star_imports_the_names_of_all(package: str) -> None:
    names: dict[str, object] = {}
    exec(f"from {package} import *", names)
    assert names["one"] == 1
    assert "inside" not in names


@pytest.mark.parametrize("name", ["two", "__wrapped__", "_private"])
def test_other_names_are_not_there(package: str, name: str) -> None:
    module = __import__(package)
    with pytest.raises(AttributeError, match=f"{package}.*{name}"):
        getattr(module, name)
    with pytest.raises(ImportError):
        exec(f"from {package} import {name}")


def test_the_error_of_a_broken_module_is_its_own(package: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        __import__(package).broken  # noqa: B018


def test_the_names_of_flowvae() -> None:
    for name in flowvae.__all__:
        value = getattr(flowvae, name)
        assert value.__module__.startswith("flowvae.")
        assert value.__name__ == name
    assert {*flowvae.__all__, "__version__"} <= {*dir(flowvae)}


@pytest.mark.parametrize("name", ["nowhere", "no.where", "_repr_html_", ""])
def test_a_name_that_does_not_exist_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=repr(name)):
        getattr(flowvae, name)
