"""`python -m bench.faults --frames 10000 --faults 100 --seed 1` breaks a pipeline at random and counts what comes out.

With `--minutes` it watches memory, threads and open files instead, under load and a fault every `--every`. Exit code 0:
no frame was lost, none answered twice, none wrong without a label. METHODOLOGY.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog
from rich.console import Console

from bench import document as documents
from bench.faults.faults import KINDS, possible
from bench.faults.leaks import MOST_MB
from bench.faults.promise import PROMISES
from bench.faults.report import MACHINE_PACKAGES, document, headlines, show, show_growth
from bench.faults.run import Order, run
from bench.faults.schedule import make_schedule
from bench.faults.servers import BROKERS, ServersError
from bench.harness import interruptible, write_json
from broker.errors import UnderstudyError

DEFAULT_EVERY_S = 2.0
SPARED = "node1"
"""With `--minutes`: the node that is never named, so that one is watched for long. As the head it may be hit."""


@dataclass(frozen=True, slots=True)
class _Command:
    """The command that repeats a run."""

    options: argparse.Namespace

    def __str__(self) -> str:
        words = ["python -m bench.faults"]
        for name, value in vars(self.options).items():
            if value not in (None, "", 0.0) and name not in ("json", "plot"):
                words.append(f"--{name.replace('_', '-')} {value}")
        return " ".join(words)


def main() -> int:
    options = _parse()
    console = Console()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    nodes = [f"node{i}" for i in range(1, options.nodes + 1)]
    every_s = _seconds(options.every) if options.every else DEFAULT_EVERY_S
    faults = max(1, round(options.minutes * 60 / every_s)) if options.minutes else options.faults
    kinds = [kind for kind in options.kinds.split(",") if kind]
    spared = [SPARED] if options.minutes else []
    try:
        _check(options)
        mqtt = options.broker != "nats"
        schedule = make_schedule(
            seed=options.seed,
            faults=faults,
            every_s=every_s,
            nodes=nodes,
            kinds=kinds,
            spared=spared,
            allowed=possible(mqtt=mqtt, servers=options.servers, delivery=options.delivery),
        )
        # Evenly over the faults, so that none has no frame beside it; the pipeline may be faster than that.
        rate = 0.0 if options.minutes else options.frames / max(1.0, schedule[-1].ends_s)
        order = Order(
            schedule=schedule,
            frames=0 if options.minutes else options.frames,
            rate_per_s=rate,
            load=options.load,
            nodes=options.nodes,
            controllers=options.controllers or (1 if mqtt else 2),
            delivery=options.delivery,
            replicas=options.replicas,
            broker=options.broker,
            servers=options.servers,
            sample_s=1.0 if options.minutes else 0.0,
        )
        meter = documents.BusyMeter()
        outcome = asyncio.run(run(order, lambda line: console.print(line, highlight=False)))
    except UnderstudyError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        console.print(f"again: {_Command(options)}", highlight=False)
        return 2
    show(outcome, console)
    grown = [] if outcome.meter is None else outcome.meter.growth()
    if grown:
        show_growth(grown, console, most_mb=options.most_mb)
    good = outcome.good and all(one.flat(options.most_mb) for one in grown)
    console.print(f"{'again' if good else 'repeat the failure'}: {_Command(options)}", highlight=False)
    if options.json:
        details = document(outcome)
        found = documents.document(
            "faults", headlines(outcome), details, quick=False, packages=MACHINE_PACKAGES, busy=meter.read()
        )
        write_json(options.json, found | {"command": str(_Command(options))})
    if options.plot and outcome.meter is not None:
        from bench.faults.plot import plot_memory

        plot_memory(outcome.meter.samples, options.plot)
    return 0 if good else 1


def _check(options: argparse.Namespace) -> None:
    """Raises ServersError where the options do not go together."""
    if options.broker != "nats":
        if options.delivery == "durable":
            raise ServersError("durable delivery needs JetStream: --broker nats")
        if options.servers > 1:
            raise ServersError(f"{options.broker} is one server: a cluster is made with --broker nats")
        if options.controllers is not None and options.controllers > 1:
            raise ServersError("controllers cannot stand by on MQTT: --controllers 1")
    if options.replicas > options.servers:
        raise ServersError(f"{options.replicas} replicas need as many servers: --servers {options.replicas}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000, help="at least so many; more where faults last longer")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule")
    parser.add_argument("--kinds", default="", metavar="A,B", help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--every", default="", metavar="10s", help="between two faults, on average; default 2s")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument(
        "--controllers", type=int, help="one serves, the others stand by; default 2, and 1 where the broker speaks MQTT"
    )
    parser.add_argument("--delivery", choices=sorted(PROMISES), default="at-least-once")
    parser.add_argument("--replicas", type=int, default=1, help="servers that keep a copy of what is stored")
    parser.add_argument("--broker", choices=BROKERS, default="nats", help="nats-mqtt: its MQTT listener alone")
    parser.add_argument("--servers", type=int, default=1, help="of nats, as a cluster")
    parser.add_argument("--minutes", type=float, default=0.0, help="run for so long, and watch for leaks")
    parser.add_argument("--load", type=float, default=0.8, help="with --minutes: share of what the pipeline can")
    parser.add_argument(
        "--most-mb",
        type=float,
        default=MOST_MB,
        help="with --minutes: a process that grows by more leaks",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="with --minutes: draw memory over time (matplotlib)")
    return parser.parse_args()


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


if __name__ == "__main__":
    sys.exit(interruptible(main, Console()))
