"""Versions where the broker keeps nothing, and manifests and records that are none."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.connect import connect
from broker.errors import UnderstudyError
from broker.port import Broker
from recovery.model import UpdateError
from stages.blobs import BlobExchange, BlobStore
from stages.errors import BundleError, ModelError
from stages.source import SubmodelSource
from understudy.bundles import load_model
from understudy.data import digits_bundle
from understudy.versions import Record, Versions


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = await connect("memory://versions", name="controller")
    yield broker
    await broker.close()


async def make(broker: Broker, *, stages: int | None = None) -> Versions:
    """Those of a controller that was started with the digits, and whose store has their files."""
    bundle = digits_bundle()
    store = BlobStore(None)
    for name in bundle.manifest.files:
        store.put(bundle.path(name).read_bytes())
    exchange = BlobExchange(broker, store)
    return Versions(
        pipeline="digits",
        control=broker,
        manifest=bundle.manifest.to_json(),
        source=await SubmodelSource.open(bundle, await load_model(bundle), exchange, store),
        exchange=exchange,
        store=store,
        stages=stages,
    )


def another() -> str:
    """The same files under another version."""
    return digits_bundle().manifest.model_copy(update={"version": "another"}).to_json()


async def test_without_jetstream_a_version_is_served_as_long_as_the_controller_lives(broker: Broker) -> None:
    async with await make(broker) as versions:
        first = await versions.begin()
        version = await versions.open(another())
        await versions.keep(version)
        assert await versions.begin() is version.source is not first
        folder = version.folder.path
        assert (folder / "bundle" / "manifest.json").read_text() == another()
        await versions.end(stopped=True)
    assert not folder.exists()


async def test_what_a_controller_that_was_killed_has_left_is_removed_and_what_lives_is_not(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "understudy-update-1-left"
    left.mkdir()
    (left / "lock").touch()  # nobody holds it any more
    async with await make(broker) as one:
        assert not left.exists()
        version = await one.open(another())
        async with await make(broker):
            assert version.folder.path.exists()
        version.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("manifest", "error", "reason"),
    [
        ("not JSON", UpdateError, "the manifest is not understood"),
        ("{}", UpdateError, "the manifest is not understood"),
        (
            another().replace('"model.onnx": {', '"../model.onnx": {'),
            BundleError,
            "'../model.onnx' is not the path of a",
        ),
        (
            another().replace('"model.onnx": {', '"manifest.json": {'),
            BundleError,
            "'manifest.json' is not the path of a",
        ),
    ],
)
async def test_what_is_no_manifest_of_a_bundle_is_refused(
    broker: Broker, manifest: str, error: type[UnderstudyError], reason: str
) -> None:
    async with await make(broker) as versions:
        with pytest.raises(error, match=reason):
            await versions.open(manifest)


async def test_a_model_with_fewer_blocks_than_stages_are_asked_for_is_refused(broker: Broker) -> None:
    async with await make(broker, stages=1000) as versions:
        with pytest.raises(ModelError, match="can be cut into at most"):
            await versions.open(another())


def test_a_record_comes_back_from_what_is_kept_and_what_is_none_is_left_out() -> None:
    record = Record(base="0" * 64, manifest='{"name": "ä"}')
    assert Record.from_json(record.to_json()) == record
    for data in (b"", b"\xff", b"{}", b"[]", b"1", b'{"base": "0"}'):
        assert Record.from_json(data) is None
