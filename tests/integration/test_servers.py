"""`understudy up --servers 3`: any of the brokers may end under a running pipeline."""

from __future__ import annotations

import asyncio
import json

import psutil

import understudy
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, eventually, is_called

FRAMES = 400
SOON_S = 20.0


async def brokers(shell: Shell) -> tuple[int, ...]:
    """What `understudy up` has noted."""
    [note] = shell.run_dir.glob("*.json")
    return tuple(json.loads(note.read_text())["broker_pids"])


async def state(shell: Shell) -> str:
    outcome = await asyncio.to_thread(shell.run, "status", "--json")
    return str(json.loads(outcome.out)["state"]) if outcome.code == 0 else outcome.err


async def test_each_broker_dies_in_turn_and_every_frame_is_answered_once(shell: Shell, digits: Digits) -> None:
    with shell.up("--nodes", "4", "--servers", "3") as running:
        assert len(running.url.split(",")) == 3
        assert sum(is_called(process, "nats-server") for process in running.family()) == 3
        before = await brokers(shell)
        answered: list[tuple[str, int | None]] = []
        done = asyncio.Event()

        async def stream() -> None:
            """What a client does, until all is over."""
            async with understudy.connect(running.url, "digits", timeout_s=20.0) as client:
                while not done.is_set():
                    async for result in client.stream(digits.frames[:FRAMES], window=8):
                        answered.append((result.id, result.class_index))

        streaming = asyncio.create_task(stream())
        try:
            for number in (1, 2, 3):
                count = len(answered)
                outcome = await asyncio.to_thread(shell.run, "fault", "kill", f"broker{number}")
                assert outcome.code == 0
                assert f"killed broker 'broker{number}'" in outcome.out
                await eventually(
                    lambda: asyncio.sleep(0, len(answered)),
                    lambda now, count=count: now > count + 100,
                    within_s=SOON_S,
                    what="a hundred more answers",
                )
                # Started again, at its old port: as another process.
                await eventually(
                    lambda: brokers(shell),
                    lambda pids, number=number: (
                        pids[number - 1] != before[number - 1] and psutil.pid_exists(pids[number - 1])
                    ),
                    within_s=SOON_S,
                    what="the broker's return",
                )
        finally:
            done.set()
        await streaming
        ids = [frame_id for frame_id, _ in answered]
        assert len(set(ids)) == len(ids)
        right = sum(label == digits.labels[number % FRAMES] for number, (_, label) in enumerate(answered))
        assert right / len(answered) >= 0.97
        await eventually(
            lambda: state(shell), lambda seen: seen == "running", within_s=SOON_S, what="a pipeline that runs"
        )
        running.interrupt()
        assert running.wait() == 0
        assert "Traceback" not in running.log.read_text()
    assert shell.left_behind() == []


def test_which_of_several_brokers_must_be_said(shell: Shell) -> None:
    with shell.up("--nodes", "1", "--servers", "2"):
        for name in ("broker", "broker3", "broker0"):
            outcome = shell.run("fault", "kill", name)
            assert outcome.code == 2
            assert "has 2 brokers: name one of broker1 to broker2" in outcome.err


def test_several_servers_and_another_broker_are_not_both_possible(shell: Shell) -> None:
    outcome = shell.run("up", "--servers", "2", "--broker", "nats://127.0.0.1:1")
    assert outcome.code == 2
    assert "servers is for the embedded broker" in outcome.err
