"""A new version of a model, from a bundle on one machine to the controller on another, while frames flow.

Who updates offers the bundle's files by their SHA-256 and sends the manifest, which names them. The controller fetches
what it lacks, checks it, and rolls it out; it answers when the first frames can follow it, or says why not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from broker import subjects
from broker.control import BlobRef
from broker.errors import BrokerError, NoRespondersError, RequestTimeoutError, UnderstudyError
from broker.port import Broker, Message
from recovery.model import UpdateError
from recovery.service import RecoveryService
from stages.blobs import BlobExchange, BlobStore
from stages.bundle import Bundle
from stages.graph import ModelGraph
from stages.manifest import MANIFEST_FILE, Manifest
from stages.source import SubmodelSource

log = structlog.get_logger("understudy.update")

MAX_MANIFEST_BYTES = 512 << 10


async def request_update(data: Broker, control: Broker, pipeline: str, bundle: Bundle, *, timeout_s: float) -> int:
    """Have a bundle served in place of what is. Returns the epoch from which answers are its.

    Raises:
        UpdateError: it is not served; says why. The version before goes on.
        BrokerError: the broker does not answer.
    """
    manifest = bundle.manifest.to_json().encode()
    if len(manifest) > min(MAX_MANIFEST_BYTES, control.max_payload_bytes):
        raise UpdateError(f"the bundle's manifest has {len(manifest)} bytes: at most {MAX_MANIFEST_BYTES} are possible")
    store = BlobStore(None)
    exchange = BlobExchange(data, store)
    for name in bundle.manifest.files:
        path = bundle.model_path if bundle.folder is None else bundle.path(name)
        await exchange.offer(store.put(await asyncio.to_thread(path.read_bytes)))
    try:
        answer = await control.request(subjects.update(pipeline), manifest, timeout_s=timeout_s)
        document = json.loads(bytes(answer.data))
        if "error" in document:
            raise UpdateError(str(document["error"]))
        return int(document["epoch"])
    except NoRespondersError as error:
        raise UpdateError(
            f"no controller serves pipeline '{pipeline}' at {control.url}: see `understudy status`; where control has "
            f"an account of its own, give its URL with --control-broker"
        ) from error
    except RequestTimeoutError as error:
        raise UpdateError(f"no answer within {timeout_s:g} s: see `understudy events {pipeline}`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UpdateError(f"the controller's answer is not understood: {error}") from error
    finally:
        await exchange.close()


class Rollout:
    """The controller's side: answers requests to update, one at a time."""

    def __init__(
        self,
        *,
        pipeline: str,
        control: Broker,
        service: RecoveryService,
        exchange: BlobExchange,
        store: BlobStore,
        stages: int | None,
    ) -> None:
        self._pipeline = pipeline
        self._control = control
        self._service = service
        self._exchange = exchange
        self._store = store
        self._stages = stages
        self._lock = asyncio.Lock()
        self._folder = contextlib.ExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled."""
        subscription = await self._control.subscribe(subjects.update(self._pipeline), self._on_request)
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()
            self._folder.close()
            await subscription.unsubscribe()

    async def _on_request(self, message: Message) -> None:
        # In a task of its own: fetching and loading take long, and other messages must not wait.
        task = asyncio.create_task(self._answer(message), name="update")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message) -> None:
        document: dict[str, Any]
        text = bytes(message.data)
        try:
            manifest = Manifest.model_validate_json(text)
        except ValueError as error:
            reason = f"the manifest is not understood: {str(error).splitlines()[0]}"
            self._service.malformed.note_message("update", message, reason)
            await self._say(message, {"error": reason})
            return
        try:
            async with self._lock:
                document = {"epoch": await self._roll_out(manifest, text)}
        except (UnderstudyError, OSError) as error:
            log.error("update-refused", reason=str(error))
            document = {"error": str(error)}
        await self._say(message, document)

    async def _say(self, message: Message, document: dict[str, Any]) -> None:
        if message.reply:
            try:
                await self._control.publish(message.reply, json.dumps(document).encode())
            except BrokerError as error:
                log.warning("answer-not-sent", reason=str(error))

    async def _roll_out(self, manifest: Manifest, text: bytes) -> int:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-update-"))
            bundle = await self._fetch(manifest, text, Path(folder))
            graph = await asyncio.to_thread(ModelGraph.load, bundle.model_path, shapes=bundle.manifest.shapes)
            blocks = len(graph.blocks)
            if self._stages is not None and self._stages > blocks:
                raise UpdateError(
                    f"the new model can be cut into at most {blocks} stages, {self._stages} were asked for"
                )
            source = await SubmodelSource.open(bundle, graph, self._exchange, self._store)
            log.info("update-begins", version=bundle.manifest.version)
            epoch = await self._service.update(source)
            # While it is served the folder stays: parts may be fitted from it. That of the version before goes.
            self._folder.close()
            self._folder = stack.pop_all()
        return epoch

    async def _fetch(self, manifest: Manifest, text: bytes, folder: Path) -> Bundle:
        for name, record in manifest.files.items():
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise UpdateError(f"'{name}' is not the path of a file inside a bundle")
            data = await self._exchange.get(BlobRef(sha256=record.sha256, size_bytes=record.bytes))
            await asyncio.to_thread(_write, folder / name, data)
        await asyncio.to_thread(_write, folder / MANIFEST_FILE, text)
        return await asyncio.to_thread(Bundle.load, folder)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
