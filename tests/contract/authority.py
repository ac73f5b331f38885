"""A certificate authority for a test: its own files, those of a server on the loopback, and those of a client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

from broker.server_tls import ServerTls


@dataclass(frozen=True, slots=True)
class Authority:
    folder: Path
    name: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        for owner, identity in (("server", self.name), ("client", "client@example.org")):
            pair = authority.issue_cert(identity)
            pair.private_key_pem.write_to_path(self.folder / f"{owner}.key")
            (self.folder / f"{owner}.pem").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def server(self, *, wants_certificates: bool) -> ServerTls:
        ca = self.ca if wants_certificates else None
        return ServerTls(cert=self.folder / "server.pem", key=self.folder / "server.key", ca=ca)

    @property
    def trusting(self) -> str:
        """What a client appends to a URL that trusts this authority."""
        return f"?ca={self.ca}"

    @property
    def known(self) -> str:
        """What a client appends that has a certificate as well."""
        return f"{self.trusting}&cert={self.folder / 'client.pem'}&key={self.folder / 'client.key'}"
