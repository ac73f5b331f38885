"""The NATS back end keeps the contract on uvloop too: its transports and buffers behave differently."""

from __future__ import annotations

import asyncio

import uvloop

from tests.contract.test_nats import TestNats as OnAsyncio
from tests.contract.test_nats_tls import TestNatsOverTls as OverTls


class TestNatsOnUvloop(OnAsyncio):
    """Run on uvloop by `pytest_asyncio_loop_factories` in conftest.py."""

    async def test_this_is_uvloop(self) -> None:
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


class TestNatsOverTlsOnUvloop(OverTls):
    """Its TLS is uvloop's own."""
