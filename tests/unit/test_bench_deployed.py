"""What a deployment's answers are turned into. Nothing here is deployed or timed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from bench import deployed
from bench.deployed import Effort, NotMeasuredError, arrivals, measured, slice_rates, stream_s
from bench.networks import NETWORKS, chain_of, network
from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.plan import Stage
from planner.solve import price
from stages.manifest import TensorInput
from tests.unit.deployments import deployment
from understudy.emulation.disturbance import Answer
from understudy.emulation.report import Outcome

CHAIN = Chain(
    name="two",
    cut_bytes=(1000, 8000, 10),
    block_memory_bytes=(1, 1),
    block_peak_bytes=(0, 0),
    block_flops=(10, 10),
)
SEEN = Cluster(
    nodes=(NodeSpec(name="a", flops_per_s=100.0), NodeSpec(name="b", flops_per_s=100.0)),
    bandwidth_bytes_per_s=((0.0, 16000.0), (16000.0, 0.0)),
    source_bytes_per_s=(16000.0, 16000.0),
    sink_bytes_per_s=(16000.0, 16000.0),
)
PLAN = price(CHAIN, SEEN, [Stage(first_block=0, end_block=1, node="a"), Stage(first_block=1, end_block=2, node="b")])


def outcome(*at_s: float, streamed_s: float = 1e9, latency_s: float = 0.5, right: bool = True) -> Outcome:
    answers = [Answer(sent_s=each - latency_s, at_s=each, technique="none", right=right) for each in at_s]
    return Outcome(published=len(answers), answers=answers, streamed_s=streamed_s, cpu_busy=0.5, window=4)


def test_slices_have_equally_many_answers_and_the_rate_of_the_time_they_took() -> None:
    # Ten a second, then five a second.
    times = [number / 10 for number in range(11)] + [1 + number / 5 for number in range(1, 11)]
    assert slice_rates(times, 2) == pytest.approx([10, 5])
    assert slice_rates([0.0, 0.5, 1.0], 5) == pytest.approx([2, 2])


def test_answers_that_come_at_the_same_moment_are_no_slice_of_infinite_rate() -> None:
    assert slice_rates([0.0, 0.0, 1.0, 1.0, 2.0], 4) == pytest.approx([1, 1])


@pytest.mark.parametrize("times", [[], [3.0]])
def test_too_few_answers_are_no_measurement(times: list[float]) -> None:
    with pytest.raises(NotMeasuredError, match="stream for longer"):
        slice_rates(times)


def test_only_answers_of_the_full_pipeline_count() -> None:
    stream = outcome(2.0, 2.5, 3.0, 3.5, 4.0, 4.5, streamed_s=4.0)
    assert arrivals(stream) == [3.0, 3.5, 4.0]
    assert arrivals(outcome()) == []


def test_the_link_s_limit_is_that_of_whole_frames_of_ethernet_and_there_is_none_where_computing_is_slowest() -> None:
    found = measured(PLAN, outcome(1, 2), [outcome(*range(20))], ready_s=1.0)
    assert found.bottleneck == "a -> b, 8 kB"
    assert found.planned_per_s == pytest.approx(2)
    assert found.link_limit_per_s == pytest.approx(2 / 0.9564, rel=1e-3)
    assert found.of_plan == pytest.approx(0.5)
    assert found.of_link == pytest.approx(0.5 * 0.9564, rel=1e-3)
    slow = Cluster(nodes=(NodeSpec(name="a", flops_per_s=10.0),))
    alone = measured(
        price(CHAIN, slow, [Stage(first_block=0, end_block=2, node="a")]),
        outcome(1),
        [outcome(*range(20))],
        ready_s=1.0,
    )
    assert (alone.bottleneck, alone.link_limit_per_s, alone.of_link) == ("a computes", None, None)


def test_every_stream_counts_and_the_first_frame_alone_does_not() -> None:
    alone = outcome(1.0, 2.0, 3.0)
    alone.answers[0] = Answer(sent_s=0.0, at_s=1.0, technique="none", right=True)
    streams = [outcome(*range(20)), outcome(*(number / 2 for number in range(20)))]
    streams[1].cpu_busy = 0.9
    found = measured(PLAN, alone, streams, ready_s=1.0)
    assert found.alone_ms == pytest.approx((500, 500))
    assert found.rates == pytest.approx((1,) * 5 + (2,) * 5)
    assert (found.again, found.frames, found.cpu_bound) == (1, 43, True)


def test_every_kind_of_bad_answer_is_a_fault() -> None:
    lost, refused, wrong = outcome(*range(9)), outcome(*range(9)), outcome(*range(9), right=False)
    lost.published += 2
    lost.twice = 1
    refused.published += 1
    refused.errors = Counter({"timeout": 1})
    found = measured(PLAN, outcome(1), [lost, refused, wrong], ready_s=1.0)
    assert dict(found.bad) == {"wrong": 9, "lost": 2, "twice": 1, "errors": 1}
    assert found.faults == 13


def test_a_silence_counts_as_much_as_the_burst_after_it() -> None:
    # 100 answers in 10 s, of which 20 in a slice of 6 s.
    rates = (20 / 6, *([80 / 4] * 4))
    assert deployment(*rates).frames_per_s == pytest.approx(10)


def test_a_slow_plan_is_streamed_through_for_longer_up_to_a_bound() -> None:
    assert stream_s(PLAN, Effort(seconds=1.0)) == pytest.approx(15 * 0.5 + PLAN.latency_s + 1)
    assert stream_s(PLAN, Effort(seconds=20.0)) == pytest.approx(20 + PLAN.latency_s + 1)
    assert stream_s(PLAN, Effort(seconds=1.0, most_s=2.0)) == pytest.approx(2 + PLAN.latency_s + 1)


def test_a_deployment_above_85_percent_of_the_cores_is_marked() -> None:
    assert deployment(10.0, busy=0.86).cpu_bound
    assert not deployment(10.0, busy=0.85).cpu_bound
    assert deployment(10.0, busy=0.86).document()["cpu_bound"]


# ---- networks ------------------------------------------------------------------------------------------------------


def test_mobilenetv2_has_the_published_size_and_its_answers_depend_on_the_frame(tmp_path: Path) -> None:
    bundle = network("mobilenetv2", tmp_path)
    chain = chain_of(bundle)
    # Sandler et al., table 4: 3.4 million parameters and 300 million multiply-adds.
    assert sum(chain.block_memory_bytes) / 4 == pytest.approx(3.4e6, rel=0.05)
    assert sum(chain.block_flops) / 2 == pytest.approx(300e6, rel=0.05)
    assert chain.cut_bytes[0] == 4 * 3 * 224 * 224
    session = onnxruntime.InferenceSession(str(bundle.model_path), providers=["CPUExecutionProvider"])
    frames = np.random.default_rng(0).random((2, 1, 3, 224, 224), dtype=np.float32)
    one, other = (session.run(None, {"input": frame})[0] for frame in frames)
    assert one.sum() == pytest.approx(1, abs=1e-4)
    assert not np.allclose(one, other, rtol=1e-2)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "digits"])
def test_networks_take_tensors_so_that_a_frame_is_as_large_as_the_planner_thinks(name: str, tmp_path: Path) -> None:
    bundle = network(name, tmp_path)
    assert isinstance(bundle.manifest.input, TensorInput)
    assert bundle.manifest.name == name
    assert network(name, tmp_path).manifest == bundle.manifest


def test_the_warm_up_and_the_bound_are_those_of_the_methodology() -> None:
    text = (Path(deployed.__file__).parent / "METHODOLOGY.md").read_text()
    assert f"at least {deployed.WARM_UP_S:g} s after the first one of the stream" in text
    assert f"Above {deployed.CPU_BOUND:.0%}".replace("%", " %") in text
    assert f"Where the spread is above {deployed.UNSTEADY:.0%}".replace("%", " %") in text
