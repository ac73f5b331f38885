"""The names of the codecs that an activation's tensors may go through on their way between two nodes.

docs/protocol.md describes the bytes, `stages.codec` makes and reads them.
"""

from __future__ import annotations

from typing import Literal, get_args

Codec = Literal["none", "zstd", "fp16", "fp16+zstd", "int8", "int8+zstd"]
"""`fp16` and `int8` change floating numbers a little; `zstd` changes nothing."""

CODECS: tuple[Codec, ...] = get_args(Codec)

LOSSLESS: tuple[Codec, ...] = ("none", "zstd")
