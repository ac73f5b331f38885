"""Makes training histories: trains small networks on CIFAR-10, and measures every variant of each checkpoint.

    python -m bench.continuer.training --out FOLDER               # on a GPU, if there is one: hours on a CPU
    python -m bench.continuer.training --out FOLDER --small       # minutes on a CPU

Finished runs are passed over, and one that was interrupted goes on where it was. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.continuer.training", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="one file for each run")
    parser.add_argument("--small", action="store_true", help="narrow networks on 3,000 images of 16 x 16")
    parser.add_argument("--runs", type=int, metavar="N", help="only the first N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        from bench.continuer.training.trainer import train_all
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        console.print("there is no torch here: pip install -e '.[train]'", style="red", markup=False)
        return 2
    return train_all(options.out, small=options.small, runs=options.runs, threads=options.threads, console=console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
