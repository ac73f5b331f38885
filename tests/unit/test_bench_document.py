"""What all benchmarks write alike."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import document as documents
from bench.document import Busy, BusyMeter, DocumentError, Figure, at_least, at_most, command, figure, none_of, read
from bench.harness import write_json


def test_a_figure_is_held_against_what_is_wanted() -> None:
    assert at_most("silence", 40.0, 50, "ms") == Figure(name="silence", value=40.0, unit="ms", wanted="<= 50", met=True)
    assert at_most("silence", 51.0, 50).met is False
    assert at_least("right", 0.99, 0.98).met
    assert at_least("right", 0.97, 0.98).met is False
    assert (none_of("lost", 0).met, none_of("lost", 2).met) == (True, False)
    assert figure("rate", 20.0).met is None


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_was_not_measured_is_neither_met_nor_missed(value: float | None) -> None:
    for made in (at_most("a", value, 1), at_least("a", value, 1), figure("a", value)):
        assert (made.value, made.met) == (None, None)


def test_the_command_repeats_the_run_without_its_files() -> None:
    arguments = ["--quick", "--json", "a b.json", "--only", "kill,cut", "--plot=x.png"]
    assert command("bench.scenarios", arguments) == "python -m bench.scenarios --quick --only kill,cut"


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    figures = [at_most("silence", 40.0, 50, "ms"), none_of("lost", 0), figure("rate", math.nan, note="no engine")]
    busy = Busy(before=0.2, during=0.5, cores=2)
    written = documents.document("demo", figures, {"runs": [1]}, quick=True, packages=("numpy",), busy=busy)
    write_json(tmp_path / "demo.json", written)
    found = read(tmp_path / "demo.json")
    assert found.figures == tuple(figures)
    assert (found.benchmark, found.quick, found.busy) == ("demo", True, busy)
    assert found.busy is not None
    assert not found.busy.quiet
    assert found.machine["packages"].keys() == {"numpy"}
    assert json.loads((tmp_path / "demo.json").read_text())["runs"] == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "JSON"), ('{"benchmark": "x"}', "figures"), ('{"benchmark": "x", "figures": [{"value": 1}]}', "name")],
)
def test_what_no_benchmark_writes_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DocumentError, match=words):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"none\.json cannot be read: No such file"):
        read(tmp_path / "none.json")


def test_how_busy_the_machine_is_is_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LOOK_S", 0.0)
    clock = iter([(10.0, 0.0), (10.1, 1.0), (12.0, 2.0)])
    monkeypatch.setattr(documents, "_now", lambda: next(clock))
    monkeypatch.setattr(documents, "_all_cores", lambda: 2)
    found = BusyMeter().read()
    assert found == Busy(before=0.05, during=0.95, cores=2)
    assert found.quiet
