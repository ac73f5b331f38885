"""What the comparison with other systems counts and computes. Nothing here measures time."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from bench.asked import Asked, AskedError
from bench.others import systems
from bench.others.__main__ import parse
from bench.others.comparison import BATCHING, OURS, Comparison, Side, answers
from bench.others.driver import close, serve
from bench.others.report import figures, verdict
from bench.others.work import Scores, Work, open_work, prepare
from bench.others.zeromq import pack, unpack
from bench.pipeline import Streamed
from bench.subjects import load
from understudy.result import Result, Score

FRAMES = 400


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The digits network in three stages, and made-up scores: frame n is of class n % 10."""
    scratch = tmp_path_factory.mktemp("others")
    scores = np.eye(10)[np.arange(FRAMES) % 10].tolist()
    return prepare(load("digits", scratch), scores, cuts=(0, 1, 2), window=4, scratch=scratch, folder=scratch / "work")


class Echo:
    """Answers with made-up scores; `mistaken` frames, counted from 0, get those of another class."""

    polling = ()

    def __init__(self, work: Work, mistaken: tuple[int, ...] = ()) -> None:
        self._work = work
        self._mistaken = mistaken
        self._waiting: deque[int] = deque()
        self._sent = 0
        self.most = 0

    def pids(self) -> Mapping[str, int]:
        return {}

    def send(self, frame: bytes) -> None:
        assert frame == self._work.frames[self._sent % FRAMES]
        self._waiting.append(self._sent)
        self._sent += 1
        self.most = max(self.most, len(self._waiting))

    def receive(self) -> Scores:
        number = self._waiting.popleft()
        return self._work.scores[(number + (number in self._mistaken)) % FRAMES]


def asked(chain: Echo, work: Work, *requests: dict[str, object]) -> list[dict[str, float]]:
    answers = io.StringIO()
    serve(chain, work, io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_the_work_is_the_same_for_whoever_reads_it(work: Work) -> None:
    read = open_work(work.folder)
    assert (read.bounds, read.window, read.stages) == ((0, 1, 2, work.spec.blocks), 4, 3)
    assert read.frames == work.frames
    assert (read.scores == work.scores).all()
    assert all(read.stage_path(stage).is_file() for stage in range(3))


def test_every_frame_is_checked_once_with_no_more_than_the_window_under_way(work: Work) -> None:
    chain = Echo(work, mistaken=(3, 399, 400))
    assert asked(chain, work, {"do": "check"}) == [{"wrong": 2, "frames": FRAMES}]
    assert chain.most == work.window


def test_wrong_answers_of_a_stream_are_counted_also_those_outside_the_slice(work: Work) -> None:
    (streamed,) = asked(Echo(work, mistaken=(0, 1)), work, {"do": "stream", "seconds": 0.0})
    assert streamed["wrong"] == 2
    assert streamed["frames"] == 1


def test_singles_are_sent_one_at_a_time(work: Work) -> None:
    chain = Echo(work)
    (found,) = asked(chain, work, {"do": "singles", "seconds": 0.0})
    assert len(found) == 1
    assert chain.most == 1


def test_scores_may_differ_by_rounding_and_no_more() -> None:
    scores = np.array([10.0, -3.0], np.float32)
    assert close(scores, scores + np.float32(1e-4))
    assert not close(scores, scores + np.float32(0.02))
    assert not close(scores, scores[:1])


def test_a_result_answers_if_class_and_scores_are_the_whole_network_s_and_nothing_was_lost() -> None:
    def result(class_index: int, score: float, technique: str = "none") -> Result:
        top = (Score(class_index=class_index, label="", score=score),)
        return Result(id="1", class_index=class_index, scores=top, technique=technique)

    expected = [0.1, 0.7, 0.2]
    assert answers(result(1, 0.7001), expected)
    assert not answers(result(2, 0.2), expected)
    assert not answers(result(1, 0.6), expected)
    assert not answers(result(1, 0.7, "exit"), expected)


def test_tensors_go_through_a_zeromq_message_and_are_read_in_place() -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "b": np.array([7], np.int64)}
    parts = [bytes(part) for part in pack(5, tensors)]
    number, read = unpack(parts)
    assert number == 5
    assert {name: value.tolist() for name, value in read.items()} == {n: v.tolist() for n, v in tensors.items()}
    assert [value.dtype for value in read.values()] == [np.float32, np.int64]
    assert np.shares_memory(read["a"], np.frombuffer(parts[1], np.float32))


