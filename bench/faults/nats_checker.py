"""The checker over NATS: nats-py and JSON."""

from __future__ import annotations

import contextlib
import time

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from bench.faults.checker import ID_HEADER, Checker
from bench.faults.tally import Frame


class NatsChecker(Checker):
    """See `Checker`. A frame has its id in a header, and a reply subject."""

    _connection: Client

    async def _connect(self) -> None:
        async def lost() -> None:
            self._lost()

        async def back() -> None:
            self._note_outage()

        async def ignore(_: Exception) -> None:
            return None

        self._connection = await nats.connect(
            self._url.split(","),
            name="chaos-checker",
            reconnect_time_wait=0.02,
            max_reconnect_attempts=-1,
            connect_timeout=1,
            ping_interval=1,
            max_outstanding_pings=2,
            disconnected_cb=lost,
            reconnected_cb=back,
            error_cb=ignore,
        )
        self._stack.push_async_callback(self._connection.close)
        await self._listen()
        await self._connection.flush()

    async def _listen(self) -> None:
        await self._connection.subscribe(f"understudy.{self._pipeline}.out", cb=self._on_out)
        await self._connection.subscribe(f"{self._inbox}.*.*", cb=self._on_reply)

    async def _on_out(self, message: Msg) -> None:
        self._hear_result(message.data)

    async def _on_reply(self, message: Msg) -> None:
        _, token, number = message.subject.rsplit(".", 2)
        self._hear_reply(token, number, message.data)

    async def _send(self, frame: Frame) -> None:
        frame.sent_s.append(time.monotonic())
        with contextlib.suppress(NatsError):
            await self._connection.publish(
                f"understudy.{self._pipeline}.in",
                self._images[frame.image],
                reply=f"{self._inbox}.{self._token}.{frame.number}",
                headers={ID_HEADER: f"{self._token}-{frame.number}"},
            )
