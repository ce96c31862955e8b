"""Safe reading of NumPy files: every header is checked before memory is allocated for its array."""

from __future__ import annotations

import math
import stat
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from flowvae.core.errors import FlowvaeError, shown, shown_path
from flowvae.core.memory import check_memory

__all__ = ["check_regular_file", "data_path", "map_array", "read_arrays"]

ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # an archive, and one without members
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def data_path(setting: str, path: object, remedy: str) -> Path:
    """A path with `~` expanded, so that it means the same file wherever it is used or stored.

    Args:
        setting: name of the setting.
        path: value of the setting.
        remedy: valid values, in words.

    Raises:
        FlowvaeError: if the value is not a path, or its name cannot be stored as text.
    """
    if not isinstance(path, str | Path):
        raise FlowvaeError(f"{setting} = {shown(path)}: must be {remedy}.")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        raise FlowvaeError(f"{setting} = {shown_path(path)}: no such user; write the whole path.") from None
    try:
        if b"\0" in str(expanded).encode():
            raise FlowvaeError(f"{setting} = {shown_path(path)}: holds a null character; name an existing file.")
    except UnicodeEncodeError:
        raise FlowvaeError(f"{setting} = {shown_path(path)}: the name is not UTF-8; rename the file.") from None
    return expanded


def read_arrays(where: str, path: Path, remedy: str, single: str | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` by name; or the one of a `.npy`, by the name `single`.

    An array is read only if its header agrees with the size of its file, and is accepted only if its checksum (which a
    `.npz` has) is right.

    Args:
        where: name of the path in messages, such as "data.path = 'x.npz'".
        path: the file.
        remedy: how to write or find the right one.
        single: a name for the array of a `.npy`; None: a `.npy` is refused.

    Raises:
        FlowvaeError: for anything that is not a regular file of plain arrays, undamaged and smaller than memory.
    """
    length = check_regular_file(where, path, remedy)
    try:
        file = path.open("rb")
    except OSError as error:
        raise FlowvaeError(f"{where}: cannot be opened ({error.strerror}); allow reading, or copy it.") from None
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy, about headers that Python 2 wrote
            return _arrays(file, length, single)
    except FlowvaeError as error:
        reason = str(error).rstrip(".")
    except MemoryError:
        reason = "larger than the free memory"
    except Exception:  # damaged bytes raise nearly every type: zlib.error, KeyError, NotImplementedError, SyntaxError
        reason = "damaged, or written by another program" if length else "empty"
    raise FlowvaeError(f"{where}: not a readable .npz or .npy of plain numbers ({reason}); {remedy}")


def map_array(where: str, path: Path, remedy: str) -> NDArray[Any]:
    """The memory-mapped array of a `.npy`, without reading it.

    Args:
        where: name of the path in messages.
        path: the file.
        remedy: how to write or find the right one.

    Raises:
        FlowvaeError: for anything that is not a regular file of one plain array.
    """
    length = check_regular_file(where, path, remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy, about headers that Python 2 wrote
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.memmap):
            return array
        reason = "an archive, which cannot be mapped; data:arrays reads one"
    except OSError as error:
        reason = error.strerror or "damaged"
    except Exception:  # see above
        reason = "damaged, or of Python objects" if length else "empty"
    raise FlowvaeError(f"{where}: not a .npy of plain numbers ({reason}); {remedy}")


def check_regular_file(where: str, path: Path, remedy: str) -> int:
    """The length of a file in bytes.

    Raises:
        FlowvaeError: for anything but a regular file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        what = "a link to a file that does not exist" if path.is_symlink() else "no such file"
        raise FlowvaeError(f"{where}: {what}; {remedy}") from None
    except OSError as error:
        raise FlowvaeError(f"{where}: {error.strerror}; {remedy}") from None
    if stat.S_ISDIR(status.st_mode):
        raise FlowvaeError(f"{where}: is a directory; name the file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise FlowvaeError(f"{where}: is a pipe, a device or a socket; {remedy}")
    return status.st_size


def _arrays(file: IO[bytes], length: int, single: str | None) -> dict[str, NDArray[Any]]:
    start = file.read(4)
    file.seek(0)
    if start not in ZIP:
        if single is None:
            raise FlowvaeError("no archive")
        return {single: _array("the array", file, length)}
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(file) as archive:
        if len(archive.infolist()) != _members(file, length):  # damage can hide members from zipfile
            raise FlowvaeError("its directory is damaged")
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise FlowvaeError(f"array {shown(name)} is there twice")
            if member.flag_bits & 1:
                raise FlowvaeError(f"array {shown(name)} is encrypted")
            with archive.open(member) as stream:
                arrays[name] = _array(f"array {shown(name)}", stream, member.file_size)
    return arrays


def _members(file: IO[bytes], length: int) -> int:
    """Number of arrays of an archive, from the record at its end, which a comment of up to 64 kB may follow."""
    file.seek(max(0, length - 2**16 - 22))
    record = file.read().rpartition(ZIP[1])[2]
    return int.from_bytes(record[6:8], "little")


def _array(label: str, stream: IO[bytes], length: int) -> NDArray[Any]:
    """One array, from a stream that must hold it and nothing else."""
    shape, _, dtype = HEADERS[npy.read_magic(stream)](stream)
    if dtype.hasobject:
        raise FlowvaeError(f"{label} holds Python objects, which are not unpickled")
    promised = math.prod(shape) * dtype.itemsize
    if stream.tell() + promised != length:
        raise FlowvaeError(f"the header of {label} says {promised:,} bytes, {shown(shape)}, which is not its size")
    check_memory(label, promised, "keep fewer rows in it")
    stream.seek(0)
    array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return array
