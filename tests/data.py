"""Where tests find models and data that are not in the repository; None where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def data_file(name: str) -> Path | None:
    """A file of the data folder: UNDERSTUDY_DATA, or shared/data next to the repository."""
    folder = Path(os.environ.get("UNDERSTUDY_DATA") or REPOSITORY.parent / "shared" / "data")
    path = folder / name
    return path if path.is_file() else None


def light_models() -> list[Path]:
    """The nine networks that the onnx package carries; they build their weights, all of one value."""
    import onnx

    return sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("light_*.onnx"))
