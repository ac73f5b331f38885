"""NKeys and credentials files: who we are, proven by signing what the server makes up.

https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth

The files are read again at each connection, so that they may be renewed. The signing is that of the package `nkeys`.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nkeys

from broker.errors import BrokerError
from broker.files import read_file

_BLOCK = re.compile(rb"-+BEGIN ([A-Z ]+)-+\s+([^\s-]\S*)\s+-+END \1-+")
_JWT, _SEED = b"NATS USER JWT", b"USER NKEY SEED"


class NKey:
    """A key in a file: with a JWT (`creds=`), or the seed alone (`nkey=`).

    Raises:
        BrokerError: everywhere, where the file is missing, cannot be read, or holds no key.
    """

    def __init__(self, path: Path, option: str) -> None:
        self._path = path
        self._option = option

    def check(self) -> None:
        """Whether the file is usable now."""
        self.public_key()
        if self._option == "creds":
            self.jwt()

    def public_key(self) -> str:
        return bytes(self._pair().public_key).decode()

    def jwt(self) -> bytearray:
        """Of a credentials file."""
        return bytearray(self._block(_JWT))

    def sign(self, nonce: str) -> bytes:
        pair = self._pair()
        try:
            return base64.b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()

    def _pair(self) -> Any:
        seed = self._block(_SEED) if self._option == "creds" else read_file(self._path, self._option).strip()
        try:
            return nkeys.from_seed(bytearray(seed))
        except (nkeys.NkeysError, ValueError) as error:
            raise self._no_key() from error

    def _block(self, name: bytes) -> bytes:
        found = dict(_BLOCK.findall(read_file(self._path, self._option)))
        if name not in found:
            raise self._no_key()
        return bytes(found[name])

    def _no_key(self) -> BrokerError:
        what = "a credentials file of NATS" if self._option == "creds" else "the seed of an NKey"
        return BrokerError(f"{self._path}, given as {self._option}= in the broker's URL, is not {what}")
