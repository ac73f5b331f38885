"""TLS of the embedded server: its files, checked before it is started, and how its configuration names them."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from broker.errors import ServerStartError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """Files in PEM form. With `ca` the server wants a certificate from each client, signed by that authority. `trust`
    is the authority that has signed `cert`: the server's URLs name it, unless the system knows it anyway."""

    cert: Path
    key: Path
    ca: Path | None = None
    trust: Path | None = None

    def check(self) -> None:
        """Raises ServerStartError where a file is missing, cannot be read, or is not what it should be."""
        files = {"certificate": self.cert, "key": self.key, "authority": self.trust, "clients' authority": self.ca}
        for what, path in files.items():
            if path is not None:
                _check_readable(what, path)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, password=_no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ServerStartError(f"the key {self.key} does not belong to the certificate {self.cert}") from error
            raise ServerStartError(f"{self.cert} and {self.key} hold no certificate and key in PEM form") from error
        except ValueError as error:
            raise ServerStartError(
                f"the key {self.key} is encrypted: nobody could be asked for its password"
            ) from error

    def render(self) -> str:
        """For nats-server's configuration, in any block."""
        verify = "" if self.ca is None else f"  ca_file: {json.dumps(str(self.ca))}\n  verify: true\n"
        return (
            f"tls {{\n  cert_file: {json.dumps(str(self.cert))}\n  key_file: {json.dumps(str(self.key))}\n{verify}}}\n"
        )

    @property
    def url_options(self) -> str:
        """What follows the address in a URL of the server."""
        return "" if self.trust is None else f"?ca={quote(str(self.trust.absolute()))}"


def _check_readable(what: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError as error:
        raise ServerStartError(f"the {what} {path} is not there") from error
    except OSError as error:
        raise ServerStartError(f"the {what} {path} cannot be read: {error.strerror}") from error


def _no_password() -> str:
    # Without this OpenSSL would ask for it on the terminal.
    raise ValueError("the key is encrypted")
