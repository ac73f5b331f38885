"""A controller's term of office: it serves while it holds the pipeline's lease, and stands by otherwise."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from broker.errors import BrokerError, NoRespondersError
from broker.lease import RENEW_S, TTL_S, Lease, NoLeaseError
from broker.port import Broker

log = structlog.get_logger("understudy.controller")

ASK_S = 0.2
"""How often a controller that stands by asks for the lease."""

AFTER_SILENCE_S = TTL_S
"""Who stands by lets who served have the lease again for so long, after it could not be asked for. Who served asks
again at the latest after `RENEW_S` and the second that its last question waits for an answer."""


async def _nobody() -> bool:
    return False


class Term:
    """`begin` returns when the lease is ours, `serve` runs the service until it is not any more. Without a lease (a
    broker that keeps none) the term begins at once and does not end.

    Who keeps the lease may not answer for seconds: its server was killed, and another one is elected. Nobody waits for
    that: who serves goes on, and where nobody serves the term begins without. Afterwards the lease decides again.
    """

    def __init__(self, lease: Lease | None, is_served: Callable[[], Awaitable[bool]] = _nobody) -> None:
        """`is_served`: whether a controller serves the pipeline, as far as can be heard."""
        self._lease = lease
        self._is_served = is_served
        self._held = False

    @classmethod
    async def open(
        cls, broker: Broker, pipeline: str, *, needed: bool, is_served: Callable[[], Awaitable[bool]] = _nobody
    ) -> Term:
        """Raises NoLeaseError where a lease is needed and the broker keeps none."""
        owner = {"id": secrets.token_hex(8), "pid": os.getpid(), "host": socket.gethostname()}
        lease = Lease(broker, pipeline, json.dumps(owner))
        try:
            await lease.prepare()
        except NoLeaseError as error:
            if needed:
                raise
            log.warning("no-lease", reason=str(error), hint="no other controller can take over from this one")
            return cls(None)
        except BrokerError as error:
            log.warning("lease-not-prepared", reason=str(error), hint="it is tried again")
        return cls(lease, is_served)

    @property
    def held(self) -> bool:
        """Whether the lease is ours, as far as we know."""
        return self._held

    async def try_begin(self) -> bool:
        """Whether the lease is ours. Without leases, or where they cannot be asked for, nobody can tell: False."""
        try:
            return await self._try_begin()
        except BrokerError as error:
            log.warning("lease-not-asked", reason=str(error))
            return False

    async def _try_begin(self) -> bool:
        if self._lease is None:
            return False
        self._held = self._held or await self._lease.try_acquire()
        return self._held

    async def _check(self, lease: Lease) -> None:
        try:
            await lease.check()
        except NoRespondersError:
            await lease.prepare()
            await lease.check()  # servers of a cluster make it also while none of them keeps it

    async def begin(self) -> None:
        """Wait for the lease; or, where nobody can say who has it, until no controller is heard."""
        if self._lease is None or self._held:
            return
        silent_since_s: float | None = None
        said = False
        while True:
            try:
                if silent_since_s is not None:
                    # Who had it may not have renewed it meanwhile: it comes first.
                    await self._check(self._lease)
                    silent_since_s = None
                    await asyncio.sleep(AFTER_SILENCE_S)
                if await self._try_begin():
                    log.info("controller-has-the-lease")
                    return
            except BrokerError as error:
                # Also where the bucket alone is gone: the server was started anew, in less time than there is between
                # two questions.
                log.debug("lease-not-asked", reason=str(error))
                now_s = time.monotonic()
                silent_since_s = silent_since_s or now_s
                if now_s - silent_since_s > TTL_S and not await self._is_served():
                    log.warning("controller-serves-without-the-lease", hint="the broker does not say who has it")
                    return
            if not said:
                said = True
                log.info("controller-stands-by")
            await asyncio.sleep(ASK_S)

    async def serve(self, service: Coroutine[Any, Any, None]) -> None:
        """Run the service; return when the lease is lost. Gives it back when cancelled."""
        running = asyncio.ensure_future(service)
        watching = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait((running, watching), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            watching.result()
            log.warning("lease-lost", hint="another controller serves now")
        finally:
            for task in (running, watching):
                task.cancel()
            await asyncio.gather(running, watching, return_exceptions=True)
            if self._held and self._lease is not None:
                self._held = False
                await self._give_back(self._lease)

    async def _watch(self) -> None:
        """Renew; return when somebody else has the lease."""
        if self._lease is None:
            await asyncio.Event().wait()
            return
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                self._held = await self._renew(self._lease)
                if not self._held:
                    return
            except BrokerError as error:
                # Nobody else can get it either. Epochs keep two controllers from disturbing each other.
                log.warning("lease-not-renewed", reason=str(error))

    async def _renew(self, lease: Lease) -> bool:
        try:
            return await lease.renew() or await lease.try_acquire()
        except NoRespondersError:
            # The bucket is gone: the server was started anew.
            await lease.prepare()
            return await lease.try_acquire()

    async def _give_back(self, lease: Lease) -> None:
        try:
            await lease.release()
        except BrokerError as error:
            log.debug("lease-not-released", reason=str(error))
