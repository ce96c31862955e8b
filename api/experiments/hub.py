"""Sharing of runs: `push` to and `pull` from a model hub or a folder."""

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
    """Result of `push` and `pull`.

    Args:
        where: the folder, or the address of the repository.
        revision: commit on the hub; for a folder, the checksum of the file.
        file: the file that was written; for `push`, its name.
    """

    where: str
    revision: str
    file: Path


class _Place(Protocol):
    """A place that files are pushed to and pulled from."""

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

    The files contain neither the data nor their paths on this machine. Other files in the place are kept. On a hub both
    files are written in one commit.

    Args:
        run: a run, its directory, or its exported file.
        repo: OWNER/NAME of a repository, which is created if it does not exist, or an existing folder.
        overwrite: whether to replace an earlier model and card there.
        public: whether a new repository is public; otherwise it is private.
        licence: licence of the weights, for the card, such as "mit".
        message: commit message.

    Raises:
        FlowvaeError: for files that exist already, a run that cannot be exported, a folder that cannot be written, a
            missing huggingface_hub, a missing login, and any other error of the hub.
    """
    licence = check_licence(licence)
    place = place_of(repo, public)
    opened = load(run) if isinstance(run, str | Path) else run
    title = Path(place.path.resolve() if isinstance(place, _Folder) else place.where).name or "model"
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

    The file is written only if it is an exported run that matches its checksum; `flowvae.load(file)` opens it.
    Nothing is unpickled.

    Args:
        repo: OWNER/NAME of a repository, or an existing folder.
        file: the file to write, NAME.safetensors.
        name: name of the file in the repository.
        revision: branch, tag or commit of the repository; None: the newest. The commit is returned.
        overwrite: whether to replace an earlier file.

    Raises:
        FlowvaeError: if `file` exists or cannot be written, if the source does not exist or is not an exported run, for
            a missing huggingface_hub, and for any other error of the hub.
    """
    file = as_path(file)
    if file.suffix != SUFFIX:
        raise FlowvaeError(f"{file}: must end in {SUFFIX}.")
    if not file.parent.is_dir():
        raise FlowvaeError(f"{file}: there is no directory {file.parent}; create it first.")
    if file.exists() and not overwrite:
        raise FlowvaeError(f"{file}: exists; name another file, or replace it with --overwrite.")
    place = place_of(repo)
    try:
        with atomic_write(file) as temporary:
            found = place.fetch(name, revision, temporary)
            try:
                _, facts = check_file(temporary)
            except FlowvaeError as error:
                reason = str(error).removeprefix(f"{temporary}: ")
                raise FlowvaeError(f"{place.where}, {shown(name)}: {reason}") from None
    except OSError as error:
        raise FlowvaeError(f"{error.filename or file}: {error.strerror}; nothing was written.") from None
    return Shared(place.where, found or str(facts["sha256"]), file)


def place_of(repo: str | Path, public: bool = False) -> _Place:
    """Return the folder or the repository for a name; an existing folder and any `Path` are folders.

    Raises:
        FlowvaeError: for a name that is neither a folder nor OWNER/NAME, and for a missing huggingface_hub.
    """
    path = as_path(repo)
    if repo and (isinstance(repo, Path) or path.is_dir()):  # "" would be the working directory
        return _Folder(path)
    if not REPO.fullmatch(str(repo)) or ".." in str(repo):
        raise FlowvaeError(
            f"{shown_path(repo)}: is neither an existing folder nor OWNER/NAME of a repository; create the folder, or "
            "correct the name."
        )
    return _Hub(str(repo), public)


def place_call(place: _Place) -> str:
    """Return code that opens the run which was pushed to this place."""
    if isinstance(place, _Hub):
        return f'flowvae.load(flowvae.pull("{place.repo}", "{MODEL}").file)'
    return f'flowvae.load("{MODEL}")'


class _Folder:
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        if not path.is_dir():
            raise FlowvaeError(f"{shown_path(path)}: is not a folder; create it first.")

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()}

    def write(self, files: Mapping[str, Path], message: str) -> str:
        """Copy all files, or none if one cannot be written; return the checksum of the model."""
        try:
            with ExitStack() as complete:  # the files get their names when all are on disk
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
            raise FlowvaeError(f"{self.where}: has no file {shown(name)}; push a run there, or name another file.")
        shutil.copyfile(source, target)
        return ""


class _Hub:
    """A repository of a model hub; the only class that calls huggingface_hub.

    huggingface_hub manages the token (`hf auth login`, or HF_TOKEN): it is neither read nor stored here, and it is
    removed from messages.
    """

    def __init__(self, repo: str, public: bool, api: Any = None) -> None:
        self.repo, self.public = repo, public
        self.api = _api() if api is None else api
        self.where = f"{str(getattr(self.api, 'endpoint', 'hub')).rstrip('/')}/{repo}"
        self.head: str | None = None  # the commit that `names` has read

    def names(self) -> set[str]:
        with _Refusals(self.where):
            if not self.api.repo_exists(self.repo):
                return set()
            info = self.api.model_info(self.repo)
        self.head = info.sha
        return {file.rfilename for file in info.siblings or ()}

    def write(self, files: Mapping[str, Path], message: str) -> str:
        """Commit the files; fails if the repository has changed since `names` was called."""
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
    """Context manager that turns errors of the hub into one line, without the token."""

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
    """Return the client of the hub.

    Raises:
        FlowvaeError: if it is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise FlowvaeError(f"a model hub needs huggingface_hub; install it with {EXTRA}, or name a folder.") from None
    return HfApi(library_name="flowvae")
