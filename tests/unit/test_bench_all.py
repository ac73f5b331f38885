"""`python -m bench all`: which benchmarks it runs, what it makes of their ends, and its page."""

from __future__ import annotations

import html
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from bench import suite
from bench.__main__ import BENCHMARKS, main, parse
from bench.document import Busy, Document, Figure, at_most, figure, none_of
from bench.jobs import FULL, QUICK, Job, choose
from bench.suite import Ran, run_all, run_one, why_not

PIXEL = bytes.fromhex("89504e470d0a1a0a")
GOOD = '{"benchmark": "x", "figures": [{"name": "lost", "value": 0, "met": true}]}'


def test_every_benchmark_is_run_by_the_full_form() -> None:
    assert {job.name for job in FULL} >= BENCHMARKS.keys()
    assert len({job.name for job in FULL}) == len(FULL)


def test_the_short_form_takes_ten_minutes_at_most() -> None:
    assert sum(job.seconds for job in QUICK) <= 600
    assert all("--quick" in job.arguments for job in QUICK)


def test_what_is_asked_for_is_run_in_the_usual_order() -> None:
    assert [job.name for job in choose(quick=True, known=BENCHMARKS, only=["scenarios", "planner"])] == [
        "planner",
        "scenarios",
    ]
    assert [job.name for job in choose(quick=True, known={"scenarios"})] == ["scenarios"]


def test_a_benchmark_that_is_not_there_is_an_error_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["all", "--quick", "--only", "planer"])
    assert "no benchmark 'planer'; there are: codecs" in capsys.readouterr().err


def test_without_a_word_the_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"python -m bench.{name}: " in shown for name in BENCHMARKS)
    assert "python -m bench all --quick" in shown


# ---- running -------------------------------------------------------------------------------------------------------

Program = Callable[[str], Job]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """A job that runs this Python code, as a real process; `json` is the path of its results."""

    def make(code: str) -> Job:
        def command(job: Job, out: Path) -> list[str]:
            return ["-c", f"json = {str(job.json(out))!r}\n{code}"]

        monkeypatch.setattr(Job, "command", command)
        return Job(name="x", seconds=1)

    return make


def writing(text: str, code: int) -> str:
    return f"import pathlib, sys; pathlib.Path(json).write_text({text!r}); sys.exit({code})"


def test_one_that_ends_well_is_done_and_its_results_are_read(program: Program, tmp_path: Path) -> None:
    ran = run_one(program(writing(GOOD, 0)), tmp_path)
    assert (ran.state, ran.why, ran.log) == ("done", "", "")
    assert ran.document is not None
    assert ran.document.figures[0].name == "lost"


def test_one_that_found_something_wrong_keeps_its_results(program: Program, tmp_path: Path) -> None:
    ran = run_one(program(writing(GOOD, 1)), tmp_path)
    assert (ran.state, ran.good) == ("not kept", False)
    assert ran.document is not None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; print('no such thing'); sys.exit(2)", "code 2"),
        ("import sys; sys.exit(1)", "wrote no results"),
        ("pass", "cannot be read"),
        (writing("{}", 0), "is not what a benchmark writes"),
    ],
    ids=["error", "wrong", "silent", "garbage"],
)
def test_one_that_breaks_says_why(program: Program, tmp_path: Path, code: str, words: str) -> None:
    ran = run_one(program(code), tmp_path)
    assert (ran.state, ran.document) == ("failed", None)
    assert words in ran.why
    assert "print" not in code or ran.log == "no such thing"


def test_results_of_an_earlier_run_are_not_taken_for_those_of_this_one(program: Program, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(GOOD)
    assert run_one(program("pass"), tmp_path).state == "failed"


def test_one_that_takes_too_long_is_interrupted_and_may_clean_up(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "limit_s", 1.0)
    code = (
        "import time\nprint('up', flush=True)\ntry:\n    time.sleep(600)\nfinally:\n    print('cleaned up', flush=True)"
    )
    ran = run_one(program(code), tmp_path)
    assert (ran.state, ran.why) == ("failed", "it had not ended after 1 s")
    assert "cleaned up" in ran.log


def test_ctrl_c_lets_the_one_that_runs_clean_up_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="pip install jinja2")
    child = (
        "import time\nprint('up', flush=True)\ntry:\n    time.sleep(600)\nfinally:\n    print('cleaned up', flush=True)"
    )
    code = (
        "import sys\nfrom bench.__main__ import main\nfrom bench.jobs import Job\n"
        f"Job.command = lambda job, out: ['-c', {child!r}]\n"
        f"sys.exit(main(['all', '--quick', '--only', 'planner', '--out', {str(tmp_path)!r}]))"
    )
    log = tmp_path / "planner.log"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as running:
        deadline_s = time.monotonic() + 60
        while not (log.exists() and "up" in log.read_text()):
            assert running.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted" in out
    assert "cleaned up" in log.read_text()


