"""The committed table of results, `results.json`, with the rows of `flowvae reproduce --record`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from flowvae.comparisons.published.provenance import checkout
from flowvae.comparisons.published.row import Row
from flowvae.core.errors import FlowvaeError, one_line
from flowvae.core.files import atomic_write

__all__ = ["RESULTS", "check_recordable", "read_results", "record"]

RESULTS = Path(__file__).resolve().with_name("results.json")


def read_results(file: Path | None = None) -> list[Row]:
    """Return the rows of the table, the oldest first.

    Args:
        file: the table; None: the one of the package.

    Raises:
        FlowvaeError: if it is damaged.
    """
    file = file or RESULTS
    if not file.exists():
        return []
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(plain, list):
            raise TypeError("is not a list")
        return [Row.from_dict(entry) for entry in plain]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FlowvaeError(f"{file}: is not a table of results ({one_line(error)}); restore it.") from None


def check_recordable() -> None:
    """Check that results can be recorded.

    Raises:
        FlowvaeError: if the package does not run from a checkout, or the table is damaged.
    """
    if checkout() is None:
        raise FlowvaeError(
            "--record: needs a git checkout of the project, and this is an installed package; leave it out, the row is "
            "also in row.json of the output."
        )
    read_results()


def record(row: Row, file: Path | None = None) -> bool:
    """Append a row to the table, unless the table has the same figures already.

    Args:
        row: the row.
        file: the table; None: the one of the package.

    Returns:
        Whether it was appended.

    Raises:
        FlowvaeError: for a trial, and a table that is damaged or cannot be written.
    """
    if row.trial:
        raise FlowvaeError(f"{row.recipe}: a trial ({row.trial}) is not a result; leave --epochs and --draws out.")
    file = file or RESULTS
    rows = read_results(file)
    if any((old.recipe, old.seeds, old.values) == (row.recipe, row.seeds, row.values) for old in rows):
        return False
    text = json.dumps([asdict(one) for one in (*rows, row)], indent=2, ensure_ascii=False, allow_nan=False)
    try:
        with atomic_write(file) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise FlowvaeError(f"{file}: cannot be written ({error.strerror}); allow writing.") from None
    return True
