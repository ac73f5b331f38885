"""A bundle: a folder with `model.onnx`, `manifest.json` and what else the manifest lists, each file by its SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from stages.description import Normalisation, describe
from stages.errors import BundleError
from stages.manifest import (
    FORMAT,
    MANIFEST_FILE,
    MODEL_FILE,
    FileRecord,
    Manifest,
    NodeProfile,
    Task,
    content_version,
)

MAX_MANIFEST_BYTES = 16 * 2**20
MAX_MODEL_BYTES = 2**31 - 1  # protobuf's limit for one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A model with what is needed to run it.

    Attributes:
        folder: the bundle's folder; None for a bare model, see `bundle_from_model`.
        manifest: what the folder says, or what the graph of the bare model tells.
        model_path: the ONNX file.
    """

    folder: Path | None
    manifest: Manifest
    model_path: Path

    @classmethod
    def load(cls, folder: Path | str, *, verify: bool = True) -> Bundle:
        """Read a bundle.

        Args:
            folder: where `manifest.json` is.
            verify: compare every file with its SHA-256; False only checks that the files are there with their sizes.

        Raises:
            BundleError: no such folder, no or malformed manifest, an unknown format, a file that is missing, outside
                the folder, or not what the manifest says.
        """
        root = Path(folder)
        if not root.is_dir():
            raise BundleError(f"there is no bundle folder '{root}': make one with 'understudy prepare'")
        manifest = _parse_manifest(_read_manifest(root), root / MANIFEST_FILE)
        if manifest.model not in manifest.files:
            raise BundleError(f"bundle '{root}': the model '{manifest.model}' is not among the files of the manifest")
        for name, record in manifest.files.items():
            _check_file(root, name, record, verify=verify)
        return cls(folder=root, manifest=manifest, model_path=root / manifest.model)

    def path(self, name: str) -> Path:
        """The path of a file of the bundle.

        Raises:
            BundleError: the manifest does not list it.
        """
        if self.folder is None or name not in self.manifest.files:
            raise BundleError(f"bundle '{self.manifest.name}' has no file '{name}'")
        return self.folder / name


