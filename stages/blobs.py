"""Content-addressed pieces (sub-models, specifications): a cache on disk, and their exchange through the broker.

There is no shared disk. All who hold a blob, controller or nodes, listen on `subjects.blob(sha256)`. For each chunk it
is asked there who has the blob (`length` 0), and the first who answers, which is one that is there, near and not busy,
is asked for the chunk, on the subject that its answer names. Who asked checks the SHA-256 of the whole.

Not a queue group: of that the broker chooses one, also one that was cut off a moment ago, again and again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import msgpack
import structlog

from broker import subjects
from broker.control import BlobRef
from broker.errors import BrokerError, UnderstudyError
from broker.malformed import Malformed
from broker.port import Broker, Message, Subscription

log = structlog.get_logger("understudy.blobs")

CHUNK_BYTES = 512 << 10
"""Below 1 MB per message nats-py is fastest (measured: 4 MB in one message takes 31 ms, in chunks of 512 KB 7 ms)."""

CONCURRENT_CHUNKS = 4
ATTEMPTS = 5
CHUNK_TIMEOUT_S = 5.0
LEAST_PATIENCE_S = 0.1
LOCATE_TIMEOUT_S = 1.0
MOST_ASKED = 6
"""Holders that are asked for one chunk, at most, before that counts as one attempt."""

WITHDRAW_S = 0.2
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SEARCH = msgpack.packb({"offset": 0, "length": 0})
DEFAULT_CACHE_BYTES = 8 << 30


class BlobError(UnderstudyError):
    """A blob could not be fetched, or what was fetched is not what was asked for."""


class BlobStore:
    """A folder of files named by their SHA-256, least recently used ones removed above `limit_bytes`.

    Where the folder cannot be written (full, read-only), blobs are kept in memory: the node works on without a cache.
    """

    def __init__(self, folder: Path | None, *, limit_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._memory: dict[str, bytes] = {}
        self._verified: dict[str, tuple[int, int, int]] = {}

    def put(self, data: bytes) -> BlobRef:
        ref = BlobRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        if not self._write(ref, data):
            self._memory[ref.sha256] = data
        return ref

    def get(self, ref: BlobRef) -> bytes | None:
        """The blob if it is here and intact. A damaged file is removed: it will be fetched again."""
        if ref.sha256 in self._memory:
            return self._memory[ref.sha256]
        path = self._path(ref.sha256)
        if path is None:
            return None
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() == ref.sha256:
            _touch(path)
            return data
        log.warning("cached-blob-damaged", path=str(path))
        path.unlink(missing_ok=True)
        return None

    def read(self, sha256: str, offset: int, length: int) -> bytes | None:
        """A piece of a blob, or None where it is not here (any more), or damaged."""
        if sha256 in self._memory:
            return self._memory[sha256][offset : offset + length]
        path = self._path(sha256)
        if path is None or not self._is_intact(path, sha256):
            return None
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            return None

    def _is_intact(self, path: Path, sha256: str) -> bool:
        """Whether the file is what its name says; it is read once, and again after it changed."""
        try:
            stat = path.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._verified.get(sha256) == state:
                return True
            if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                log.warning("cached-blob-damaged", path=str(path))
                path.unlink(missing_ok=True)
                return False
        except OSError:
            return False
        self._verified[sha256] = state
        return True

    def _path(self, sha256: str) -> Path | None:
        if not _SHA256.fullmatch(sha256):
            raise BlobError(f"{sha256[:80]!r} is not a SHA-256")
        return None if self._folder is None else self._folder / sha256

    def _write(self, ref: BlobRef, data: bytes) -> bool:
        path = self._path(ref.sha256)
        if path is None:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            # Written aside and renamed: a reader, or a crash, never sees half a file.
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            log.warning("cache-not-writable", path=str(path), reason=str(error))
            return False
        return True

    def _make_room(self, size_bytes: int) -> None:
        assert self._folder is not None  # noqa: S101 - _write checked
        files = [(path, path.stat()) for path in self._folder.iterdir() if path.is_file()]
        total = sum(stat.st_size for _, stat in files) + size_bytes
        for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
            if total <= self._limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size


class BlobExchange:
    """Offers what the store has, and fetches what it has not."""

    def __init__(self, broker: Broker, store: BlobStore, malformed: Malformed | None = None) -> None:
        self._broker = broker
        self._malformed = malformed or Malformed()
        self._store = store
        self._offers: dict[str, Subscription] = {}
        self._own_subject = ""
        self._own: Subscription | None = None
        self._usual_s = 0.0
        self._leaving: set[asyncio.Task[None]] = set()

    async def offer(self, ref: BlobRef) -> None:
        """Answer requests for this blob from now on. Idempotent."""
        if ref.sha256 in self._offers:
            return
        if not self._own_subject:
            self._own_subject = self._broker.new_inbox()
            self._own = await self._broker.subscribe(self._own_subject, self._on_request)
        self._offers[ref.sha256] = await self._broker.subscribe(subjects.blob(ref.sha256), self._on_search)

    async def get(self, ref: BlobRef) -> bytes:
        """The blob, from the store or from whoever has it; offered to others afterwards.

        Raises:
            BlobError: nobody has it, or what arrives is not it.
        """
        data = await asyncio.to_thread(self._store.get, ref)
        if data is None:
            data = await self._fetch(ref)
            await asyncio.to_thread(self._store.put, data)
        await self.offer(ref)
        return data

    async def close(self) -> None:
        for leave in self._leaving:
            leave.cancel()
        for subscription in (*self._offers.values(), self._own):
            if subscription is not None:
                await subscription.unsubscribe()
        self._offers.clear()
        self._own, self._own_subject = None, ""

    async def _fetch(self, ref: BlobRef) -> bytes:
        size = min(CHUNK_BYTES, self._broker.max_payload_bytes // 2)
        for _ in range(2):
            gate = asyncio.Semaphore(CONCURRENT_CHUNKS)
            buffer = bytearray(ref.size_bytes)

            async def chunk(offset: int, gate: asyncio.Semaphore = gate, buffer: bytearray = buffer) -> None:
                async with gate:
                    length = min(size, ref.size_bytes - offset)
                    buffer[offset : offset + length] = await self._chunk(ref, offset, length)

            try:
                async with asyncio.TaskGroup() as chunks:
                    for offset in range(0, ref.size_bytes, size):
                        chunks.create_task(chunk(offset))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
            if hashlib.sha256(buffer).hexdigest() == ref.sha256:
                return bytes(buffer)
            log.warning("fetched-blob-damaged", sha256=ref.sha256)
        raise BlobError(f"what was fetched as {ref.sha256[:12]} ({ref.size_bytes} bytes) has another hash, twice")

    async def _chunk(self, ref: BlobRef, offset: int, length: int) -> bytes | bytearray | memoryview:
        request = msgpack.packb({"offset": offset, "length": length, "sha256": ref.sha256})
        problem = "no answer"
        for attempt in range(ATTEMPTS):
            try:
                answer = await self._ask(subjects.blob(ref.sha256), request)
                if len(answer.data) == length:
                    return answer.data
                problem = f"{len(answer.data)} bytes came in place of {length}"
            except BrokerError as error:
                problem = str(error)
            await asyncio.sleep(0.05 * 2**attempt)  # the holder may be starting, or the broker reconnecting
        raise BlobError(f"blob {ref.sha256[:12]} ({ref.size_bytes} bytes) cannot be fetched: {problem}")

    async def _ask(self, subject: str, request: bytes) -> Message:
        """One of the holders answers. It may hang before it has sent the chunk, or be cut off: when it takes longer
        than usual it is asked again who is there, and the first chunk counts. Raises BrokerError."""
        patience_s = max(LEAST_PATIENCE_S, 3 * self._usual_s)
        asked: set[asyncio.Task[Message]] = set()
        left = MOST_ASKED
        try:
            while True:
                if left > 0:
                    left -= 1
                    asked.add(asyncio.create_task(self._request(subject, request)))
                done, _ = await asyncio.wait(asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None or len(asked) == 1:
                        return task.result()
                    asked.discard(task)
                patience_s *= 2
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _request(self, subject: str, request: bytes) -> Message:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        holder = (await self._broker.request(subject, _SEARCH, timeout_s=LOCATE_TIMEOUT_S)).reply
        if not holder:
            raise BrokerError(f"an answer on '{subject}' does not say whom to ask")
        answer = await self._broker.request(holder, request, timeout_s=CHUNK_TIMEOUT_S)
        self._usual_s += 0.3 * (loop.time() - began_s - self._usual_s)
        return answer

    async def _on_search(self, message: Message) -> None:
        if message.data != _SEARCH:
            self._malformed.note_message("blob", message, "not a question for who has a blob")
        elif message.reply:
            await self._broker.publish(message.reply, b"", reply=self._own_subject)

    async def _on_request(self, message: Message) -> None:
        if not message.reply:
            return
        try:
            request = msgpack.unpackb(message.data)
            offset, length, sha256 = request["offset"], request["length"], request["sha256"]
        except (ValueError, TypeError, KeyError, msgpack.UnpackException):
            offset = length = sha256 = None
        data: bytes | None = b""
        if not (_is_range(offset, length) and isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
            self._malformed.note_message("blob", message, "not a request for a piece of a blob")
        else:
            data = await asyncio.to_thread(self._store.read, sha256, offset, length)
            if data is None and (offer := self._offers.pop(sha256, None)) is not None:
                self._leaving.add(leave := asyncio.create_task(_withdraw(offer), name="withdraw-offer"))
                leave.add_done_callback(self._leaving.discard)
        await self._broker.publish(message.reply, data or b"")


def _is_range(offset: Any, length: Any) -> bool:
    return type(offset) is int and type(length) is int and 0 <= offset < 1 << 53 and 0 <= length <= CHUNK_BYTES


async def _withdraw(offer: Subscription) -> None:
    """What is asked for is not here any more. Requests that are on their way are still answered (with nothing, so that
    the asker tries again) before others alone are asked."""
    await asyncio.sleep(WITHDRAW_S)
    await offer.unsubscribe()


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError as error:
        log.debug("touch-failed", path=str(path), reason=str(error))
