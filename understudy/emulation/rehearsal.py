"""A whole run: make the project, start it, stream frames, let things go wrong, and tell what came of it."""

from __future__ import annotations

import secrets
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from broker.folder import TemporaryFolder
from understudy.emulation import engine
from understudy.emulation.engine import Stack
from understudy.emulation.errors import EmulationError
from understudy.emulation.preparation import Wishes, prepare, sources_folder
from understudy.emulation.project import IMAGE, Place
from understudy.emulation.report import Outcome
from understudy.emulation.run import Run, Say

_PREFIX = "understudy-emulation-"
_KEPT_PREFIX = "understudy-kept-"
"""Another one: folders of the first are removed with the process that made them, or by the next one."""


async def rehearse(wishes: Wishes, say: Say) -> Outcome:
    """Everything, from the image to the removal of the last container.

    Raises:
        EmulationError: there is no engine, or the cluster does not come up.
    """
    async with emulated(wishes, say) as run:
        say(f"ready after {run.outcome.ready_s:.0f} s; streaming frames ...")
        await run.play()
    return run.outcome


@asynccontextmanager
async def emulated(wishes: Wishes, say: Say) -> AsyncIterator[Run]:
    """A cluster that is up and ready for frames; its containers are removed at the end. Raises EmulationError."""
    await engine.check_engine()
    if wishes.image is None:
        await build_image(wishes.sources, say)
    async with AsyncExitStack() as stack:
        if wishes.keep:
            parent = Path(tempfile.mkdtemp(prefix=_KEPT_PREFIX))
        else:
            parent = stack.enter_context(TemporaryFolder.make(_PREFIX)).path
        place = Place(name=f"understudy-{secrets.token_hex(4)}", subnet=await _free_subnet(), port=_free_port())
        # Of its name: the containers' files are mounted from there.
        folder = parent / place.name
        folder.mkdir()
        prepared = await prepare(wishes, folder, place)
        layout = prepared.layout
        began_s = time.monotonic()
        containers = await stack.enter_async_context(Stack(layout, folder, keep=wishes.keep))
        remove = f"docker compose -p {layout.name} down --volumes"
        stack.callback(say, f"kept: {folder}; {remove}" if wishes.keep else "removing the containers ...")
        what = f"{len(layout.cluster.nodes)} nodes ({layout.cluster.topology}), a controller and a hub"
        say(f"starting {layout.name}: {what} ...")
        await containers.start()
        run = Run(prepared, wishes, containers, say)
        stack.push_async_callback(run.close)
        await run.open()
        prepared.outcome.ready_s = time.monotonic() - began_s
        yield run


async def build_image(sources: Path | None, say: Say) -> None:
    """From `sources`, or the checkout that this package is part of. Raises EmulationError where there is none."""
    sources = sources or sources_folder()
    if sources is None:
        raise EmulationError("the image is built from the sources, which are not here: use a checkout, or --image")
    say("building the image (minutes the first time, seconds when only the code has changed) ...")
    await engine.build(sources, IMAGE)


async def _free_subnet() -> str:
    used = await engine.used_subnets()
    free = (f"10.{second}.{third}" for second in (213, 214, 215) for third in range(256))
    return next(subnet for subnet in free if subnet not in used)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
