"""A machine's profile: its journal, its file, and its transfer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from planner.profile import Profile
from stages.features import FEATURES, features, kind_of
from stages.layers import Layer
from tests.unit.latency_profiles import make_profile, roofline_law
from understudy.profilefile import journal_of, read_journal, read_profile, write_profile
from understudy.profiling import Options, profile_machine, transfer
from understudy.quantities import ConfigError

pytest.importorskip("lightgbm", reason="the extra 'profile' is not installed")

QUICK = Options(minutes=1e-6, quick=True)


def steps(each_s: float) -> Callable[[], float]:
    """A clock that goes on by so much whenever it is read."""
    ticks = count()
    return lambda: next(ticks) * each_s


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, Path]:
    """A profile of one batch, and its journal's file."""
    out = tmp_path_factory.mktemp("profile") / "machine.json"
    return profile_machine(out, QUICK), out


def test_a_profile_has_layers_with_all_features_and_says_on_what_machine(measured: tuple[Profile, Path]) -> None:
    profile, _ = measured
    assert len(profile.samples) > 5
    assert "convolution" in profile.kinds
    assert profile.feature_names == FEATURES
    assert {"processor", "cores", "threads", "onnxruntime", "seed", "quick"} <= set(profile.machine)
    assert profile.overhead_s > 0


def test_what_is_written_is_read_again(measured: tuple[Profile, Path], tmp_path: Path) -> None:
    profile, _ = measured
    write_profile(tmp_path / "a.json", profile)
    read = read_profile(tmp_path / "a.json")
    assert [(s.kind, s.features, s.seconds, s.index) for s in read.samples] == [
        (s.kind, s.features, s.seconds, s.index) for s in profile.samples
    ]
    assert (dict(read.machine), read.overhead_s) == (dict(profile.machine), profile.overhead_s)


def test_a_stopped_measurement_keeps_its_layers_and_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "machine.json"

    def stop(_share: float, layers: int) -> None:
        if layers > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_machine(out, replace(QUICK, minutes=60), on_progress=stop)
    _, kept = read_journal(journal_of(out))
    assert kept
    with journal_of(out).open("a") as file:
        file.write('{"index": 99, "lay')  # what a power cut leaves
    # Its clock says that the minutes are over as soon as the second batch is done.
    profile = profile_machine(out, replace(QUICK, minutes=1), resume=True, clock=steps(40.0))
    _, entries = read_journal(journal_of(out))
    assert entries[: len(kept)] == kept
    assert [entry.index for entry in entries] == list(range(len(entries)))
    assert len(entries) > len(kept)
    assert [s.seconds for s in profile.samples] == [s.seconds for entry in entries for s in entry.layers]


def test_a_journal_is_not_gone_on_with_unasked_or_under_other_conditions(measured: tuple[Profile, Path]) -> None:
    _, out = measured
    with pytest.raises(ConfigError, match="go on with --resume, or remove it"):
        profile_machine(out, QUICK)
    with pytest.raises(ConfigError, match=r"under other conditions.*threads 1, now 2"):
        profile_machine(out, replace(QUICK, threads=2), resume=True)


def test_a_line_that_is_no_entry_is_refused(measured: tuple[Profile, Path], tmp_path: Path) -> None:
    _, out = measured
    journal = tmp_path / "m.json.part"
    journal.write_text(journal_of(out).read_text() + "[1, 2]\n")
    with pytest.raises(ConfigError, match="not a profile's journal"):
        read_journal(journal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"overhead_s": 1.0}, "SHA-256 differs"),
        (lambda d: d | {"format": 9}, "has format 9"),
        (lambda d: {"kind": "other"}, "not a profile of a machine"),
    ],
)
def test_a_changed_profile_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    write_profile(path, make_profile({"convolution": roofline_law}, count=3))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ConfigError, match=message):
        read_profile(path)


def test_a_profile_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="understudy profile machine"):
        read_profile(tmp_path / "none.json")


def test_a_transfer_finds_the_ratio_of_each_type(measured: tuple[Profile, Path]) -> None:
    """The other machine takes 3 times as long for convolutions, and twice as long for all else."""
    profile, _ = measured
    known = {(s.kind, *s.features): s.seconds for s in profile.samples}

    def slow(layers: list[Layer]) -> list[float | None]:
        found: list[float | None] = []
        for layer in layers:
            row = features(layer)
            seconds = known.get((kind_of(layer), *(float(f"{row[name]:.6g}") for name in FEATURES)))
            found.append(None if seconds is None else (3 if kind_of(layer) == "convolution" else 2) * seconds)
        return found

    found = transfer(profile, timer=slow)
    assert found.ratios["convolution"] == pytest.approx(3)
    assert found.ratios["point-wise convolution"] == pytest.approx(2)
    assert max(found.ratio_spreads.values()) == pytest.approx(0, abs=1e-9)
    assert found.machine["like"] == dict(profile.machine)
    assert found.samples == profile.samples


def test_a_profile_that_does_not_say_how_it_was_sampled_cannot_be_transferred() -> None:
    with pytest.raises(ConfigError, match="how its layers were sampled"):
        transfer(make_profile({"convolution": roofline_law}, count=3))
