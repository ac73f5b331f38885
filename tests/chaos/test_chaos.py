"""Short, seeded forms of `python -m bench.faults`: real processes, random faults, and a stranger who counts.

A test that fails prints the timeline, what became of the frames, and the command that repeats it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.contract.mqtt_servers import mosquitto_binary

RUN_S = 280.0
"""A run gives up by itself, and says what it waits for, before this: a minute or two after its last fault."""

pytestmark = pytest.mark.timeout(RUN_S + 20)

NODES = "node-killed,node-stopped,two-nodes-killed,head-killed,head-stopped,standby-head-killed,both-heads-killed"
CONTROLLERS = "controller-killed,controller-stopped,head-and-controller-killed,controller-cache-corrupt,store-full"
NETWORK = "server-killed,server-stopped,link-cut,link-half-open,link-slow,all-delayed,node-killed"
STRANGERS = "duplicates,garbage,slow-consumer,cache-corrupt,cache-blocked,cache-full,head-killed,node-killed"


def run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, f"{' '.join(command[1:])} failed:\n{done.stdout}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize(
    ("seed", "kinds"),
    [(101, NODES), (102, CONTROLLERS), (103, NETWORK), (104, STRANGERS), (105, "")],
    ids=["nodes and heads", "controllers", "broker and links", "strangers and disks", "everything"],
)
def test_no_frame_is_lost_answered_twice_or_wrong_without_a_word(seed: int, kinds: str) -> None:
    arguments = ["--frames", "1000", "--faults", "12", "--every", "1.2s", "--seed", str(seed)]
    run("bench.faults", *arguments, *(["--kinds", kinds] if kinds else []))


def test_over_mqtt_either() -> None:
    mosquitto_binary()
    arguments = ["--broker", "mosquitto", "--frames", "500", "--faults", "10", "--every", "1s", "--seed", "108"]
    run("bench.faults", *arguments)


def test_garbage_on_every_subject_is_counted_and_harms_nobody() -> None:
    run("bench.faults.garbage", "--messages", "10000", "--rate", "1500", "--seed", "106")


def test_no_process_leaks_under_load_and_faults() -> None:
    run("bench.faults", "--minutes", "1", "--every", "5s", "--load", "0.5", "--most-mb", "20", "--seed", "107")
