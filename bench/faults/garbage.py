"""`python -m bench.faults.garbage --messages 100000`: nonsense on every subject of a pipeline that runs.

Says what became of the frames beside it, how much the logs grew, what the status counts, and how many dead letters
there were. Exit code 0: nothing crashed, the pipeline answers everything, and logs and dead letters stayed bounded.
METHODOLOGY.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from bench.faults.checker import Pace
from bench.faults.cluster import PIPELINE, ChaosCluster
from bench.faults.nats_checker import NatsChecker
from bench.faults.noise import Nonsense, babble, control_subjects, data_subjects, overhear
from bench.faults.promise import PROMISES
from bench.faults.stranger import Heard, stranger
from bench.harness import interruptible, rss_bytes, write_json
from understudy.data import digits_frames

OVERHEAR_S = 1.0
FRAMES_PER_S = 100.0
FINISH_S = 30.0
BLOCKS = 12
AT_NODES = {"frame", "activation", "handover", "sent", "blob", "probe", "assignment", "spares", "activate"}
KINDS = AT_NODES | {"beat", "pulse", "bye", "confirm", "update"}
"""Of malformed messages, as the status counts them: one for each sort of subject that somebody listens to."""

LETTERS_AT_ONCE, LETTERS_PER_S = 300, 15.0
"""More dead letters than that are a flood: a head sends at most 100 at once and 10 per second, and the node of the head
may change on the way."""

LETTER = b'{"id":'
LOG_BYTES = 2_000_000
"""More than that, of all processes, for a flood of any length that a test can make, is a flood of log lines."""


@dataclass(slots=True, kw_only=True)
class Flood:
    """What a flood did.

    Attributes:
        messages: by account.
        dead: processes that ended.
        malformed: the status document's own counts, summed over nodes.
        grown_bytes: resident memory of each process, after minus before.
    """

    messages: dict[str, int]
    seconds: float
    dead: list[str]
    crashes: list[str]
    letters: int
    log_bytes: int
    malformed: dict[str, int]
    grown_bytes: dict[str, int]
    tally: dict[str, Any]
    logs: str = ""
    longest_silence_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.problems


async def flood(messages: int, *, seed: int, rate_per_s: float, nodes: int = 3) -> Flood:
    """So many messages, half of them on each account, beside `FRAMES_PER_S` good frames."""
    chance = random.Random(seed)
    images, _ = digits_frames()
    letters = 0

    async def count(message: Heard) -> None:
        nonlocal letters
        letters += message.data.startswith(LETTER) and message.data.endswith(
            b"}"
        )  # there is garbage on this subject, too

    async with (
        ChaosCluster(nodes=nodes, controllers=1) as cluster,
        NatsChecker(cluster.url, pipeline=PIPELINE, images=images, promise=PROMISES["at-least-once"]) as checker,
        stranger(cluster.url, "garbage-letters", hears=f"understudy.{PIPELINE}.dead", on_heard=count),
    ):
        urls = dict(zip(("data", "control"), cluster.all_rights_urls, strict=True))
        nonsense = Nonsense(chance, await overhear(list(urls.values()), seconds=OVERHEAR_S))
        told = {
            "data": data_subjects(PIPELINE, cluster.node_names, BLOCKS, cluster.blobs()),
            "control": control_subjects(PIPELINE, cluster.node_names),
        }
        before = {name: rss_bytes(pid) for name, pid in cluster.pids().items()}
        over = asyncio.Event()
        began_s = time.monotonic()
        frames = asyncio.create_task(checker.publish(100, Pace(rate_per_s=FRAMES_PER_S), until=over), name="frames")
        floods = (
            babble(url, told[name], nonsense, chance, rate_per_s=rate_per_s / 2, messages=messages // 2)
            for name, url in urls.items()
        )
        sent = dict(zip(urls, await asyncio.gather(*floods), strict=True))
        seconds = time.monotonic() - began_s
        over.set()
        await asyncio.wait([frames], timeout=FINISH_S)
        frames.cancel()
        await asyncio.gather(frames, return_exceptions=True)
        await checker.finish(within_s=FINISH_S)
        found = Flood(
            messages=sent,
            seconds=seconds,
            dead=cluster.ended,
            crashes=cluster.crashes(),
            letters=letters,
            log_bytes=sum(path.stat().st_size for path in cluster.folder.glob("*.log")),
            malformed=_counted(await cluster.status() or {}),
            grown_bytes={name: rss_bytes(pid) - before[name] for name, pid in cluster.pids().items() if name in before},
            tally=checker.tally.document(),
            longest_silence_s=checker.tally.longest_silence_s,
        )
        _judge(found)
        if not found.good:
            found.logs = str(cluster.keep_logs())
        return found


def _counted(status: dict[str, Any]) -> dict[str, int]:
    """What the status says of malformed messages: by kind, of all nodes and the controller."""
    counts = Counter(status.get("malformed", {}))
    for node in status.get("nodes", ()):
        counts.update(node.get("malformed", {}))
    return dict(counts.most_common())


def _judge(found: Flood) -> None:
    if found.dead:
        found.problems.append(f"{', '.join(found.dead)} ended")
    if found.crashes:
        found.problems.append(f"{len(found.crashes)} unexpected errors in the logs")
    if not found.tally["kept"]:
        found.problems.append("frames were lost, answered twice or wrong")
    if found.letters > LETTERS_AT_ONCE + LETTERS_PER_S * found.seconds:
        found.problems.append(f"{found.letters} dead letters in {found.seconds:.0f} s")
    if found.log_bytes > LOG_BYTES:
        found.problems.append(f"{found.log_bytes} bytes of logs")
    if missing := sorted(KINDS - set(found.malformed)):
        found.problems.append(f"the status counts no {', '.join(missing)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faults.garbage", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=4000.0, help="messages per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = asyncio.run(flood(options.messages, seed=options.seed, rate_per_s=options.rate))
    _show(found, Console())
    if options.json:
        write_json(options.json, asdict(found))
    return 0 if found.good else 1


def _show(found: Flood, console: Console) -> None:
    table = Table(title="garbage", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    total = sum(found.messages.values())
    rows = {
        "malformed messages": total,
        "seconds": f"{found.seconds:.1f}",
        "processes that ended": ", ".join(found.dead) or 0,
        "unexpected errors in logs": len(found.crashes),
        "dead letters": found.letters,
        "bytes of logs": found.log_bytes,
        "counted by the status": ", ".join(f"{kind} {n}" for kind, n in found.malformed.items()) or 0,
        "memory, MB more": ", ".join(f"{name} {size / 1e6:+.0f}" for name, size in found.grown_bytes.items()),
        "good frames: published, lost, twice, wrong": (
            f"{found.tally['published']}, {len(found.tally['lost'])}, {len(found.tally['twice'])}, "
            f"{len(found.tally['wrong'])}"
        ),
        "good frames: published again": found.tally["published_again"],
        "longest silence, s": f"{found.longest_silence_s:.2f}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
    for line in [*found.problems, *found.crashes[:10]]:
        console.print(line, style="red", markup=False, highlight=False)
    if found.logs:
        console.print(f"logs: {found.logs}", highlight=False)


if __name__ == "__main__":
    sys.exit(interruptible(main, Console()))
