"""A version of a model that came from elsewhere, ready to be served."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from broker.control import BlobRef
from broker.folder import TemporaryFolder
from recovery.model import UpdateError
from stages.blobs import BlobExchange, BlobStore
from stages.bundle import Bundle, check_name
from stages.manifest import MANIFEST_FILE, Manifest
from stages.source import SubmodelSource
from understudy.bundles import check_stages, load_model

FOLDER_PREFIX = "understudy-update-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Made by `open`. Its bundle lies in a folder of its own until `close`: parts may be fitted from it.

    Attributes:
        name: the version that the manifest says.
        manifest: the text of the bundle's manifest, which names its files by their SHA-256.
        source: where the nodes get its sub-models.
    """

    name: str
    manifest: str
    source: SubmodelSource
    folder: TemporaryFolder

    @classmethod
    async def open(cls, manifest: str, *, exchange: BlobExchange, store: BlobStore, stages: int | None) -> Version:
        """Fetch what the store has not, and read the model.

        Raises:
            UpdateError: the manifest is not understood.
            UnderstudyError, OSError: a file cannot be had, or the model cannot be used; says why.
        """
        folder = await asyncio.to_thread(TemporaryFolder.make, FOLDER_PREFIX)
        try:
            bundle = await _fetch(manifest, folder.path / "bundle", exchange)
            graph = await load_model(bundle)
            check_stages(graph, stages)
            source = await SubmodelSource.open(bundle, graph, exchange, store)
        except BaseException:
            folder.remove()
            raise
        return cls(name=bundle.manifest.version, manifest=manifest, source=source, folder=folder)

    def close(self) -> None:
        """Remove the folder; the store keeps the files. Idempotent."""
        self.folder.remove()


async def _fetch(text: str, folder: Path, exchange: BlobExchange) -> Bundle:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValueError as error:
        raise UpdateError(f"the manifest is not understood: {str(error).splitlines()[0]}") from error
    await asyncio.to_thread(folder.mkdir)
    for name, record in manifest.files.items():
        check_name(manifest.name, name)
        data = await exchange.get(BlobRef(sha256=record.sha256, size_bytes=record.bytes))
        await asyncio.to_thread(_write, folder / name, data)
    await asyncio.to_thread((folder / MANIFEST_FILE).write_text, text, encoding="utf-8")
    return await asyncio.to_thread(Bundle.load, folder)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
