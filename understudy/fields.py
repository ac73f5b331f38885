"""Quantities in files, as pydantic reads and writes them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from understudy.quantities import parse_duration, parse_size

_Bytes = Annotated[int, BeforeValidator(parse_size)]
_Seconds = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(lambda seconds: f"{seconds * 1e3:g}ms")]

Size = Annotated[_Bytes, Field(gt=0)]
SizeOrZero = Annotated[_Bytes, Field(ge=0)]
Duration = Annotated[_Seconds, Field(gt=0)]
DurationOrZero = Annotated[_Seconds, Field(ge=0)]
