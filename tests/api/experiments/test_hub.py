"""What is pushed is what is pulled, in a folder and on a hub; nothing else is touched, and nothing is trusted."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flowvae
from flowvae import Arrays, Experiment, FlowvaeError, Training, load, pull, push, train
from flowvae.cli.command import main
from flowvae.experiments import hub
from flowvae.experiments.card import is_card
from flowvae.networks import MLP

TOKEN = "hf_" + "a1B2" * 8
COMMIT = "0123abc"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    np.savez(folder / "mine.npz", train=np.random.default_rng(0).integers(0, 2, (60, 4)))
    experiment = Experiment(
        latent=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        inference=Training(epochs=1, device="cpu"),
        data=Arrays(folder / "mine.npz", "bernoulli"),  # type: ignore[arg-type]
    )
    train(experiment, folder / "run", draws=5, figures=False, progress=False)
    return folder / "run"


class FakeHub:
    """A hub with repositories in memory, and the methods of `HfApi` that are used."""

    endpoint = "https://hub.example"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repos: dict[str, dict[str, bytes]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def repo_exists(self, repo_id: str) -> bool:
        return repo_id in self.repos

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create_repo", {"private": private, "exist_ok": exist_ok}))
        self.repos.setdefault(repo_id, {})

    def model_info(self, repo_id: str, *, revision: str | None = None) -> Any:
        files = [SimpleNamespace(rfilename=name) for name in self.repos[repo_id]]
        return SimpleNamespace(sha=f"{revision or 'main'}-{COMMIT}", siblings=files)

    def create_commit(self, repo_id: str, operations: Any, *, commit_message: str, parent_commit: str | None) -> Any:
        self.calls.append(("create_commit", {"commit_message": commit_message, "parent_commit": parent_commit}))
        for operation in operations:
            self.repos[repo_id][operation.path_in_repo] = Path(operation.path_or_fileobj).read_bytes()
        return SimpleNamespace(oid=COMMIT)

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str) -> str:
        self.calls.append(("hf_hub_download", {"revision": revision}))
        (self.folder / "cached").write_bytes(self.repos[repo_id][filename])
        return str(self.folder / "cached")


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    pytest.importorskip("huggingface_hub", reason="an extra: pip install -e '.[hub]'")
    found = FakeHub(tmp_path_factory.mktemp("hub"))
    monkeypatch.setattr(hub, "_api", lambda: found)
    return found


@pytest.mark.parametrize("name", ["repo_exists", "create_repo", "model_info", "create_commit", "hf_hub_download"])
def test_the_fake_takes_what_the_hub_takes(name: str) -> None:
    api = pytest.importorskip("huggingface_hub", reason="an extra: pip install -e '.[hub]'").HfApi
    real = inspect.signature(getattr(api, name)).parameters
    for parameter in inspect.signature(getattr(FakeHub, name)).parameters.values():
        assert parameter.name in real
        assert real[parameter.name].kind in (parameter.kind, parameter.POSITIONAL_OR_KEYWORD)
    needed = {p.name for p in real.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    assert needed <= set(inspect.signature(getattr(FakeHub, name)).parameters)


@pytest.mark.parametrize("source", ["run", "file", "object"])
def test_a_folder_gives_back_what_was_pushed(source: str, run: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "notes.txt").write_text("mine")
    load(run).export(tmp_path / "run.safetensors")
    what: Any = {"run": run, "file": tmp_path / "run.safetensors", "object": load(run)}[source]
    pushed = push(what, shelf, licence="mit")
    assert sorted(path.name for path in shelf.iterdir()) == ["README.md", "model.safetensors", "notes.txt"]
    assert is_card((shelf / "README.md").read_text())
    pulled = pull(shelf, tmp_path / "mine.safetensors")
    assert pulled.file == tmp_path / "mine.safetensors"
    assert pulled.revision == pushed.revision
    found, original = load(tmp_path / "mine.safetensors"), load(run)
    x = np.ones((2, 4))
    assert np.array_equal(found.encode(x), original.encode(x))
    assert found.metrics == original.metrics
    assert (shelf / "notes.txt").read_text() == "mine"


def test_no_place_of_this_machine_is_shared(run: Path, tmp_path: Path) -> None:
    push(run, tmp_path)
    for name in ("README.md", "model.safetensors"):
        assert str(run.parent).encode() not in (tmp_path / name).read_bytes()
    assert load(tmp_path / "model.safetensors").experiment.data.paths == {"path": Path("mine.npz")}


def test_nothing_is_replaced_unasked(run: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.raises(FlowvaeError, match=r"README\.md"):
        push(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    push(run, tmp_path, overwrite=True)
    target = tmp_path / "mine.safetensors"
    target.write_text("precious")
    with pytest.raises(FlowvaeError, match=r"mine\.safetensors"):
        pull(tmp_path, target)
    assert target.read_text() == "precious"
    pull(tmp_path, target, overwrite=True)
    assert load(target).metrics == load(run).metrics


def test_a_model_is_not_replaced_without_its_card(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("mine")
    (tmp_path / "README.md").symlink_to(tmp_path / "mine.md")
    (tmp_path / "model.safetensors").write_text("an earlier model")
    with pytest.raises(FlowvaeError, match=r"README\.md.*link"):
        push(run, tmp_path, overwrite=True)
    assert (tmp_path / "mine.md").read_text() == "mine"
    assert (tmp_path / "model.safetensors").read_text() == "an earlier model"
    assert len(list(tmp_path.iterdir())) == 3


def _cut(content: bytes) -> bytes:
    return content[:-100]


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


class Boom:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (sys.exit, ("unpickled",))


def _pickled(content: bytes) -> bytes:
    return pickle.dumps(Boom())


@pytest.mark.parametrize("damage", [_cut, _flip, _pickled])
@pytest.mark.parametrize("old", [None, "precious"])
def test_a_damaged_file_is_not_kept(
    damage: Callable[[bytes], bytes], old: str | None, run: Path, tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    push(run, shelf)
    (shelf / "model.safetensors").write_bytes(damage((shelf / "model.safetensors").read_bytes()))
    target = tmp_path / "mine.safetensors"
    if old:
        target.write_text(old)
    with pytest.raises(FlowvaeError) as info:
        pull(shelf, target, overwrite=True)
    assert str(shelf) in str(info.value)
    assert ".tmp" not in str(info.value)
    assert (target.read_text() if target.exists() else None) == old
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_a_checkpoint_is_no_exported_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="exported") as info:
        pull(run, tmp_path / "mine.safetensors", name="checkpoint.safetensors")
    assert str(tmp_path) not in str(info.value)  # nothing of the run is there


def test_a_hub_gives_back_what_was_pushed(run: Path, tmp_path: Path, fake: FakeHub) -> None:
    pushed = push(run, "me/vae", licence="mit", message="first")
    assert pushed == ("https://hub.example/me/vae", COMMIT, Path("model.safetensors"))
    assert fake.repos["me/vae"].keys() == {"model.safetensors", "README.md"}
    assert dict(fake.calls) == {
        "create_repo": {"private": True, "exist_ok": True},
        "create_commit": {"commit_message": "first", "parent_commit": None},
    }
    assert 'flowvae.pull("me/vae"' in fake.repos["me/vae"]["README.md"].decode()
    pulled = pull("me/vae", tmp_path / "mine.safetensors", revision="v1")
    assert pulled.revision == f"v1-{COMMIT}"
    assert fake.calls[-1] == ("hf_hub_download", {"revision": f"v1-{COMMIT}"})  # what is shown is what was fetched
    assert load(tmp_path / "mine.safetensors").metrics == load(run).metrics


def test_a_hub_keeps_what_is_there(run: Path, fake: FakeHub) -> None:
    fake.repos["me/vae"] = {"notes.txt": b"mine", "README.md": b"# Mine"}
    with pytest.raises(FlowvaeError, match=r"README\.md"):
        push(run, "me/vae")
    assert fake.repos["me/vae"] == {"notes.txt": b"mine", "README.md": b"# Mine"}
    push(run, "me/vae", overwrite=True, public=True)
    assert fake.repos["me/vae"]["notes.txt"] == b"mine"
    made, commit = fake.calls
    assert made[1]["private"] is False
    assert commit[1]["parent_commit"] == f"main-{COMMIT}"  # refused by the hub if somebody else was faster


def test_the_card_of_a_hub_opens_the_run(
    run: Path, tmp_path: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, "me/vae")
    code = fake.repos["me/vae"]["README.md"].decode().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["x"].shape == (16, 4)


def test_a_refusal_is_one_line_without_a_token(run: Path, tmp_path: Path, fake: FakeHub) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"401\nwith {TOKEN} and Bearer {TOKEN}")

    fake.repo_exists = fake.model_info = refuse  # type: ignore[method-assign, assignment]
    for ask in (lambda: push(run, "me/vae"), lambda: pull("me/vae", tmp_path / "mine.safetensors")):
        with pytest.raises(FlowvaeError, match="401") as info:
            ask()
        assert "https://hub.example/me/vae" in str(info.value)
        assert TOKEN not in str(info.value)
        assert "\n" not in str(info.value)
    assert not list(tmp_path.iterdir())


def test_a_hub_without_the_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FlowvaeError, match=r"\.\[hub\]"):
        push(run, "me/vae")


@pytest.mark.parametrize("repo", ["nobody", "a/b/c", "a/..", "https://x.y/z", "a b/c", "-/" + "x" * 200])
def test_a_name_that_is_no_place(repo: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlowvaeError):
        push(run, repo)


@pytest.mark.parametrize(
    ("name", "how", "values"),
    [
        ("x.txt", {}, ["x.txt", ".safetensors"]),
        ("nowhere/x.safetensors", {}, ["nowhere"]),
        ("x.safetensors", {"name": "other.safetensors"}, ["other.safetensors"]),
        ("x.safetensors", {"name": "../run/checkpoint.safetensors"}, ["../run"]),
        ("x.safetensors", {"revision": "v1"}, ["v1"]),
    ],
    ids=["suffix", "folder", "name", "path", "revision"],
)
def test_mistakes_of_a_pull(name: str, how: dict[str, Any], values: list[str], run: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with pytest.raises(FlowvaeError) as info:
        pull(shelf, tmp_path / name, **how)
    assert all(value in str(info.value) for value in values)
    assert [path.name for path in tmp_path.iterdir()] == ["shelf"]


def test_a_target_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    push(run, tmp_path)
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    for name in ("folder.safetensors", "link.safetensors"):
        with pytest.raises(FlowvaeError, match=f"{name}.*nothing was written"):
            pull(tmp_path, tmp_path / name, overwrite=True)
    assert not (tmp_path / "elsewhere.safetensors").exists()


def test_the_working_directory_is_named_and_not_meant_by_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.chdir(shelf)
    with pytest.raises(FlowvaeError, match="''"):
        push(run, "")
    assert not list(shelf.iterdir())
    push(run, ".")
    assert "\n# shelf\n" in (shelf / "README.md").read_text()


def test_on_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), str(tmp_path), "--licence", "mit"]) == 0
    assert main(["push", str(run), str(tmp_path)]) == 2
    assert main(["pull", str(tmp_path), str(tmp_path / "mine.safetensors")]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("revision") == 2
    assert "--overwrite" in printed.err
    assert flowvae.load(tmp_path / "mine.safetensors").parameters == load(run).parameters
