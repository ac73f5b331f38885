"""`python -m bench` lists the benchmarks; `python -m bench all --quick` runs them, and makes a page of what they found.

`--quick` takes ten minutes on two cores, `--full` about four hours.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from bench import harness

BENCHMARKS = {
    "codecs": "codecs on the activations of trained networks: bytes, time, accuracy, and the plans that they make",
    "continuer": "CONTINUER's tables beside ours: latency and accuracy as predicted, and the techniques chosen by them",
    "delivery": "the delivery modes against the same stages on bare core NATS, and where the time goes",
    "fitting": "what an answer is worth while a stage is lost: fitted parts, on images that nothing was fitted to",
    "liveness": "how soon a crash and a hang of a node are noticed, and how often nothing was wrong",
    "failover": "a server of a cluster killed under its clients: connected elsewhere, next answer, all frames answered",
    "memory": "what a stage takes in memory against what the planner reckons with",
    "others": "the same stages over ZeroMQ, Ray and in one process: frames/s, CPU time and latency relative to ours",
    "placement": "random, greedy, SEIFER's and our plan deployed on one emulated cluster: measured and predicted",
    "planner": "random, greedy and SEIFER's plans against the proven optimum, and the planner's time",
    "recovery": "first answer and full accuracy after crashes and hangs, planned changes, decisions, and lost frames",
    "scaling": "throughput against the number of nodes on emulated clusters: measured, planned, the link's limit",
    "scenarios": "throughput, accuracy and latency over time around each fault, on a cluster of containers",
    "throughput": "the pipeline against one onnxruntime process with the same threads, and the overhead per hop",
}

OUT = Path("bench/results")
PAGE = "report.html"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    every = commands.add_parser("all", help="run them one after the other, and write a report", description=__doc__)
    form = every.add_mutually_exclusive_group(required=True)
    form.add_argument("--quick", action="store_true", help="short forms of some: ten minutes")
    form.add_argument("--full", action="store_true", help="all of them: hours")
    every.add_argument("--only", default="", metavar="A,B", help="these benchmarks; default: all of that form")
    every.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default: {OUT}")
    options = parser.parse_args(arguments)
    if options.command == "all":
        options.only = [name for name in options.only.split(",") if name]
        if unknown := sorted(set(options.only) - BENCHMARKS.keys()):
            every.error(f"--only: there is no benchmark '{unknown[0]}'; there are: {', '.join(BENCHMARKS)}")
    return options


def run(options: argparse.Namespace, console: Console) -> int:
    """Exit code 0: all that could run here were done, and found nothing wrong."""
    from bench.jobs import choose
    from bench.page import MissingTemplatesError, load_environment, render
    from bench.suite import Ran, run_all

    try:
        load_environment()  # before minutes of measuring, not after them
    except MissingTemplatesError as error:
        console.print(f"[red]{error}[/]")
        return 2
    jobs = choose(quick=options.quick, known=BENCHMARKS, only=options.only)
    began, began_s = datetime.now().astimezone(), time.monotonic()
    form = "--quick" if options.quick else "--full"
    only = f" --only {','.join(options.only)}" if options.only else ""
    page = options.out / PAGE

    def write(runs: Sequence[Ran]) -> None:
        """After each: what is there so far is there whatever comes."""
        command = f"python -m bench all {form}{only}"
        page.write_text(render(runs, BENCHMARKS, command=command, began=began, seconds=time.monotonic() - began_s))

    runs = run_all(jobs, options.out, console, write)
    console.print(f"{(time.monotonic() - began_s) / 60:.1f} min; {page}", highlight=False)
    return 0 if all(ran.good for ran in runs) else 1


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.command == "all":
        console = harness.terminal()
        return harness.interruptible(lambda: run(options, console), console)
    for name, what in BENCHMARKS.items():
        print(f"python -m bench.{name}: {what}")
    print("python -m bench all --quick | --full: one after the other, and a report of all")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
