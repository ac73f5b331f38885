"""Reading the files that a broker URL names."""

from __future__ import annotations

from pathlib import Path

from broker.errors import BrokerError

MAX_BYTES = 1 << 20


def read_file(path: Path, option: str) -> bytes:
    """The content of the file that the URL names with `option`.

    Raises:
        BrokerError: it is missing, cannot be read, or is larger than any certificate or key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise BrokerError(f"{path}, given as {option}= in the broker's URL, {why}") from error
    if len(data) > MAX_BYTES:
        raise BrokerError(f"{path}, given as {option}= in the broker's URL, is no certificate or key: it is too large")
    return data
