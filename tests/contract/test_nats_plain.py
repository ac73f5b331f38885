"""The NATS back end keeps the contract on a nats-py that does not have the names that the fast path needs."""

from __future__ import annotations

import pytest

from broker import nats_client, nats_fastpath
from tests.contract.test_nats import TestNats as OnFastPath


class TestNatsWithoutFastPath(OnFastPath):
    @pytest.fixture(autouse=True)
    def no_fast_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nats_client, "_fast", lambda: False)


def test_the_nats_py_installed_here_has_the_fast_path() -> None:
    assert nats_fastpath.supported()


def test_a_nats_py_with_another_signature_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(self: object, sid: int) -> None: ...

    monkeypatch.setattr("nats.aio.client.Client._process_msg", other)
    assert not nats_fastpath.supported()