def test_what_cannot_run_here_is_skipped_with_the_reason_and_the_rest_is_run(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "no_engine", lambda: "no Docker engine answers")
    job = program(writing(GOOD, 0))
    told: list[list[str]] = []
    jobs = [replace(job, name="a", engine=True), replace(job, name="b")]
    found = run_all(jobs, tmp_path, Console(quiet=True), lambda runs: told.append([ran.state for ran in runs]))
    assert [(ran.state, ran.why) for ran in found] == [("skipped", "no Docker engine answers"), ("done", "")]
    assert told == [["skipped"], ["skipped", "done"]]
    assert all(ran.good for ran in found)


def test_one_without_its_data_says_where_they_belong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNDERSTUDY_DATA", str(tmp_path))
    assert "set UNDERSTUDY_DATA" in why_not(Job(name="fitting", seconds=1, data="net.onnx"), "")
    assert why_not(Job(name="planner", seconds=1), "no engine") == ""


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_shows_figures_plots_reasons_and_a_machine_that_was_not_quiet(tmp_path: Path) -> None:
    page = pytest.importorskip("bench.page")
    pytest.importorskip("jinja2", reason="pip install jinja2")
    plot = tmp_path / "x.png"
    plot.write_bytes(PIXEL)
    document = Document(
        benchmark="planner",
        command="python -m bench.planner --quick",
        figures=(at_most("silence", 1234.5, 50, "ms"), none_of("lost", 0), figure("rate", None, note="<no engine>")),
        machine={"processor": "a & b", "packages": {"numpy": "2.4.6"}},
        busy=Busy(before=0.4, during=0.9, cores=2),
    )
    runs = [
        Ran(job=Job(name="planner", seconds=1), state="done", seconds=61.0, document=document, plot=plot),
        Ran(job=Job(name="scaling", seconds=1), state="skipped", why="no Docker engine answers"),
        Ran(job=Job(name="codecs", seconds=1), state="failed", why="it ended with code 2", log="<oops>"),
    ]
    titles = {"planner": "plans", "scaling": "nodes", "codecs": "bytes"}
    made = page.render(runs, titles, command="python -m bench all --quick", began=datetime(2026, 5, 1), seconds=540)
    for words in (
        "This was not a quiet machine",
        "planner (40%)",
        "1,234",
        "≤ 50 ✗",
        "0 ✓",
        "&lt;no engine&gt;",
        "no Docker engine answers",
        "it ended with code 2",
        "&lt;oops&gt;",
        "a &amp; b",
        "numpy 2.4.6",
        "python -m bench.planner --quick",
        "data:image/png;base64,iVBORw0KGgo=",
        "2026-05-01",
    ):
        assert words in made, words
    assert "http" not in made  # it needs nothing else


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3, "3"),
        (12345, "12,345"),
        (0.012345, "0.0123"),
        (12.34, "12.3"),
        (123.4, "123"),
        ("8 of 9", "8 of 9"),
    ],
)
def test_values_are_short(value: float | str, text: str) -> None:
    page = pytest.importorskip("bench.page")
    assert page.value_text(Figure(name="x", value=value)) == text


@pytest.mark.parametrize("code", [0, 1])
def test_the_whole_command_writes_the_page_and_its_exit_code_says_whether_all_was_well(
    program: Program, tmp_path: Path, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2", reason="pip install jinja2")
    program(writing(GOOD, code))
    out = tmp_path / "results"
    assert main(["all", "--quick", "--only", "planner", "--out", str(out)]) == code
    assert "report.html" in capsys.readouterr().out
    assert BENCHMARKS["planner"] in html.unescape((out / "report.html").read_text())
    assert json.loads((out / "planner.json").read_text())["benchmark"] == "x"
