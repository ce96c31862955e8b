"""Sharing runs: `push` and `pull`, to and from a model hub or a folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flowvae.core.errors import FlowvaeError, one_line, shown, shown_path
from flowvae.core.files import as_path, atomic_write
from flowvae.experiments.card import UNKNOWN, check_licence, model_card, opening
from flowvae.experiments.portable import SUFFIX, check_file, read_file
from flowvae.experiments.run import load

if TYPE_CHECKING:
    from flowvae.experiments.run import Run

__all__ = ["CARD", "MODEL", "Shared", "place_of", "pull", "push"]

MODEL, CARD = f"model{SUFFIX}", "README.md"
REPO = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")
TOKEN = re.compile(r"hf_\w+|[Bb]earer \S+")
EXTRA = "pip install -e '.[hub]' in the project's folder"


class Shared(NamedTuple):
    """What was pushed or pulled.

    Args:
        where: folder, or address of the repository.
        revision: of the hub; in a folder, the checksum of the file.
        file: that was written; of a push, its name.
    """

    where: str
    revision: str
    file: Path


class _Place(Protocol):
    """Somewhere that files are pushed to and pulled from."""

    where: str

    def names(self) -> set[str]: ...

    def write(self, files: Mapping[str, Path], message: str) -> str: ...

    def fetch(self, name: str, revision: str | None, target: Path) -> str: ...


def push(
    run: Run | str | Path,
    repo: str | Path,
    *,
    overwrite: bool = False,
    public: bool = False,
    licence: str = UNKNOWN,
    message: str = "",
) -> Shared:
    """Write a run to a repository of a model hub, or into a folder: model.safetensors and its card, README.md.

    Neither holds the data, nor the places of data on this machine. Other files that are there stay. On a hub both come
    in one commit.

    Args:
        run: a run, its directory, or its exported file.
        repo: OWNER/NAME of a repository, which is made if it is not there; or an existing folder, or any `Path`.
        overwrite: whether to replace an earlier model and card there.
        public: whether a new repository is public; otherwise it is private.
        licence: of the weights, for the card, such as "mit".
        message: of the commit.

    Raises:
        FlowvaeError: for files that are there already, a run that cannot be exported, a place that cannot be written,
            and a hub without its extra, without a login, or that refuses.
    """
    licence = check_licence(licence)
    place = place_of(repo, public)
    opened = load(run) if isinstance(run, str | Path) else run
    title = Path(place.where).name
    there = sorted({MODEL, CARD} & place.names())
    if there and not overwrite:
        raise FlowvaeError(f"{place.where}: holds {' and '.join(there)} already; --overwrite replaces them.")
    data = opened.experiment.data
    names = {name: Path(path.name) for name, path in data.paths.items()}  # the folders belong to this machine
    anywhere = replace(opened, experiment=replace(opened.experiment, data=replace(data, **names)))  # type: ignore[type-var]
    with TemporaryDirectory() as folder:
        file = anywhere.export(Path(folder) / MODEL, licence=licence)
        exported = read_file(file)
        card = Path(folder) / CARD
        text = model_card(exported, title, opening(exported, place_call(place)), licence)
        card.write_text(text, encoding="utf-8")
        revision = place.write({MODEL: file, CARD: card}, message or f"A run of flowvae: {title}")
    return Shared(place.where, revision, Path(MODEL))


def pull(
    repo: str | Path, file: str | Path, *, name: str = MODEL, revision: str | None = None, overwrite: bool = False
) -> Shared:
    """Fetch the file of a run from a repository of a model hub, or from a folder, and check it.

    The file is written only if it is an exported run that agrees with its checksum; `flowvae.load(file)` opens it.
    Nothing is unpickled.

    Args:
        repo: OWNER/NAME of a repository; or an existing folder, or any `Path`.
        file: where to, NAME.safetensors.
        name: of the file in the repository.
        revision: branch, tag or commit of the repository; None: the newest. The commit is returned.
        overwrite: whether to replace an earlier file.

    Raises:
        FlowvaeError: for a file that exists, one that is not there or no exported run, and a hub without its extra,
            without access, or that refuses.
    """
    file = as_path(file)
    if file.suffix != SUFFIX:
        raise FlowvaeError(f"{file}: must end in {SUFFIX}.")
    if not file.parent.is_dir():
        raise FlowvaeError(f"{file}: there is no directory {file.parent}; make it first.")
    if file.exists() and not overwrite:
        raise FlowvaeError(f"{file}: exists; name another file, or replace it by --overwrite.")
    place = place_of(repo)
    with atomic_write(file) as temporary:
        found = place.fetch(name, revision, temporary)
        try:
            _, facts = check_file(temporary)
        except FlowvaeError as error:
            reason = str(error).removeprefix(f"{temporary}: ")
            raise FlowvaeError(f"{place.where}, {shown(name)}: {reason}") from None
    return Shared(place.where, found or str(facts["sha256"]), file)


def place_of(repo: str | Path, public: bool = False) -> _Place:
    """Return the folder or the repository that a name means: a folder that exists, or any `Path`, is a folder.

    Raises:
        FlowvaeError: for a text that is neither a folder nor OWNER/NAME, and a hub without its extra.
    """
    path = as_path(repo)
    if isinstance(repo, Path) or path.is_dir():
        return _Folder(path)
    if not REPO.fullmatch(str(repo)) or ".." in str(repo):
        raise FlowvaeError(
            f"{shown_path(repo)}: is no folder that exists, and no repository of a hub, OWNER/NAME; make the folder, "
            "or correct the name."
        )
    return _Hub(str(repo), public)


def place_call(place: _Place) -> str:
    """Code that gives the run which was pushed there."""
    if isinstance(place, _Hub):
        return f'flowvae.load(flowvae.pull("{place.repo}", "{MODEL}").file)'
    return f'flowvae.load("{MODEL}")'


class _Folder:
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        if not path.is_dir():
            raise FlowvaeError(f"{shown_path(path)}: is no folder; make it first.")

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()}

    def write(self, files: Mapping[str, Path], message: str) -> str:
        """Copy the files, none if one cannot be written; returns the checksum of the model."""
        try:
            with ExitStack() as complete:  # each takes its place when all are on disk
                for name, file in files.items():
                    shutil.copyfile(file, complete.enter_context(atomic_write(self.path / name)))
        except OSError as error:
            raise FlowvaeError(
                f"{error.filename}: cannot be written ({error.strerror}); name another folder."
            ) from None
        return str(check_file(self.path / MODEL)[1]["sha256"])

    def fetch(self, name: str, revision: str | None, target: Path) -> str:
        if revision is not None:
            raise FlowvaeError(f"--revision {shown(revision)}: {self.where} is a folder, which has none; leave it out.")
        source = self.path / name
        if Path(name).name != name or not source.is_file():
            raise FlowvaeError(f"{self.where}: holds no file {shown(name)}; push a run there, or name another file.")
        shutil.copyfile(source, target)
        return ""


class _Hub:
    """A repository of a model hub, through huggingface_hub; the only place that calls it.

    The token is huggingface_hub's own affair (`hf auth login`, or HF_TOKEN): it is neither read nor stored here, and
    removed from messages.
    """

    def __init__(self, repo: str, public: bool, api: Any = None) -> None:
        self.repo, self.public = repo, public
        self.api = _api() if api is None else api
        self.where = f"{str(getattr(self.api, 'endpoint', 'hub')).rstrip('/')}/{repo}"
        self.head: str | None = None  # the commit that `names` has seen

    def names(self) -> set[str]:
        with _Refusals(self.where):
            if not self.api.repo_exists(self.repo):
                return set()
            info = self.api.model_info(self.repo)
        self.head = info.sha
        return {file.rfilename for file in info.siblings or ()}

    def write(self, files: Mapping[str, Path], message: str) -> str:
        """Commit the files; refused where the repository has changed since its names were read."""
        from huggingface_hub import CommitOperationAdd

        with _Refusals(self.where):
            self.api.create_repo(self.repo, private=not self.public, exist_ok=True)
            operations = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
            commit = self.api.create_commit(self.repo, operations, commit_message=message, parent_commit=self.head)
        return str(commit.oid)

    def fetch(self, name: str, revision: str | None, target: Path) -> str:
        with _Refusals(self.where):
            commit = self.api.model_info(self.repo, revision=revision).sha
            shutil.copyfile(self.api.hf_hub_download(self.repo, name, revision=commit), target)
        return str(commit)


class _Refusals:
    """Errors of the hub as one line without a token."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, FlowvaeError):
            reason = TOKEN.sub("<token>", one_line(error)).rstrip(".") or type(error).__name__
            raise FlowvaeError(
                f"{self.where}: {type(error).__name__}: {reason}; check the name, the network and your login (hf auth "
                "login)."
            ) from None


def _api() -> Any:
    """The client of the hub.

    Raises:
        FlowvaeError: if it is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise FlowvaeError(f"a model hub needs huggingface_hub; install it with {EXTRA}, or name a folder.") from None
    return HfApi(library_name="flowvae")
