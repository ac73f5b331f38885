"""Frames that cannot be processed: each is answered with an error and buried, and harms nobody."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image

import understudy
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, Up
from tests.integration.stranger import Stranger, image_file, npy, pixels, tensor_message

ZEROS = np.zeros((1, 1, 8, 8), dtype=np.float32)


def with_a_nan() -> bytes:
    values = ZEROS.copy()
    values[0, 0, 3, 3] = np.nan
    return npy(values)


def huge_image() -> bytes:
    """A few KB that unfold to 400 million pixels."""
    return image_file("PNG", Image.new("1", (20_000, 20_000)))


def boastful_npy() -> bytes:
    """A header that announces a terabyte, and no more than that."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1048576, 262144), }\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def boastful_tensor() -> bytes:
    header = {"v": 1, "tensors": [["input", "float32", [1 << 39, 1 << 39]]]}
    return b"\x92" + bytes(msgpack.packb(header)) + b"\xc4\x00"


def boastful_bin() -> bytes:
    header = {"v": 1, "tensors": [["input", "float32", [1, 1, 8, 8]]]}
    return b"\x92" + bytes(msgpack.packb(header)) + b"\xc6\xff\xff\xff\xff"


CASES = [
    pytest.param(b"this is not an image, whatever you say", "not-an-image", "this|74 68", id="text"),
    pytest.param(image_file("GIF", Image.new("L", (8, 8))), "not-an-image", "JPEG or PNG", id="gif"),
    pytest.param(b"", "empty", "no bytes", id="empty"),
    pytest.param(b"\x89PNG", "truncated", "4 bytes", id="four bytes of a PNG"),
    pytest.param(huge_image(), "too-large", "pixels", id="decompression bomb"),
    pytest.param(npy(np.zeros((1, 1, 9, 9), np.float32)), "bad-shape", "(1, 1, 9, 9)", id="npy of a wrong shape"),
    pytest.param(npy(np.zeros((2, 1, 8, 8), np.float32)), "bad-shape", "(2, 1, 8, 8)", id="npy of two frames"),
    pytest.param(npy(np.zeros((1, 1, 8, 8), np.int64)), "bad-dtype", "int64", id="npy of a wrong dtype"),
    pytest.param(npy(np.full((1, 1, 8, 8), "x")), "bad-dtype", "<U1", id="npy of texts"),
    pytest.param(npy(ZEROS)[:-7], "truncated", "bytes", id="truncated npy"),
    pytest.param(boastful_npy(), "truncated", "1099511627776", id="npy that announces a terabyte"),
    pytest.param(with_a_nan(), "not-finite", "1 of 64", id="NaN"),
    pytest.param(npy(np.full((1, 1, 8, 8), np.inf)), "not-finite", "64 of 64", id="infinity"),
    pytest.param(b"\xdd\xff\xff\xff\xff", "bad-message", "4294967295", id="array of four billion items"),
    pytest.param(b"\x92\xdf\xff\xff\xff\xff", "bad-message", "4294967295", id="map of four billion items"),
    pytest.param(b"\x91" * 200_000, "bad-message", "not a valid tensor message", id="200 000 nested arrays"),
    pytest.param(boastful_tensor(), "bad-message", "'input'", id="tensor of 10^24 bytes"),
    pytest.param(boastful_bin(), "bad-message", "4294967295", id="bin that announces 4 GiB"),
    pytest.param(tensor_message({"picture": ZEROS}), "bad-message", "'picture'", id="tensor of a wrong name"),
    pytest.param(
        tensor_message({"input": ZEROS, "more": ZEROS}), "bad-message", "'more'", id="one tensor more than there are"
    ),
    pytest.param(tensor_message({"input": ZEROS[..., :4]}), "bad-shape", "(1, 1, 8, 4)", id="tensor of a wrong shape"),
    pytest.param(tensor_message({"input": ZEROS})[:-9], "bad-message", "bytes", id="truncated tensor message"),
    pytest.param(tensor_message({"input": ZEROS}, v=9), "bad-message", "version", id="message of another version"),
]


async def refused(client: Stranger, payload: bytes, good: bytes) -> dict[str, Any]:
    """The error of a bad frame, after checking what everybody may count on."""
    result = await client.answer(payload)
    assert result["error"] is not None, f"it was answered: {result}"
    assert result["error"].keys() == {"code", "reason"}
    assert "class_index" not in result
    letter = await client.letter(result["id"])
    assert (letter["code"], letter["reason"]) == (result["error"]["code"], result["error"]["reason"])
    assert letter["size_bytes"] == len(payload)
    assert base64.b64decode(letter["first_bytes"]) == payload[:256]
    after = await client.answer(good)
    assert (after["error"], after["class_index"]) == (None, 0)
    error: dict[str, Any] = result["error"]
    return error


