"""Durable delivery: the frames of a pipeline are stored before anything is promised, and given to the head until it has
acknowledged them.

Two streams: one stores what is published on the input subject, and forgets a frame when it is acknowledged; the other
stores the results. One consumer delivers the stored frames to the subject `feed`, which the head and its standby hear,
as they hear the input subject otherwise.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from broker import subjects
from broker.control import StoreSettings
from broker.errors import BrokerError, UnderstudyError
from broker.jetstream import NO_ROOM, JetStream, JetStreamRefusedError
from broker.port import Broker

log = structlog.get_logger("understudy.head")

CONSUMER = "head"

ACK_WAIT_S = 30.0
"""A frame that is not acknowledged after so long is delivered again: its acknowledgement was lost."""

DUPLICATE_WINDOW_S = 120.0
"""A frame, or a result, of an id that was stored within this time is not stored again."""

RETRY_S, RETRY_MAX_S = 0.05, 1.0


class NoRoomError(UnderstudyError):
    """The broker cannot reserve the space that the streams may take."""


class Feed:
    """Of one pipeline. `open` in the background; frames come to `subject`."""

    def __init__(self, broker: Broker, pipeline: str, settings: StoreSettings) -> None:
        self._streams = JetStream(broker)
        self._pipeline = pipeline
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def open(self, *, window: int, anew: bool) -> None:
        """Have frames delivered, as soon as the broker can.

        Args:
            window: of the pipeline; twice as many frames are delivered and not acknowledged at most.
            anew: deliver again what was delivered and is not acknowledged.
        """
        self.close()
        self._task = asyncio.create_task(self._open_when_possible(window, anew=anew), name="feed")

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _open_when_possible(self, window: int, *, anew: bool) -> None:
        pause_s, said = RETRY_S, ""
        while True:
            try:
                await self._open(window, anew=anew)
                log.info("feed-open", pipeline=self._pipeline, anew=anew)
                return
            except (BrokerError, UnderstudyError) as error:
                if str(error) != said:
                    log.warning("feed-not-open", reason=str(error), hint="it is tried again")
                said = str(error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def make_streams(self) -> None:
        """From now on what is published is stored.

        Raises:
            NoJetStreamError: the broker stores nothing.
            NoRoomError: it has too little space.
            BrokerError: it does not answer, or refuses.
        """
        for stream, config in stream_configs(self._pipeline, self._settings).items():
            try:
                await self._streams.ensure_stream(stream, config)
            except JetStreamRefusedError as error:
                if error.code == NO_ROOM:
                    raise NoRoomError(f"{error}: {_room(self._settings)}") from error
                raise

    async def _open(self, window: int, *, anew: bool) -> None:
        await self.make_streams()
        stream = subjects.input_stream(self._pipeline)
        if anew:
            await self._streams.delete_consumer(stream, CONSUMER)
        consumer = {
            "deliver_subject": subjects.feed(self._pipeline),
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * 1e9),
            "max_ack_pending": 2 * window,
        }
        await self._streams.ensure_consumer(stream, CONSUMER, consumer)


def _room(settings: StoreSettings) -> str:
    return (
        f"it reserves input_limit ({settings.input_bytes} bytes) and result_limit ({settings.result_bytes} bytes) "
        "at once: lower them, or give its store (max_file_store, the disk) more"
    )


def stream_configs(pipeline: str, settings: StoreSettings) -> dict[str, dict[str, Any]]:
    """The streams of a pipeline, by name, as JetStream takes them."""
    common = {
        "storage": "file",
        "num_replicas": settings.replicas,
        "duplicate_window": int(DUPLICATE_WINDOW_S * 1e9),
    }
    return {
        subjects.input_stream(pipeline): {
            **common,
            "subjects": [subjects.frames_in(pipeline)],
            # A frame is forgotten when it is acknowledged; when the store is full its publisher hears of it.
            "retention": "workqueue",
            "discard": "new",
            "max_bytes": settings.input_bytes,
        },
        subjects.result_stream(pipeline): {
            **common,
            "subjects": [subjects.results_out(pipeline)],
            "retention": "limits",
            "discard": "old",
            "max_bytes": settings.result_bytes,
            "max_age": int(max(settings.result_age_s, DUPLICATE_WINDOW_S) * 1e9),
        },
    }
