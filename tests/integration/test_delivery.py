"""What is promised of frames, as somebody sees it who has plain nats-py: stored ones outlive everything but the disk,
live video is never late, an order is restored."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import APIError

import understudy
from bench.faults.space import SmallDisk, SpaceError
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, Up, eventually, is_called
from tests.integration.stranger import stranger

SOON_S = 20.0
PACE_S = 0.004
"""Between two frames: a pipeline on a busy machine can follow."""

DEGRADED = {"standby", "stand-in", "skip", "exit"}
IN, RESULTS = "understudy.digits.in", "understudy_out_digits"


@dataclass(slots=True)
class Depositor:
    """Publishes frames until the broker says that they are stored. Nobody reads results meanwhile."""

    connection: Client
    digits: Digits
    promised: dict[str, int] = field(default_factory=dict)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Frames are published all the time."""
        enough = asyncio.Event()

        async def publish() -> None:
            while not enough.is_set():
                await self.publish(f"frame-{len(self.promised)}", len(self.promised) % 400)
                await asyncio.sleep(PACE_S)

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            try:
                yield
            finally:
                enough.set()

    async def publish(self, frame_id: str, digit: int) -> None:
        """The same name again where the word of the broker was lost: it is stored once."""
        stream = self.connection.jetstream(timeout=1)
        while True:
            try:
                await stream.publish(IN, self.digits.frames[digit], headers={"Nats-Msg-Id": frame_id})
            except (nats.errors.Error, APIError, TimeoutError):
                await asyncio.sleep(0.02)
            else:
                self.promised[frame_id] = self.digits.labels[digit]
                return

    async def more(self, count: int) -> None:
        wanted = len(self.promised) + count
        await eventually(
            self._count, lambda promised: promised >= wanted, within_s=SOON_S, what=f"{count} more stored frames"
        )

    async def _count(self) -> int:
        return len(self.promised)

    async def results(self) -> list[dict[str, Any]]:
        """Wait until nothing waits any more, and read what is stored: as somebody who comes late."""
        await eventually(self.waiting, lambda waiting: waiting == 0, within_s=SOON_S, what="all frames answered")
        stream = self.connection.jetstream()
        stored = (await stream.stream_info(RESULTS)).state.messages
        subscription = await stream.subscribe("understudy.digits.out", stream=RESULTS, ordered_consumer=True)
        return [json.loads((await subscription.next_msg(timeout=SOON_S)).data) for _ in range(stored)]

    async def waiting(self) -> int:
        try:
            return int((await self.connection.jetstream().stream_info("understudy_in_digits")).state.messages)
        except (nats.errors.Error, APIError, TimeoutError):
            return -1

    async def check(self) -> list[dict[str, Any]]:
        """Every promised frame has one stored result; nearly all are right, and the others are labelled."""
        results = await self.results()
        counted = Counter(result["id"] for result in results)
        assert set(self.promised) - set(counted) == set()
        assert {name: count for name, count in counted.items() if count != 1} == {}
        assert [result["error"] for result in results if result["error"]] == []
        right = sum(result["class_index"] == self.promised.get(result["id"]) for result in results)
        assert right / len(results) >= 0.97
        assert {result["technique"] for result in results} <= DEGRADED | {"none"}
        return results


@asynccontextmanager
async def depositor(url: str, digits: Digits) -> AsyncIterator[Depositor]:
    connection = await nats.connect(
        url, reconnect_time_wait=0.02, max_reconnect_attempts=-1, error_cb=_ignore, connect_timeout=1
    )
    try:
        yield Depositor(connection, digits)
    finally:
        await connection.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        disk = SmallDisk.mount(tmp_path / "disk", size_bytes=32 << 20)
    except SpaceError as error:
        pytest.skip(str(error))
    yield disk
    disk.unmount()


async def _ignore(error: Exception) -> None:
    """Connections are lost on purpose."""


def nodes(up: Up) -> dict[str, int]:
    """The processes of the nodes, in the order of their stages."""
    placed = [(node["stages"][0], node["name"], node["pid"]) for node in up.document["nodes"] if node["stages"]]
    return {name: pid for _, name, pid in sorted(placed)}


def broker_pid(up: Up) -> int:
    return next(process.pid for process in up.family() if is_called(process, "nats-server"))


