"""A new version of a model, from a bundle on one machine to the controller on another, while frames flow.

Who updates offers the bundle's files by their SHA-256 and sends the manifest, which names them. The controller fetches
what it lacks, checks it, and rolls it out; it answers when the first frames can follow it, or says why not.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import structlog

from broker import subjects
from broker.errors import BrokerError, NoRespondersError, RequestTimeoutError, UnderstudyError
from broker.port import Broker, Message
from recovery.model import UpdateError
from recovery.service import RecoveryService
from stages.blobs import BlobExchange, BlobStore
from stages.bundle import Bundle
from stages.manifest import Manifest
from understudy.versions import Versions

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

    def __init__(self, *, pipeline: str, control: Broker, service: RecoveryService, versions: Versions) -> None:
        self._pipeline = pipeline
        self._control = control
        self._service = service
        self._versions = versions
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled."""
        subscription = await self._control.subscribe(subjects.update(self._pipeline), self._on_request)
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()
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
            Manifest.model_validate_json(text)
        except ValueError as error:
            reason = f"the manifest is not understood: {str(error).splitlines()[0]}"
            self._service.malformed.note_message("update", message, reason)
            await self._say(message, {"error": reason})
            return
        try:
            async with self._lock:
                document = {"epoch": await self._roll_out(text)}
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

    async def _roll_out(self, manifest: bytes) -> int:
        version = await self._versions.open(manifest.decode(errors="replace"))
        try:
            log.info("update-begins", version=version.name)
            epoch = await self._service.update(version.source)
        except BaseException:
            version.close()
            raise
        await self._versions.keep(version)
        return epoch
