"""A process with the two connections of a node, which talks all the time: it is killed, or stopped and cut off."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from broker.port import Broker
from broker.presence import CONTROL_SUFFIX
from tests.contract.conftest import Inbox, eventually

START_S = 30.0
TALK = "talk"
MARK = b"the end"

TALKER = f"""
import asyncio, sys, uvloop
from itertools import count
from broker.connect import connect
from broker.port import Message
async def main():
    data_url, control_url, name = sys.argv[1:]
    data = await connect(data_url, name=name)
    control = await connect(control_url, name=name + "{CONTROL_SUFFIX}")
    print("ready", flush=True)
    for number in count():
        await data.publish_now([Message(subject="{TALK}", data=str(number).encode())], lambda: True)
        await asyncio.sleep(0.001)
uvloop.run(main())
"""


async def start_talker(data_url: str, control_url: str, name: str) -> asyncio.subprocess.Process:
    """It is connected twice when this returns."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TALKER, data_url, control_url, name, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    async with asyncio.timeout(START_S):
        assert await child.stdout.readline() == b"ready\n"
    return child


async def end(child: asyncio.subprocess.Process) -> None:
    child.kill()
    await child.communicate()


async def stop(pid: int) -> None:
    """Stop a process, and return when each of its threads stands still."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    await eventually(lambda: all(_is_stopped(pid, thread.id) for thread in process.threads()))


def _is_stopped(pid: int, thread: int) -> bool:
    try:
        return Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return True  # it has ended


async def check_cut_off(
    child: asyncio.subprocess.Process, listener: Broker, cut_off: Callable[[], Awaitable[bool]]
) -> None:
    """What a stopped process has on the way reaches nobody once it is cut off."""
    inbox = Inbox()
    await listener.subscribe(TALK, inbox)
    await inbox.next()
    await stop(child.pid)
    await eventually(cut_off)  # a watch may not have heard yet of who connected just now
    # Who publishes now comes after all that the broker had of the process.
    await listener.publish(TALK, MARK)
    heard = -1
    while (data := bytes((await inbox.next()).data)) != MARK:
        heard = int(data)
    child.send_signal(signal.SIGCONT)
    # It is alive after all, and connects again; nothing comes twice, and what it sent meanwhile does not come.
    later = [int(message.data) for message in await inbox.take(20)]
    assert later == list(range(later[0], later[0] + 20))
    assert later[0] > heard
