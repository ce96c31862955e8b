"""Builds the site: runs the notebooks, assembles and builds the pages, and checks all links."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from website.assemble import assemble, notebooks
from website.execute import executed
from website.links import check
from website.paths import EXECUTED, HTML, ROOT, SOURCE


def main() -> int:
    """Builds the site and prints the findings; returns 0 if there are no warnings and no broken links."""
    arguments = argparse.ArgumentParser(prog="python -m website", description=__doc__)
    arguments.add_argument("--only", nargs="*", metavar="NAME", help="run these notebooks; others have no outputs")
    arguments.add_argument("--as-they-are", action="store_true", help="use outputs of earlier code, run nothing")
    chosen = arguments.parse_args()
    start = time.monotonic()
    done = _outputs(chosen.only, chosen.as_they_are)
    ran = time.monotonic()
    assemble(done)
    shutil.rmtree(HTML, ignore_errors=True)  # removes pages that no longer exist
    warnings = _sphinx()
    findings = check(HTML)
    for line in [*findings.broken, *(f"loaded from the network: {line}" for line in findings.loaded)]:
        print(line)
    (HTML.parent / "external.txt").write_text("\n".join(sorted(findings.external)) + "\n")
    end = time.monotonic()
    print(
        f"site: {findings.pages} pages, {findings.internal} internal links, broken {len(findings.broken)}, "
        f"loaded from the network {len(findings.loaded)}, warnings {warnings}; {len(findings.external)} external links "
        f"(not fetched) in build/site/external.txt; notebooks {ran - start:.0f} s, pages {end - ran:.0f} s\n"
        f"open {HTML / 'index.html'}"
    )
    return 1 if findings.broken or findings.loaded or warnings else 0


def _outputs(only: list[str] | None, as_they_are: bool) -> list[Path]:
    if as_they_are:
        return sorted(EXECUTED.glob("*.ipynb"))
    wanted = notebooks()
    if only is not None:
        wanted = [path for path in wanted if any(path.stem.startswith(name) for name in only)]
    with ThreadPoolExecutor(2) as two:
        return list(two.map(executed, wanted))


def _sphinx() -> int:
    """Runs Sphinx with warnings as errors, and returns their number."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "2", "-c", str(Path(__file__).parent)]
    log = HTML.parent / "warnings.txt"
    done = subprocess.run(
        [*command, "-w", str(log), "-d", str(HTML.parent / "doctrees"), str(SOURCE), str(HTML)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "docs"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    found = len([line for line in log.read_text().splitlines() if "WARNING" in line or "ERROR" in line])
    return max(found, int(done.returncode != 0))


if __name__ == "__main__":
    sys.exit(main())