def _read_manifest(root: Path) -> str:
    path = root / MANIFEST_FILE
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"'{path}' is larger than {MAX_MANIFEST_BYTES} bytes: that is no manifest")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BundleError(
            f"'{root}' is no bundle: it has no {MANIFEST_FILE}; 'understudy prepare' makes one"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot read '{path}': {error}") from error


def _parse_manifest(text: str, path: Path) -> Manifest:
    try:
        document: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise BundleError(f"'{path}' line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # too deep; an integer of too many digits
        raise BundleError(f"'{path}' is not usable JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"'{path}' holds a JSON {type(document).__name__}, a manifest is an object")
    found = document.get("format")
    if found != FORMAT:
        raise BundleError(
            f"'{path}' has format {found!r}, this version reads format {FORMAT}: make the bundle again with "
            f"'understudy prepare', or use the version that made it"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the manifest"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BundleError(f"'{path}': {where}: {first['msg']}{more}") from error


def check_name(bundle: Path | str, name: str) -> None:
    """A path of the manifest must stay below the folder on every system: relative, POSIX, no `..`, no drive.

    Raises:
        BundleError: it does not; names the bundle.
    """
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name.startswith("/")
        or ".." in parts
        or re.search(r"[\\:\x00-\x1f]", name)
        or str(PurePosixPath(name)) != name
        or name == MANIFEST_FILE
    ):
        raise BundleError(f"bundle '{bundle}': '{name}' is not the path of a file inside the bundle")


def _check_file(root: Path, name: str, record: FileRecord, *, verify: bool) -> None:
    check_name(root, name)
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"bundle '{root}': '{name}' is a link out of the bundle: copy the file into it")
    if not path.is_file():
        raise BundleError(f"bundle '{root}': the file '{name}' is missing")
    try:
        size = path.stat().st_size
        sha256 = _hash_file(path) if verify and size == record.bytes else None
    except OSError as error:
        raise BundleError(f"bundle '{root}': cannot read '{name}': {error}") from error
    if size != record.bytes:
        raise BundleError(f"bundle '{root}': '{name}' has {size} bytes, the manifest says {record.bytes}")
    if sha256 is not None and sha256 != record.sha256:
        raise BundleError(
            f"bundle '{root}': '{name}' is not the file that the manifest names: SHA-256 {sha256[:12]}… was found, "
            f"{record.sha256[:12]}… is expected; copy the bundle again"
        )


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bundle(
    folder: Path | str,
    draft: Manifest,
    *,
    model_path: Path,
    extra_files: Mapping[str, bytes] | None = None,
    force: bool = False,
) -> Bundle:
    """Write a bundle: all of it or nothing. A reader sees the old bundle or the new one.

    Args:
        folder: is made; its parents too.
        draft: the manifest without version and files (`stages.description.describe`); both are filled in.
        model_path: copied to `model.onnx`; weights in files of their own are taken into it.
        extra_files: relative POSIX path to content; become part of the bundle.
        force: replace a bundle that is there. What is there and is no bundle is never replaced.

    Raises:
        BundleError: the folder exists (and is no bundle, or `force` is not set), or cannot be written.
    """
    target = Path(folder).resolve()
    check_writable(target, force=force)
    files = {MODEL_FILE: _model_bytes(model_path), **(extra_files or {})}
    for name in files:
        check_name(target, name)
    records = {
        name: FileRecord(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        for name, data in sorted(files.items())
    }
    manifest = draft.model_copy(update={"model": MODEL_FILE, "files": records})
    manifest = manifest.model_copy(update={"version": content_version(manifest)})
    # A sibling, so that the rename stays on one file system; a dot, so that nobody takes it for a bundle.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
    try:
        for name, data in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (temporary / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        _swap(temporary, target)
    except OSError as error:
        raise BundleError(f"cannot write the bundle '{target}': {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(folder=Path(folder), manifest=manifest, model_path=Path(folder) / MODEL_FILE)


def store_profile(bundle: Bundle, node: str, profile: NodeProfile) -> Bundle:
    """Put what the model takes on a node into the bundle's manifest, which gets another version by it.

    Raises:
        BundleError: it is a bare model, or the manifest cannot be written.
    """
    if bundle.folder is None:
        raise BundleError(f"'{bundle.model_path}' is a bare model: make a bundle with 'understudy prepare'")
    manifest = bundle.manifest.model_copy(update={"profile": {**bundle.manifest.profile, node: profile}})
    manifest = manifest.model_copy(update={"version": content_version(manifest)})
    path = bundle.folder / MANIFEST_FILE
    temporary = path.with_name(f".{MANIFEST_FILE}.{uuid.uuid4().hex[:12]}")
    try:
        temporary.write_text(manifest.to_json(), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BundleError(f"cannot write '{path}': {error}") from error
    return Bundle(folder=bundle.folder, manifest=manifest, model_path=bundle.model_path)


def check_writable(folder: Path | str, *, force: bool) -> None:
    """Whether `write_bundle` would accept the folder; call it before long work.

    Raises:
        BundleError: something is there that must not be replaced.
    """
    target = Path(folder)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MANIFEST_FILE).is_file():
        raise BundleError(f"'{target}' exists and is no bundle: choose another output, it is not overwritten")
    if not force:
        raise BundleError(f"the bundle '{target}' exists: add --force to replace it, or choose another output")


def _swap(temporary: Path, target: Path) -> None:
    """Put the new folder in place. A folder with content cannot be renamed over: the old one steps aside first."""
    if not target.exists():
        temporary.rename(target)
        return
    aside = target.with_name(f"{temporary.name}.old")
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _model_bytes(model_path: Path) -> bytes:
    """The model as one file. Weights that are kept in files beside it would be lost by a plain copy."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        data = model_path.read_bytes()
        model = onnx.load_model_from_string(data)
        if not any(uses_external_data(tensor) for tensor in model.graph.initializer):
            return data
        model = onnx.load(os.fspath(model_path))  # follows the references, and refuses those out of the folder
        size_bytes = model.ByteSize()
        packed: bytes = b"" if size_bytes > MAX_MODEL_BYTES else model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf and onnx raise classes of their own
        raise BundleError(f"cannot read the model '{model_path}': {error}") from error
    if not packed:
        raise BundleError(f"'{model_path}' has {size_bytes} bytes with its weights: a bundle holds at most 2 GiB")
    return packed


def bundle_from_model(
    model_path: Path | str,
    *,
    name: str | None = None,
    labels: tuple[str, ...] | None = None,
    task: Task | None = None,
    normalisation: Normalisation | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> Bundle:
    """A bare model as a bundle without a folder: nothing is copied or written.

    The manifest is what the graph tells (see `stages.description.describe`); pixels are scaled by 1/255 alone unless
    a normalisation is given.

    Raises:
        ModelError: the model cannot be used.
        BundleError: what is given does not fit the model.
    """
    from stages.graph import ModelGraph

    path = Path(model_path)
    graph = ModelGraph.load(path, shapes=shapes)
    draft = describe(
        graph, name=name or path.stem, labels=labels, task=task, normalisation=normalisation, shapes=shapes
    )
    record = FileRecord(sha256=_hash_file(path), bytes=path.stat().st_size)
    manifest = draft.model_copy(update={"model": path.name, "files": {path.name: record}})
    manifest = manifest.model_copy(update={"version": content_version(manifest)})
    return Bundle(folder=None, manifest=manifest, model_path=path)