@pytest.mark.parametrize("position", [0, 1, 3], ids=["the head", "its standby", "the last stage"])
async def test_stored_frames_are_answered_once_whoever_is_killed(shell: Shell, digits: Digits, position: int) -> None:
    with shell.up("--nodes", "4", "--delivery", "durable") as up:
        async with depositor(up.url, digits) as own:
            async with own.publishing():
                await own.more(100)
                os.kill(list(nodes(up).values())[position], signal.SIGKILL)
                await own.more(100)
            await own.check()


async def test_a_head_that_was_stopped_adds_no_second_result(shell: Shell, digits: Digits) -> None:
    with shell.up("--nodes", "3", "--delivery", "durable") as up:
        async with depositor(up.url, digits) as own:
            async with own.publishing():
                await own.more(100)
                head = next(iter(nodes(up).values()))
                os.kill(head, signal.SIGSTOP)
                try:
                    await own.more(100)
                    await eventually(own.waiting, lambda waiting: waiting < 20, within_s=SOON_S, what="a new head")
                finally:
                    os.kill(head, signal.SIGCONT)
                await own.more(100)
            await own.check()


async def test_stored_frames_outlive_the_broker(shell: Shell, digits: Digits, tmp_path: Path) -> None:
    """And a pipeline that is not there yet: what was promised before is answered when it comes."""
    from broker.server import NatsServer

    async with await NatsServer.start() as server, depositor(server.operator_url, digits) as own:
        async with own.publishing():
            with shell.up("--nodes", "2", "--delivery", "durable", "--broker", server.operator_url):
                await own.more(50)
                await server.kill()
                await server.restart()
                await own.more(50)
            await own.more(50)  # nobody is there to answer
        await server.kill()
        await server.restart()
        with shell.up("--nodes", "2", "--delivery", "durable", "--broker", server.operator_url):
            results = await own.check()
        assert len(results) >= 150


async def test_the_client_library_gets_each_result_once_though_the_broker_is_killed(
    shell: Shell, digits: Digits
) -> None:
    from broker.server import NatsServer

    for mode in ("at-least-once", "durable"):
        async with await NatsServer.start() as server:
            with shell.up("--nodes", "2", "--delivery", mode, "--broker", server.operator_url):
                async with understudy.connect(server.operator_url, "digits", window=16) as client:
                    seen: list[understudy.Result] = []
                    async for result in client.stream(digits.frames):
                        seen.append(result)
                        if len(seen) in (100, 200):
                            await server.kill()
                            await server.restart()
                assert [result.error for result in seen if result.error] == []
                right = sum(r.class_index == label for r, label in zip(seen, digits.labels, strict=True))
                assert right >= 0.97 * len(digits.labels)


async def test_stored_frames_outlive_up_where_it_has_a_folder(shell: Shell, digits: Digits) -> None:
    (shell.folder / "kept.yaml").write_text(
        "nodes: 2\ndelivery: {mode: durable, folder: frames, sync_interval: 1s, input_limit: 10 MB}\n"
    )
    with shell.up("--config", "kept.yaml") as up:
        for pid in nodes(up).values():
            os.kill(pid, signal.SIGKILL)
        async with depositor(up.url, digits) as own:
            for number in range(20):
                await own.publish(f"frame-{number}", number)
            promised = own.promised
    with shell.up("--config", "kept.yaml") as up:
        async with depositor(up.url, digits) as own:
            own.promised = promised
            assert len(await own.check()) == 20


async def test_a_full_store_refuses_its_publisher_and_loses_nothing(shell: Shell, digits: Digits) -> None:
    (shell.folder / "small.yaml").write_text("nodes: 2\ndelivery: {mode: durable, input_limit: 20 KB}\n")
    with shell.up("--config", "small.yaml") as up:
        for pid in nodes(up).values():
            os.kill(pid, signal.SIGSTOP)
        async with depositor(up.url, digits) as own:
            stream = own.connection.jetstream()
            with pytest.raises(APIError, match="maximum bytes exceeded"):
                for number in range(400):
                    await stream.publish(IN, digits.frames[number], headers={"Nats-Msg-Id": f"frame-{number}"})
                    own.promised[f"frame-{number}"] = digits.labels[number]
            assert own.promised
            for pid in nodes(up).values():
                os.kill(pid, signal.SIGCONT)
            await own.check()
            # Who uses the client library waits for room instead.
            async with understudy.connect(up.url, "digits") as client:
                results = [result async for result in client.stream(digits.frames)]
            assert [result.error for result in results if result.error] == []


