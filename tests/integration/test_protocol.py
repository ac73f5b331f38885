"""The contract for strangers: plain nats-py, plain msgpack, nothing of ours."""

from __future__ import annotations

import asyncio
import json
import secrets

import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import Digits
from tests.integration.harness import Up
from tests.integration.stranger import Stranger, image_file, npy, pixels, stranger, tensor_message

FIELDS = {
    "id",
    "class_index",
    "label",
    "scores",
    "technique",
    "exit",
    "expected_accuracy",
    "epoch",
    "latency_ms",
    "path",
    "error",
}


async def test_a_png_is_answered_with_exactly_the_documented_fields(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    result = await client_of_its_own.answer(digits.frames[3], "a-png")
    assert result.keys() == FIELDS
    assert result["id"] == "a-png"
    assert (result["class_index"], result["label"]) == (3, "3")
    assert result["scores"][0].keys() == {"class_index", "label", "score"}
    assert (result["technique"], result["exit"], result["error"]) == ("none", None, None)
    assert 0.98 <= result["expected_accuracy"] <= 1
    assert result["epoch"] >= 1
    assert result["latency_ms"] > 0
    assert [hop["node"] for hop in result["path"]] == ["node1", "node2", "node3", "node4"]
    assert all(isinstance(hop["at"], float) for hop in result["path"])


async def test_a_frame_without_an_id_is_given_one(client_of_its_own: Stranger, digits: Digits) -> None:
    answer = await client_of_its_own.connection.request("understudy.digits.in", digits.frames[5], timeout=15)
    result = json.loads(answer.data)
    assert result["class_index"] == 5
    assert result["id"]
    assert (await client_of_its_own.result(result["id"])) == result


async def test_the_reply_is_the_same_document_as_on_the_output(client_of_its_own: Stranger, digits: Digits) -> None:
    headers = {"Nats-Msg-Id": "with-reply"}
    subject = "understudy.digits.in"
    answer = await client_of_its_own.connection.request(subject, digits.frames[7], timeout=15, headers=headers)
    assert json.loads(answer.data) == await client_of_its_own.result("with-reply")
    assert await client_of_its_own.count("with-reply", good_frame=digits.frames[0]) == 1


async def test_a_jpeg_is_answered(client_of_its_own: Stranger, digits: Digits) -> None:
    jpeg = image_file("JPEG", Image.fromarray(pixels(digits.frames[4])), quality=95)
    assert (await client_of_its_own.answer(jpeg))["class_index"] == 4


async def test_a_colour_photo_of_another_size_is_brought_to_what_the_network_takes(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    photo = Image.fromarray(pixels(digits.frames[6])).resize((320, 320)).convert("RGB")
    assert (await client_of_its_own.answer(image_file("PNG", photo)))["class_index"] == 6


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
async def test_pixels_in_an_npy_file_are_an_image(
    client_of_its_own: Stranger, digits: Digits, shape: tuple[int, ...]
) -> None:
    payload = npy(pixels(digits.frames[2]).reshape(shape))
    assert (await client_of_its_own.answer(payload))["class_index"] == 2


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 8, 8)])
async def test_numbers_in_an_npy_file_are_the_input_itself(
    client_of_its_own: Stranger, digits: Digits, shape: tuple[int, ...]
) -> None:
    values = (pixels(digits.frames[9]).astype(np.float32) / 255 - 0.3) / 0.38
    assert (await client_of_its_own.answer(npy(values.reshape(shape))))["class_index"] == 9


async def test_a_tensor_message_made_with_plain_msgpack_is_answered_under_its_own_id(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    values = ((pixels(digits.frames[1]).astype(np.float32) / 255 - 0.3) / 0.38).reshape(1, 1, 8, 8)
    await client_of_its_own.publish(tensor_message({"input": values}, id="tensors-with-id"))
    assert (await client_of_its_own.result("tensors-with-id"))["class_index"] == 1


async def test_the_header_names_the_frame_where_the_tensor_message_does_so_too(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    values = np.zeros((1, 1, 8, 8), dtype=np.float32)
    result = await client_of_its_own.answer(tensor_message({"input": values}, id="inner"), "outer")
    assert result["id"] == "outer"


async def test_a_frame_that_is_published_twice_has_one_result_on_the_output(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    for _ in range(2):
        await client_of_its_own.publish(digits.frames[8], "at-once")
    await client_of_its_own.result("at-once")
    await client_of_its_own.publish(digits.frames[8], "at-once")
    assert await client_of_its_own.count("at-once", good_frame=digits.frames[0]) == 1


async def test_who_asks_again_for_an_answered_frame_gets_the_same_reply_again(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    headers, subject = {"Nats-Msg-Id": "asked-twice"}, "understudy.digits.in"
    request = client_of_its_own.connection.request
    replies = [await request(subject, digits.frames[8], timeout=15, headers=headers) for _ in range(2)]
    assert replies[0].data == replies[1].data
    assert await client_of_its_own.count("asked-twice", good_frame=digits.frames[0]) == 1


async def test_two_who_ask_for_one_frame_at_the_same_time_are_both_answered(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    own, subject = f"both-{secrets.token_hex(4)}", "understudy.digits.in"
    request = client_of_its_own.connection.request
    replies = await asyncio.gather(
        *(request(subject, digits.frames[8], timeout=15, headers={"Nats-Msg-Id": own}) for _ in range(2))
    )
    assert replies[0].data == replies[1].data
    assert await client_of_its_own.count(own, good_frame=digits.frames[0]) == 1


async def test_a_burst_beyond_the_window_is_answered_completely(client_of_its_own: Stranger, digits: Digits) -> None:
    ids = [f"burst-{secrets.token_hex(4)}-{i}" for i in range(400)]
    for own, frame in zip(ids, digits.frames, strict=True):
        await client_of_its_own.publish(frame, own)
    results = [await client_of_its_own.result(own) for own in ids]
    assert [result["error"] for result in results] == [None] * len(ids)


async def test_a_stranger_cannot_hear_or_send_control_messages(pipeline: Up) -> None:
    async with stranger(pipeline.url, "digits") as own:
        heard = await own.connection.subscribe("understudy._.beat")
        await own.connection.flush()
        with pytest.raises(TimeoutError):
            await heard.next_msg(timeout=0.5)
