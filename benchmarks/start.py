"""CPU time of imports and commands, relative to `import torch, pyro`: minima over interleaved new processes.

python benchmarks/start.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

STARTS = {
    "import torch, pyro": "import torch, pyro",
    "import flowvae": "import flowvae",
    "from flowvae import Experiment": "from flowvae import Experiment",
    "from flowvae import *": "from flowvae import *",
    "flowvae --help": "from flowvae.cli.command import main; main(['--help'])",
    "flowvae trian (a mistake)": "from flowvae.cli.command import main; main(['trian'])",
    "flowvae list": "from flowvae.cli.command import main; main(['list'])",
    "flowvae train --help": "import sys; from flowvae.cli.command import main; sys.exit(main(['train', '--help']))",
}


def cpu_seconds(code: str) -> float:
    """Measure user plus system time of a new interpreter that runs the code, in seconds."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    least = dict.fromkeys(STARTS, float("inf"))
    for _ in range(rounds):
        for name, code in STARTS.items():
            least[name] = min(least[name], cpu_seconds(code))
    unit = least["import torch, pyro"]
    for name, seconds in least.items():
        print(f"{name:32}{seconds:6.2f} s{seconds / unit:8.3f}")


if __name__ == "__main__":
    main()