async def test_a_disk_that_was_full_loses_nothing_and_is_used_again(
    shell: Shell, digits: Digits, small_disk: SmallDisk
) -> None:
    settings = f"{{mode: durable, folder: {small_disk.folder}, input_limit: 4 MB, result_limit: 4 MB}}"
    (shell.folder / "disk.yaml").write_text(f"nodes: 2\ndelivery: {settings}\n")
    with shell.up("--config", "disk.yaml") as up:
        async with depositor(up.url, digits) as own:
            async with own.publishing():
                await own.more(50)
                small_disk.fill()
                await asyncio.wait_for(not_stored(own), SOON_S)
                small_disk.empty()
                await own.more(50)
            await own.check()


async def not_stored(own: Depositor) -> None:
    """Until a frame of its own is refused, or not answered."""
    with contextlib.suppress(nats.errors.Error, APIError, TimeoutError):
        for number in itertools.count():
            headers = {"Nats-Msg-Id": f"too-many-{number}"}
            await own.connection.jetstream(timeout=1).publish(IN, own.digits.frames[0], headers=headers)
            own.promised[f"too-many-{number}"] = own.digits.labels[0]


async def test_stored_frames_without_a_name_are_each_answered_once(shell: Shell, digits: Digits) -> None:
    with shell.up("--nodes", "2", "--delivery", "durable") as up:
        async with depositor(up.url, digits) as own:
            for _ in range(20):
                await own.connection.publish(IN, digits.frames[0])  # without asking whether it is stored
            await own.connection.flush()
            results = await own.results()
            assert len({result["id"] for result in results}) == 20


async def test_of_live_video_the_newest_frame_is_answered_and_older_ones_are_counted(
    shell: Shell, digits: Digits
) -> None:
    with shell.up("--nodes", "2", "--delivery", "latest") as up:
        async with stranger(up.url, "digits") as own:
            for number in range(2000):
                await own.publish(digits.frames[number % 400], f"frame-{number}")
            last = await own.result("frame-1999")
            assert last["error"] is None
            answered = {result["id"] for result in own.results}
            assert len(answered) < 2000

            async def counted() -> tuple[int, int]:
                status = json.loads((await asyncio.to_thread(shell.run, "status", "--json")).out)
                return status["superseded"], status["waiting"]

            # The next heartbeat brings it.
            wanted = (2000 - len(answered), 0)
            await eventually(counted, lambda seen: seen == wanted, within_s=SOON_S, what=f"a status with {wanted}")
            # Who asks for a result is told that there will be none.
            async with understudy.connect(up.url, "digits") as client:
                results = [result async for result in client.stream(digits.frames, window=200)]
            codes = Counter(None if result.error is None else result.error.code for result in results)
            assert set(codes) == {None, "superseded"}


async def test_results_come_in_the_order_of_their_frames_though_a_node_is_killed(shell: Shell, digits: Digits) -> None:
    (shell.folder / "ordered.yaml").write_text("nodes: 4\ndelivery: {ordered: true}\n")

    async def prepared() -> bool:
        status = json.loads((await asyncio.to_thread(shell.run, "status", "--json")).out)
        return bool(status["prepared"])

    with shell.up("--config", "ordered.yaml") as up:
        await eventually(prepared, lambda seen: seen, within_s=SOON_S, what="a way around each failure")
        async with stranger(up.url, "digits") as own:
            for number in range(1200):
                if number == 400:
                    os.kill(list(nodes(up).values())[2], signal.SIGKILL)
                await own.publish(digits.frames[number % 400], f"frame-{number}")
                if number % 16 == 0:
                    await own.result(f"frame-{max(0, number - 32)}")
            await own.result("frame-1199")
            ids = [result["id"] for result in own.results]
            assert ids == [f"frame-{number}" for number in range(1200)]
            assert any(result["technique"] != "none" for result in own.results)


def test_durable_delivery_needs_a_broker_that_stores(shell: Shell, without_jetstream: str) -> None:
    done = shell.run("up", "--nodes", "1", "--delivery", "durable", "--broker", without_jetstream)
    assert done.code == 2
    assert "JetStream" in done.err
    assert "-js" in done.err


def test_a_store_that_is_too_small_is_refused_and_the_settings_are_named(shell: Shell) -> None:
    refused = shell.run("up", "--nodes", "1", "--delivery", '{"mode": "durable", "input_limit": "9000000GB"}')
    assert refused.code == 2
    assert "input_limit" in refused.err
    assert "result_limit" in refused.err


def test_a_mode_that_there_is_not_is_refused(shell: Shell) -> None:
    done = shell.run("up", "--delivery", "exactly-once")
    assert done.code == 2
    assert "at-least-once" in done.err
    assert "durable" in done.err
