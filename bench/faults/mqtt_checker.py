"""The checker over MQTT: paho and JSON.

Most frames are envelopes, with an id and a reply subject. Every fourth is an image as it is, which has neither: the
head names it after its content, so each is a file of its own, and it may be answered as often as it was published.
"""

from __future__ import annotations

import hashlib
import io
import time

import paho.mqtt.client as paho
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.faults.checker import ID_HEADER, Checker
from bench.faults.mqtt_line import MqttLine, wrap
from bench.faults.tally import Frame

PLAIN_EVERY = 4


class MqttChecker(Checker):
    """See `Checker`."""

    _line: MqttLine

    async def _connect(self) -> None:
        self._plain: dict[str, tuple[str, int]] = {}  # images as they are, by their digests: token and number
        self._unconfirmed: dict[int, Frame] = {}
        self._line = MqttLine(
            self._url,
            name="chaos-checker",
            topics=[f"understudy/{self._pipeline}/out", f"{self._inbox.replace('.', '/')}/+/+"],
            on_message=self._on_message,
            on_lost=self._lost,
            on_back=self._note_outage,
            on_confirmed=self._on_confirmed,
        )
        await self._line.open()
        self._stack.push_async_callback(self._line.close)

    def _on_message(self, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/out"):
            self._hear_result(bytes(message.payload), repeated=message.dup)
        else:
            _, token, number = message.topic.rsplit("/", 2)
            self._hear_reply(token, number, bytes(message.payload))

    def _on_confirmed(self, message: int) -> None:
        self._unconfirmed.pop(message, None)

    def _number_of(self, frame_id: str) -> int | None:
        token, number = self._plain.get(frame_id.partition("-")[0], ("", 0))
        return number if token == self._token else super()._number_of(frame_id)

    async def _send(self, frame: Frame) -> None:
        frame.sent_s.append(time.monotonic())
        own = f"{self._token}-{frame.number}"
        image = self._images[frame.image]
        if frame.number % PLAIN_EVERY == 0:
            frame.named = False
            if frame.owed == "word":
                frame.owed = "nothing"  # nobody asked for it
            payload = marked(image, own)
            self._plain[digest(payload)] = self._token, frame.number
        else:
            reply = f"{self._inbox}.{self._token}.{frame.number}"
            payload = wrap(image, reply=reply, headers={ID_HEADER: own})
        self._unconfirmed[self._line.publish(f"understudy/{self._pipeline}/in", payload)] = frame

    def _lost(self) -> None:
        for frame in self._unconfirmed.values():
            frame.sent_s.append(time.monotonic())  # paho sends it again, as MQTT has it
        super()._lost()


def digest(payload: bytes) -> str:
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


def marked(image: bytes, text: str) -> bytes:
    """The same picture as a PNG file of its own: another text in it."""
    buffer, info = io.BytesIO(), PngInfo()
    info.add_text("frame", text)
    with Image.open(io.BytesIO(image)) as picture:
        picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
