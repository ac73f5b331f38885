"""Frames stacked along the first axis: what may be stacked, and that joining and splitting lose and mix nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import WireError
from stages.batch import can_join, check, join, parts_below
from tests.unit.builders import activation, numbers, pipeline_spec, tensor

SPEC = pipeline_spec(tensor("x", None, 2), (tensor("y", None, 3), tensor("z", None, dtype="int64")))


def at_cut_1(count: int = 1, **changes: Any) -> dict[str, Any]:
    tensors = {"y": np.zeros((count, 3), np.float32), "z": np.zeros(count, np.int64)}
    return {**tensors, **changes}


def test_the_tensors_of_a_cut_are_accepted_for_one_frame_and_for_several() -> None:
    check(activation({"x": numbers(1)}), SPEC)
    check(activation(at_cut_1(3), ids="abc", cut=1), SPEC)


def test_any_size_is_accepted_where_the_model_leaves_it_open() -> None:
    spec = pipeline_spec(tensor("x", None, None), tensor("y", None, None))
    check(activation({"x": np.zeros((1, 77), np.float32)}), spec)


@pytest.mark.parametrize(
    ("tensors", "ids", "cut", "says"),
    [
        ({"x": numbers(1)}, "a", 2, "cut 2 does not exist: the model has cuts 0 to 1"),
        ({}, "a", 0, "cut 0 has 1 tensors, not 0"),
        ({"x": numbers(1)}, "a", 1, "cut 1 has 2 tensors, not 1"),
        ({"x": numbers(1), "more": numbers(1)}, "a", 0, "cut 0 has 1 tensors, not 2"),
        ({"other": numbers(1)}, "a", 0, "needs tensor 'x'"),
        ({"x": numbers(1).astype(np.float64)}, "a", 0, "needs tensor 'x': float32"),
        ({"x": numbers(1)[0]}, "a", 0, "needs tensor 'x'"),
        ({"x": numbers(1, width=3)}, "a", 0, r"has shape \(1, 3\)"),
        ({"x": numbers(1, 2)}, "a", 0, "holds 2 frames, the message names 1"),
        ({"x": numbers(1)}, "ab", 0, "holds 1 frames, the message names 2"),
        (at_cut_1(2, z=np.zeros(1, np.int64)), "ab", 1, "'z' holds 1 frames"),
    ],
)
def test_what_does_not_belong_to_the_cut_is_refused_with_the_reason(
    tensors: dict[str, Any], ids: str, cut: int, says: str
) -> None:
    with pytest.raises(WireError, match=says):
        check(activation(tensors, ids=ids, cut=cut), SPEC)


def test_several_frames_are_refused_where_the_model_cannot_stack_them() -> None:
    fixed = pipeline_spec(tensor("x", 1, 2), tensor("y", 1, 2), dynamic_batch=False)
    check(activation({"x": numbers(1)}), fixed)
    with pytest.raises(WireError, match="cannot be stacked"):
        check(activation({"x": numbers(1, 2)}, ids="ab"), fixed)


def test_joined_frames_keep_their_order_and_their_values() -> None:
    joined = join([activation({"x": numbers(1, 2)}, ids="ab"), activation({"x": numbers(3)}, ids="c")])
    assert [frame.id for frame in joined.frames] == ["a", "b", "c"]
    np.testing.assert_array_equal(joined.tensors["x"], numbers(1, 2, 3))


def test_a_single_activation_is_not_copied() -> None:
    single = activation({"x": numbers(1)})
    assert join([single]) is single


def test_frames_of_different_sizes_cannot_be_joined() -> None:
    assert can_join(activation({"x": numbers(1)}), activation({"x": numbers(1, 2)}, ids="ab"))
    assert not can_join(activation({"x": numbers(1)}), activation({"x": numbers(1, width=3)}))


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 400))
def test_the_parts_hold_all_frames_in_order_each_below_the_limit(count: int, width: int, limit: int) -> None:
    ids = [str(number) for number in range(count)]
    whole = activation({"x": numbers(*range(count), width=width), "y": np.arange(count, dtype=np.int8)}, ids=ids)
    parts = list(parts_below(whole, limit))
    assert [frame.id for part in parts for frame in part.frames] == ids
    np.testing.assert_array_equal(np.concatenate([part.tensors["x"] for part in parts]), whole.tensors["x"])
    np.testing.assert_array_equal(np.concatenate([part.tensors["y"] for part in parts]), whole.tensors["y"])
    for part in parts:
        assert part.size_bytes <= limit or len(part.frames) == 1
        assert (part.epoch, part.cut) == (whole.epoch, whole.cut)
    if whole.size_bytes <= limit:
        assert parts == [whole]


def test_frames_without_bytes_stay_in_one_part() -> None:
    empty = activation({"x": np.zeros((3, 0), np.float32)}, ids="abc")
    assert len(list(parts_below(empty, 10))) == 1
