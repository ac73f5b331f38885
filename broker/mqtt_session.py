"""A connection to an MQTT broker that is made again whenever it is lost, with what it is to receive and to send.

aiomqtt 2.x has no reconnect of its own; paho's would send what it still holds at any later time, also what must not
come out late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

from broker.dispatch import tell
from broker.errors import BrokerClosedError, BrokerError, BrokerUnreachableError
from broker.mqtt_link import Link, LinkCutOffError, LinkError, LinkRefusedError, LinkSettings, LinkTlsError, OnMessage
from broker.mqtt_outbox import Outbox, Outgoing
from broker.port import ConnectionListener
from broker.tls import MOST_CUT_OFF, cut_off
from broker.url import BrokerUrl

BACKPRESSURE_BYTES = 4 * 1024 * 1024
"""Above this, `publish` waits: enough to keep a link busy, little enough that a frame is not old when it leaves."""

OUTBOUND_BUFFER_BYTES = 32 * 1024 * 1024
MAX_UNCONFIRMED = 1024
RECONNECT_WAIT_S = 0.01
RECONNECT_WAIT_MAX_S = 0.25
CLOSE_TIMEOUT_S = 2.0

_log = structlog.get_logger(__name__)


class MqttSession:
    """`connect` makes the first connection, `close` ends the last one.

    Of several servers the first that answers is used; when it goes away, they are tried in turn.

    Args:
        filters: what the broker is asked for at the moment; raises BrokerError where they overlap.
        on_message: see `broker.mqtt_link.OnMessage`.
    """

    def __init__(
        self, url: BrokerUrl, settings: LinkSettings, *, filters: Callable[[], set[str]], on_message: OnMessage
    ) -> None:
        self._url = url
        self._settings = settings
        self._filters = filters
        self._on_message = on_message
        self._subscribing = asyncio.Lock()
        self._outbox = Outbox()
        self._room = asyncio.Event()
        self._sending_soon = False
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.closed = False
        self.listeners: list[ConnectionListener] = []

    @property
    def connected(self) -> bool:
        return self._up.is_set() and not self.closed and self._link is not None and not self._link.is_lost

    async def connect(self, timeout_s: float) -> None:
        """Raises BrokerUnreachableError where no server answers in time, or one refuses this client."""
        why, in_a_row = "timed out", 0
        try:
            async with asyncio.timeout(timeout_s):
                for pause_s in _pauses():
                    try:
                        self._link = await self._open()
                        break
                    except LinkRefusedError as error:
                        raise BrokerUnreachableError(
                            f"authorization failed at {self._url}: the broker is there and refused us ({error})"
                        ) from error
                    except LinkTlsError as error:
                        raise BrokerUnreachableError(f"no connection to {self._url}: {error}") from error
                    except LinkError as error:
                        why = str(error)
                        in_a_row = in_a_row + 1 if isinstance(error, LinkCutOffError) else 0
                    if in_a_row >= MOST_CUT_OFF and self._settings.tls is not None:
                        raise BrokerUnreachableError(f"no connection to {self._url}: {cut_off(self._url.options)}")
                    await asyncio.sleep(pause_s)
        except TimeoutError as error:
            raise BrokerUnreachableError(
                f"no broker answers at {self._url} ({why}): start one, or check --broker"
            ) from error
        self._up.set()
        self._task = asyncio.create_task(self._stay_connected(), name=f"mqtt {self._url}")

    async def close(self) -> None:
        """Say goodbye. Whoever waits for something finds the session closed."""
        self.closed = True
        self._up.set()
        self._room.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
        if self._link is not None:
            await self._link.close()

    def check_open(self) -> None:
        """Raises BrokerClosedError after `close`."""
        if self.closed:
            raise BrokerClosedError(f"the connection to {self._url} is closed")

    async def wait_up(self) -> None:
        """Wait until the connection is there."""
        await self._up.wait()
        self.check_open()

    # ---- sending -----------------------------------------------------------------------------------------------

    async def send(self, outgoing: Outgoing) -> None:
        """Put a message in the outbound buffer; waits while that is full and the connection is up.

        Raises:
            BrokerClosedError: `close` was called.
            BrokerError: not connected, and the buffer is full.
        """
        while self.connected and self._outbox.size_bytes > BACKPRESSURE_BYTES:
            await self._wait_for_room()
        self.check_open()
        if not self.connected and self._outbox.size_bytes + outgoing.size_bytes > OUTBOUND_BUFFER_BYTES:
            raise BrokerError(f"not connected to {self._url}, and the outbound buffer is full")
        self._outbox.put(outgoing)
        self._send_waiting()
        # A publisher in a loop would otherwise never let the connection be read.
        await asyncio.sleep(0)

    async def send_now(self, outgoing: Sequence[Outgoing], condition: Callable[[], bool]) -> bool:
        """See `broker.port.Broker.publish_now`."""
        while self.connected and self._link is not None and (self._link.unwritten or self._outbox.waiting):
            await (self._wait_for_room() if self._outbox.waiting else self._link.written())
        if not self.connected or not condition():
            return False
        for one in outgoing:
            self._outbox.put(one)
        self._send_waiting(at_once=True)
        return True

    async def until_back(self, outgoing: Outgoing, back: asyncio.Future[Any]) -> bool:
        """Send a message to ourselves and wait for `back`; False if the connection was lost meanwhile."""
        link = self._link
        if link is None or not self._up.is_set():
            return False
        lost = asyncio.ensure_future(link.lost())
        try:
            await self.send(outgoing)
            await asyncio.wait((back, lost), return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and link is self._link:
                self._up.clear()  # known here before it is told: the wait for `_up` must not return at once
        finally:
            lost.cancel()
        return back.done() and link is self._link and self.connected

    def _send_waiting(self, *, at_once: bool = False) -> None:
        """Send what waits, as far as the broker keeps up; with `at_once` all of it."""
        link, outbox = self._link, self._outbox
        if link is None or not self.connected:
            return
        while outbox.waiting and (at_once or outbox.sent < MAX_UNCONFIRMED):
            one = outbox.waiting.popleft()
            outbox.note_sent(link.send(one.topic, one.payload, qos=one.qos, retain=one.retain), one)
        link.write()

    def _on_confirmed(self, number: int) -> None:
        self._outbox.confirm(number)
        self._room.set()
        if self._outbox.waiting and not self._sending_soon:
            self._sending_soon = True
            asyncio.get_running_loop().call_soon(self._send_more)

    def _send_more(self) -> None:
        self._sending_soon = False
        self._send_waiting()

    async def _wait_for_room(self) -> None:
        """Wait until something was confirmed, or the connection is lost or closed."""
        self._room.clear()
        await self._room.wait()

    # ---- receiving ---------------------------------------------------------------------------------------------

    async def subscribe(self) -> None:
        """Return when the broker knows of all `filters`; waits while it is away.

        Raises:
            BrokerError: it refuses one, or they overlap.
        """
        while True:
            self._filters()
            await self.wait_up()
            with contextlib.suppress(LinkError):
                await self._align()
                return
            await asyncio.sleep(RECONNECT_WAIT_S)

    async def unsubscribe(self) -> None:
        """The same, of less; where the broker is away it need not be told."""
        if self.connected:
            # A failure leaves a filter too many, whose messages are for nobody here.
            with contextlib.suppress(BrokerError, LinkError):
                await self._align()

    async def _align(self) -> None:
        """Raises LinkError where the connection is lost meanwhile, BrokerError where the broker refuses."""
        async with self._subscribing:
            link = self._link
            if link is None:
                raise LinkError("not connected")
            wanted = self._filters()
            # In this order: for a moment nothing comes, rather than everything twice.
            await link.unsubscribe(link.filters - wanted)
            await link.subscribe(wanted)

    # ---- the connection ----------------------------------------------------------------------------------------

    async def _open(self) -> Link:
        """A connection to the first server that takes it, with all subscriptions. Raises LinkError."""
        failure = LinkError("there is no server")
        for server in self._url.servers:
            try:
                link = await Link.open(
                    server, self._settings, on_message=self._on_message, on_confirmed=self._on_confirmed
                )
            except LinkError as error:
                failure = error
                continue
            try:
                await link.subscribe(self._filters())
            except BaseException as error:
                await link.close()
                if not isinstance(error, BrokerError):
                    raise
                # Refused: those that are there were granted before, and may be again.
                raise LinkError(str(error)) from error
            return link
        raise failure

    async def _stay_connected(self) -> None:
        while self._link is not None:
            await self._link.lost()
            self._lose()
            await self._link.close()
            for pause_s in _pauses():
                try:
                    self._link = await self._open()
                    break
                except LinkError as error:
                    _log.debug("broker_still_away", url=str(self._url), reason=str(error))
                await asyncio.sleep(pause_s)
            await self._regain()

    def _lose(self) -> None:
        self._up.clear()
        for outgoing in self._outbox.lose():
            _log.error("message_given_up", topic=outgoing.topic, size_bytes=len(outgoing.payload))
        self._room.set()
        _log.warning("broker_disconnected", url=str(self._url))
        tell(self.listeners, False, url=str(self._url))

    async def _regain(self) -> None:
        with contextlib.suppress(BrokerError, LinkError):
            # What was subscribed to, or not any more, since the connection was made.
            await self._align()
        self._up.set()
        self._room.set()
        self._send_waiting()
        _log.info("broker_reconnected", url=str(self._url))
        tell(self.listeners, True, url=str(self._url))


def _pauses() -> Iterator[float]:
    """Between attempts to connect: 10 ms, growing to 250 ms."""
    pause_s = RECONNECT_WAIT_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.5, RECONNECT_WAIT_MAX_S)
