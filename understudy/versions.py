"""Which version of its model a pipeline is served in: as long as a controller of it lives, the one rolled out last.

The controller that serves keeps a record of it in a key-value bucket (`broker.kv`). The others hear of it and have the
files and the model ready before they are needed: when one of them takes over, nobody else may live. The record outlives
a crash; a controller that ends in order removes it, so that a pipeline that was stopped begins with the bundle that it
is started with. Those that stand by then go by what they have heard.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import structlog

from broker.errors import BrokerError, UnderstudyError
from broker.folder import remove_stale
from broker.kv import Bucket, NoBucketError
from broker.port import Broker, Message, Subscription
from broker.roles import VERSIONS
from stages.blobs import BlobExchange, BlobStore
from stages.source import SubmodelSource
from understudy.version import FOLDER_PREFIX, Version

log = structlog.get_logger("understudy.version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the bucket holds for a pipeline.

    Attributes:
        base: SHA-256 of the manifest with which its controllers were started.
        manifest: the text of the manifest that is served.
    """

    base: str
    manifest: str

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Record | None:
        """None where it is not one."""
        try:
            document = json.loads(data)
            return cls(base=str(document["base"]), manifest=str(document["manifest"]))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("version-not-understood", reason=str(error))
            return None


class Versions:
    """A controller's part in it. `async with` listens; without JetStream a version ends with this process."""

    def __init__(
        self,
        *,
        pipeline: str,
        control: Broker,
        manifest: str,
        source: SubmodelSource,
        exchange: BlobExchange,
        store: BlobStore,
        stages: int | None,
    ) -> None:
        """
        Args:
            manifest, source: what the controller was started with.
            stages: so many are asked for; None: the planner chooses.
        """
        self._pipeline = pipeline
        self._control = control
        self._bucket: Bucket | None = Bucket(control, VERSIONS, storage="file")
        self._base = _digest(manifest)
        self._source = source
        self._exchange = exchange
        self._store = store
        self._stages = stages
        self._serving = False
        self._record: Record | None = None
        self._version: Version | None = None
        self._lock = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        assert self._bucket is not None  # noqa: S101 - only here it may become None
        # What a controller that was killed has left.
        await asyncio.to_thread(remove_stale, FOLDER_PREFIX)
        try:
            await self._bucket.prepare()
        except NoBucketError as error:
            log.debug("versions-not-kept", reason=str(error))
            self._bucket = None
            return self
        except BrokerError as error:
            log.warning("versions-not-kept", reason=str(error))
        self._subscription = await self._control.subscribe(self._bucket.subject(self._pipeline), self._on_message)
        # What was put while the connection was down, nobody has told us.
        self._control.on_connection(self._on_connection)
        self._start(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._replace(None)

    async def open(self, manifest: str) -> Version:
        """A version to roll out; close it, or have it kept. Raises what `Version.open` raises."""
        return await Version.open(manifest, exchange=self._exchange, store=self._store, stages=self._stages)

    async def keep(self, version: Version) -> None:
        """It was rolled out, and the pipeline is served in it from now on."""
        async with self._lock:
            self._record = Record(base=self._base, manifest=version.manifest)
            self._replace(version)
        await self._put(self._record)

    async def begin(self) -> SubmodelSource:
        """What to serve in a term that begins: the version that was served so far, if it is one of the bundle that
        this controller was started with and can be had; otherwise that bundle."""
        self._serving = True
        kept = await self._get()
        self._hear(kept)
        try:
            version = await self._ready()
        except (UnderstudyError, OSError) as error:
            log.warning("version-lost", reason=str(error), hint="the bundle before it is served: update again")
            self._record = version = None
        if self._record is None:
            if kept is not None:
                log.info("version-ends", hint="the bundle that the controller was started with is served")
                await self._remove()
        elif kept != self._record:
            await self._put(self._record)
        if version is None:
            return self._source
        log.info("version-goes-on", version=version.name)
        return version.source

    async def end(self, *, stopped: bool) -> None:
        """The term is over: the controller is stopped in order, or another one serves and this one stands by."""
        self._serving = False
        if stopped:
            await self._remove()
        else:
            self._start(self._look())

    async def _remove(self) -> None:
        if self._bucket is None:
            return
        try:
            await self._bucket.remove(self._pipeline)
        except BrokerError as error:
            log.warning("version-not-removed", reason=str(error))

    async def _get(self) -> Record | None:
        if self._bucket is None:
            return None
        try:
            data = await self._bucket.get(self._pipeline)
        except BrokerError as error:
            log.warning("version-not-asked", reason=str(error))
            return None
        return None if data is None else Record.from_json(data)

    async def _put(self, record: Record) -> None:
        if self._bucket is None:
            return
        try:
            # The server may have been started anew, with an empty store.
            await self._bucket.prepare()
            await self._bucket.put(self._pipeline, record.to_json())
        except (BrokerError, NoBucketError) as error:
            log.warning("version-not-kept", reason=str(error), hint="it ends with this controller")

    def _on_connection(self, connected: bool) -> None:
        if connected:
            self._start(self._look())

    async def _on_message(self, message: Message) -> None:
        # Without a value: somebody has deleted the key. Who serves says what is served, and hears itself here.
        if message.data and not self._serving and self._hear(Record.from_json(bytes(message.data))):
            self._start(self._prepare())

    def _hear(self, record: Record | None) -> bool:
        """Whether it is news to us."""
        if record is None or record.base != self._base or record == self._record:
            return False
        self._record = record
        return True

    async def _look(self) -> None:
        record = await self._get()
        if not self._serving and self._hear(record):
            await self._prepare()

    async def _prepare(self) -> None:
        try:
            version = await self._ready()
            log.info("version-ready", version=None if version is None else version.name)
        except (UnderstudyError, OSError) as error:
            log.info("version-not-ready", reason=str(error), hint="it is tried again when it is needed")

    async def _ready(self) -> Version | None:
        """What was heard last, opened; None: what we were started with. Raises what `Version.open` raises."""
        async with self._lock:
            record = self._record
            if record is None or _digest(record.manifest) == self._base:
                return None
            if self._version is None or self._version.manifest != record.manifest:
                self._replace(await self.open(record.manifest))
            return self._version

    def _replace(self, version: Version | None) -> None:
        """The version before is not needed any more."""
        if self._version is not None and self._version is not version:
            self._version.close()
        self._version = version

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="versions")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _digest(manifest: str) -> str:
    return hashlib.sha256(manifest.encode()).hexdigest()
