"""The file of a machine's profile, and the journal that it is made from. docs/profiler.md describes both.

A profile is one JSON document with its own SHA-256. The journal is JSON lines: the conditions first, then one line for
each model of layers that was timed. Lines are only ever appended, so whatever stops a measurement loses no line; half a
line at the end is what was being written, and is passed over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planner.farweights import FarWeights
from planner.profile import Profile, ProfileError, Sample
from understudy.quantities import ConfigError

FORMAT = 1
KIND = "machine-profile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which a journal's samples were taken. Samples of others do not go together with them.

    Attributes:
        machine: see `Profile.machine`.
        feature_names: see there.
        seed, quick: which layers are sampled.
    """

    machine: Mapping[str, Any]
    feature_names: tuple[str, ...]
    seed: int
    quick: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of layers.

    Attributes:
        index: which sample.
        layers: its layers that were not timed before; may be empty.
        reference_s: the reference's best run until then.
        elapsed_s: seconds that were spent on measuring until then.
    """

    index: int
    layers: tuple[Sample, ...]
    reference_s: float
    elapsed_s: float


def journal_of(profile: Path) -> Path:
    return profile.with_name(profile.name + ".part")


class Journal:
    """Appends entries."""

    def __init__(self, path: Path, conditions: Conditions) -> None:
        """Start one, or go on with one. What half a line is at its end is cut off.

        Raises:
            ConfigError: it cannot be written.
        """
        self._path = path
        try:
            text = path.read_text() if path.exists() else ""
            if not text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(_conditions_document(conditions)) + "\n")
            elif not text.endswith("\n"):
                path.write_text(text[: text.rfind("\n") + 1])
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error

    def append(self, entries: Sequence[Entry]) -> None:
        """Raises ConfigError where the disk is full."""
        lines = [json.dumps(_entry_document(entry), separators=(",", ":")) + "\n" for entry in entries]
        try:
            with self._path.open("a") as file:
                file.write("".join(lines))
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error.strerror}") from error


def read_journal(path: Path) -> tuple[Conditions, list[Entry]]:
    """The conditions, and the whole lines.

    Raises:
        ConfigError: it cannot be read, or is not such a journal.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    lines = text.split("\n")[:-1]  # behind the last line's end there is nothing, or half a line
    if not lines:
        raise ConfigError(f"{path} is empty: remove it")
    try:
        conditions = _conditions(json.loads(lines[0]))
        entries = [_entry(json.loads(line)) for line in lines[1:]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a profile's journal ({error}): remove the file") from error
    return conditions, entries


def write_profile(path: Path, profile: Profile, *, scores: Sequence[Mapping[str, Any]] = ()) -> None:
    """Raises ConfigError where it cannot be written."""
    kinds = profile.kinds
    document: dict[str, Any] = {
        "format": FORMAT,
        "kind": KIND,
        "machine": dict(profile.machine),
        "overhead_s": profile.overhead_s,
        "feature_names": profile.feature_names,
        "kinds": kinds,
        "settings": profile.settings,
        "ratios": profile.ratios,
        "ratio_spreads": profile.ratio_spreads,
        "far": None if profile.far is None else asdict(profile.far),
        "scores": list(scores),
        "samples": [
            [
                kinds.index(sample.kind),
                sample.index,
                sample.seconds,
                round(sample.spread, 5),
                *map(_short, sample.features),
            ]
            for sample in profile.samples
        ],
    }
    text = _canonical(document)
    digest = hashlib.sha256(text.encode()).hexdigest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_canonical({**document, "sha256": digest}) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def read_profile(path: Path) -> Profile:
    """A profile, whose SHA-256 is compared.

    Raises:
        ConfigError: missing, not a profile, of another format, or changed since it was written.
    """
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no profile {path}: make one with 'understudy profile machine'") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path} as a profile: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ConfigError(f"{path} is not a profile of a machine: make one with 'understudy profile machine'")
    if document.get("format") != FORMAT:
        raise ConfigError(f"{path} has format {document.get('format')!r}, this version reads {FORMAT}: profile again")
    digest = document.pop("sha256", None)
    if digest != hashlib.sha256(_canonical(document).encode()).hexdigest():
        raise ConfigError(f"{path} was changed or cut short since it was written: its SHA-256 differs. Profile again")
    try:
        return _profile(document)
    except (ProfileError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{path} is not a usable profile: {error}") from error


def _profile(document: Mapping[str, Any]) -> Profile:
    kinds = document["kinds"]
    return Profile(
        machine=document["machine"],
        feature_names=tuple(document["feature_names"]),
        overhead_s=float(document["overhead_s"]),
        settings=document["settings"],
        ratios=document["ratios"],
        ratio_spreads=document["ratio_spreads"],
        far=None if document["far"] is None else _far(document["far"]),
        samples=tuple(
            Sample(kind=kinds[kind], index=index, seconds=seconds, spread=spread, features=tuple(features))
            for kind, index, seconds, spread, *features in document["samples"]
        ),
    )


def _far(document: Mapping[str, Any]) -> FarWeights:
    return FarWeights(
        seconds_per_byte=document["seconds_per_byte"],
        shares=tuple((float(size), float(share)) for size, share in document["shares"]),
    )


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), sort_keys=True)


def _short(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")


def _conditions_document(conditions: Conditions) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "machine": dict(conditions.machine),
        "feature_names": conditions.feature_names,
        "seed": conditions.seed,
        "quick": conditions.quick,
    }


def _conditions(document: Mapping[str, Any]) -> Conditions:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}")
    return Conditions(
        machine=document["machine"],
        feature_names=tuple(document["feature_names"]),
        seed=int(document["seed"]),
        quick=bool(document["quick"]),
    )


def _entry_document(entry: Entry) -> dict[str, Any]:
    return {
        "index": entry.index,
        "reference_s": entry.reference_s,
        "elapsed_s": round(entry.elapsed_s, 3),
        "layers": [
            [layer.kind, layer.seconds, round(layer.spread, 5), *map(_short, layer.features)] for layer in entry.layers
        ],
    }


def _entry(document: Mapping[str, Any]) -> Entry:
    index = int(document["index"])
    return Entry(
        index=index,
        reference_s=float(document["reference_s"]),
        elapsed_s=float(document["elapsed_s"]),
        layers=tuple(
            Sample(kind=str(kind), seconds=float(seconds), spread=float(spread), features=tuple(features), index=index)
            for kind, seconds, spread, *features in document["layers"]
        ),
    )