def side(name: str, *rates: int, cpu_s: float = 1.0, single_us: float = 100.0, wrong: int = 0) -> Side:
    rounds = [Streamed(frames=rate, elapsed_s=1.0, cpu_s={"all": cpu_s}, others_s=0.0, wrong=wrong) for rate in rates]
    return Side(name=name, runs=None, window=4, streamed=rounds, single_us=[single_us] * len(rates))  # type: ignore[arg-type]


@pytest.fixture
def run(work: Work, tmp_path: Path) -> Comparison:
    sides = [
        side(OURS, 100, 50),
        side(BATCHING, 300, 150),
        side("zeromq", 200, 100, cpu_s=0.5, single_us=50.0),
        side("ray", 80, 40, wrong=1),
        side("ray-graph", 102, 51),
    ]
    return Comparison(subject=load("digits", tmp_path), work=work, batch=42, sides=sides)


def test_others_are_compared_with_ours_of_the_same_round(run: Comparison) -> None:
    zeromq = run.sides[2]
    assert run.rate(zeromq).median == pytest.approx(2.0)
    assert run.cpu(zeromq).median == pytest.approx(0.25)
    assert run.latency(zeromq).median == pytest.approx(0.5)


def test_the_report_says_where_others_are_faster(run: Comparison) -> None:
    assert verdict(run) == [
        "faster than Understudy: ZeroMQ PUSH/PULL (2.00)",
        "as fast: Ray compiled graph (1.02)",
        "slower: Ray actors (0.80)",
    ]


def test_headlines_are_wrong_answers_and_ratios_with_what_is_not_promised(run: Comparison) -> None:
    wrong, *compared, absent = figures([run], {"resnet32": "no such file"})
    assert (wrong.value, wrong.met) == (2, False)
    (rate,) = (one for one in compared if one.name == "digits: ZeroMQ PUSH/PULL / Understudy, frames/s")
    assert rate.value == pytest.approx(2.0)
    assert "no re-send" in (rate.note or "")
    assert (absent.name, absent.value, absent.note) == ("resnet32", None, "left out: no such file")


def test_what_is_not_installed_is_missing_and_the_rest_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "find_spec", lambda package: None if package == "ray" else object())
    assert [name for name, system in systems.SYSTEMS.items() if system.missing] == ["ray", "ray-graph"]
    assert "ray is not installed: pip install" in systems.SYSTEMS["ray"].hint


def test_quick_leaves_out_a_model_and_models_may_be_named() -> None:
    assert parse([]).model == ("digits", "resnet32", "resnet50")
    assert parse(["--quick"]).model == ("digits", "resnet50")
    assert parse(["--model", "resnet32,digits,resnet32"]).model == ("resnet32", "digits")


@pytest.mark.parametrize("arguments", [["--model", "resnet999"], ["--stages", "1"]])
def test_an_unknown_model_and_a_single_stage_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert arguments[0] in capsys.readouterr().err


async def test_a_process_that_has_ended_is_an_error_that_names_it(capfd: pytest.CaptureFixture[str]) -> None:
    async with Asked("bench.reference", "digits") as asked:  # an argument is missing
        for _ in range(2):
            with pytest.raises(AskedError, match=r"bench\.reference has ended"):
                await asked.ask({"scores": True})
    assert "SCRATCH" in capfd.readouterr().err