@pytest.mark.parametrize(("payload", "code", "words"), CASES)
async def test_a_bad_frame_is_answered_with_a_reason_and_the_next_one_is_recognised(
    client_of_its_own: Stranger, digits: Digits, payload: bytes, code: str, words: str
) -> None:
    error = await refused(client_of_its_own, payload, digits.frames[0])
    assert error["code"] == code
    assert any(word in error["reason"] for word in words.split("|")), error["reason"]
    assert not error["reason"].rstrip().endswith(":")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
async def test_an_image_file_that_ends_early_is_refused(
    client_of_its_own: Stranger, digits: Digits, kind: str, share: float
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    whole = image_file(kind, Image.fromarray(noise))
    assert (await client_of_its_own.answer(whole))["error"] is None
    error = await refused(client_of_its_own, whole[: int(share * len(whole))], digits.frames[0])
    assert error["code"] == "truncated"


async def test_a_png_that_lacks_its_end_marker_is_refused_as_a_jpeg_is(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    error = await refused(client_of_its_own, digits.frames[0][:-20], digits.frames[0])
    assert error["code"] == "truncated"


async def test_a_jpeg_that_lacks_its_last_bytes_is_refused(client_of_its_own: Stranger, digits: Digits) -> None:
    jpeg = image_file("JPEG", Image.fromarray(pixels(digits.frames[0])))
    error = await refused(client_of_its_own, jpeg[:-20], digits.frames[0])
    assert error["code"] == "truncated"


async def test_an_id_beyond_256_characters_is_refused_and_not_repeated(
    client_of_its_own: Stranger, digits: Digits
) -> None:
    long = "x" * 300
    await client_of_its_own.publish(digits.frames[0], long)
    after = await client_of_its_own.answer(digits.frames[0])
    assert after["error"] is None
    errors = [result for result in client_of_its_own.results if result["error"]]
    assert len(errors) == 1
    assert "256" in errors[0]["error"]["reason"]
    assert errors[0]["id"] != long


async def test_bad_frames_among_good_ones_change_nothing_for_those(pipeline: Up, digits: Digits) -> None:
    mixed = [b"rubbish" if i % 10 == 3 else frame for i, frame in enumerate(digits.frames[:200])]
    async with understudy.connect(pipeline.url, "digits") as client:
        results = [result async for result in client.stream(mixed)]
    bad = [i for i, result in enumerate(results) if result.error is not None]
    assert bad == [i for i in range(200) if i % 10 == 3]
    good = [result.class_index == digits.labels[i] for i, result in enumerate(results) if i not in bad]
    assert sum(good) / len(good) >= 0.97


async def test_the_client_library_raises_for_a_bad_frame_and_says_why(pipeline: Up, digits: Digits) -> None:
    async with understudy.connect(pipeline.url, "digits") as client:
        with pytest.raises(understudy.FrameRejectedError, match="not-an-image") as caught:
            await client.infer(b"rubbish", frame_id="mine")
        assert caught.value.result.id == "mine"
        assert (await client.infer(digits.frames[0])).class_index == 0


async def test_a_frame_above_the_limit_is_refused_by_the_client_with_both_sizes(pipeline: Up, digits: Digits) -> None:
    size = 9 * 1024 * 1024
    async with understudy.connect(pipeline.url, "digits") as client:
        with pytest.raises(understudy.PayloadTooLargeError) as caught:
            await client.infer(b"x" * size)
        assert (await client.infer(digits.frames[0])).class_index == 0
    # The headers count as well: the size that is named is a little above that of the frame.
    assert size <= caught.value.size_bytes <= size + 200
    assert f"{caught.value.size_bytes} bytes" in str(caught.value)
    assert f"{8 * 1024 * 1024} bytes" in str(caught.value)


async def test_a_frame_above_the_limit_in_a_stream_ends_it_and_leaves_the_client_usable(
    pipeline: Up, digits: Digits
) -> None:
    async with understudy.connect(pipeline.url, "digits") as client:
        with pytest.raises(understudy.PayloadTooLargeError):
            async for _ in client.stream([digits.frames[0], b"x" * (9 << 20)]):
                pass
        assert (await client.infer(digits.frames[1])).class_index == 1


def test_a_file_above_the_limit_is_refused_at_the_command_line(pipeline: Up, shared_shell: Shell) -> None:
    (shared_shell.folder / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9 << 20))
    outcome = shared_shell.run("publish", "digits", "large.png")
    assert outcome.code == 2
    assert str(8 * 1024 * 1024) in outcome.err
    assert "Traceback" not in outcome.err
