"""A controller's term of office: it serves while it holds the pipeline's lease, and stands by otherwise."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Coroutine
from typing import Any

import structlog

from broker.errors import BrokerError, NoRespondersError
from broker.lease import RENEW_S, Lease, NoLeaseError
from broker.port import Broker

log = structlog.get_logger("understudy.controller")

ASK_S = 0.2
"""How often a controller that stands by asks for the lease."""


class Term:
    """`begin` returns when the lease is ours, `serve` runs the service until it is not any more. Without a lease (a
    broker that keeps none) the term begins at once and does not end."""

    def __init__(self, lease: Lease | None) -> None:
        self._lease = lease
        self._held = False

    @classmethod
    async def open(cls, broker: Broker, pipeline: str, *, needed: bool) -> Term:
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
        return cls(lease)

    @property
    def held(self) -> bool:
        """Whether the lease is ours, as far as we know."""
        return self._held

    async def try_begin(self) -> bool:
        """Whether the lease is ours. Without leases nobody can tell: False."""
        if self._lease is None:
            return False
        self._held = self._held or await self._acquire(self._lease)
        return self._held

    async def _acquire(self, lease: Lease) -> bool:
        try:
            return await lease.try_acquire()
        except NoRespondersError:
            # The bucket is gone: the server was started anew.
            await lease.prepare()
            return await lease.try_acquire()

    async def begin(self) -> None:
        """Wait for the lease."""
        if self._lease is None:
            return
        if not await self._try():
            log.info("controller-stands-by")
        while not self._held:
            await asyncio.sleep(ASK_S)
            await self._try()
        log.info("controller-has-the-lease")

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

    async def _try(self) -> bool:
        try:
            return await self.try_begin()
        except BrokerError as error:
            log.debug("lease-not-asked", reason=str(error))
            return False

    async def _watch(self) -> None:
        """Renew; return when somebody else has the lease."""
        if self._lease is None:
            await asyncio.Event().wait()
            return
        while self._held:
            await asyncio.sleep(RENEW_S)
            try:
                self._held = await self._renew(self._lease)
            except BrokerError as error:
                # Nobody else can get it either. Epochs keep two controllers from disturbing each other.
                log.warning("lease-not-renewed", reason=str(error))

    async def _renew(self, lease: Lease) -> bool:
        try:
            return await lease.renew() or await lease.try_acquire()
        except NoRespondersError:
            return await self._acquire(lease)

    async def _give_back(self, lease: Lease) -> None:
        try:
            await lease.release()
        except BrokerError as error:
            log.debug("lease-not-released", reason=str(error))
