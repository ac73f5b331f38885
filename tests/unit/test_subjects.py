"""Subjects: which names can be part of one, and that no two subjects can be mistaken for each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import subjects
from broker.errors import SubjectError

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)


@given(names)
def test_letters_digits_hyphens_and_underscores_make_a_name(name: str) -> None:
    assert subjects.check_name("node", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "_",
        "_a",
        "-a",
        "a.b",
        "a b",
        "a\n",
        "a*",
        ">",
        "*",
        "a/b",
        "a+b",
        "a#",
        "$SYS",
        "\u00e9",
        "a\u0661",
        "a" * 64,
    ],
)
def test_a_name_that_would_change_a_subject_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(SubjectError, match=r"pipeline name .* is not usable: 1 to 63 letters, digits"):
        subjects.check_name("pipeline", name)


def test_the_subjects_are_those_that_the_protocol_documents() -> None:
    assert subjects.frames_in("digits") == "understudy.digits.in"
    assert subjects.results_out("digits") == "understudy.digits.out"
    assert subjects.dead_letters("digits") == "understudy.digits.dead"
    assert subjects.activation("digits", 4, "node1") == "understudy.digits.cut.4.node1"
    assert subjects.activations("digits", "node1") == "understudy.digits.cut.*.node1"
    assert subjects.handover("digits", "node1") == "understudy.digits.handover.node1"
    assert subjects.sent("digits", "node1") == "understudy.digits.sent.node1"
    assert subjects.lead("digits") == "understudy.digits.lead"
    assert subjects.events("digits") == "understudy.digits.events"
    assert subjects.journal("digits") == "understudy.digits.journal"
    assert subjects.blob("ab12") == "understudy._.blob.ab12"
    assert subjects.assign("node1") == "understudy._.assign.node1"
    assert subjects.spares("node1") == "understudy._.spares.node1"
    assert subjects.confirm("digits") == "understudy._.confirm.digits"
    assert subjects.update("digits") == "understudy._.update.digits"
    assert subjects.activate("digits") == "understudy._.activate.digits"
    assert subjects.probe("node1") == "understudy._.probe.node1"
    assert subjects.probe_data("node1") == "understudy._.probe-data.node1"
    assert subjects.beat("node1") == "understudy._.beat.node1"
    assert subjects.pulse("node1") == "understudy._.pulse.node1"
    assert (subjects.STATUS, subjects.BEATS, subjects.PULSES, subjects.BYE) == (
        "understudy._.status",
        "understudy._.beat.*",
        "understudy._.pulse.*",
        "understudy._.bye",
    )


@given(names, names, st.integers(0, 999))
def test_no_pipeline_and_no_node_can_take_the_place_of_a_control_subject(pipeline: str, node: str, cut: int) -> None:
    data = [
        subjects.frames_in(pipeline),
        subjects.results_out(pipeline),
        subjects.dead_letters(pipeline),
        subjects.activation(pipeline, cut, node),
        subjects.handover(pipeline, node),
        subjects.sent(pipeline, node),
        subjects.lead(pipeline),
        subjects.events(pipeline),
        subjects.journal(pipeline),
    ]
    control = [subjects.STATUS, subjects.beat(node), subjects.BYE, subjects.assign(node), subjects.activate(pipeline)]
    control += [subjects.probe(node), subjects.probe_data(node), subjects.pulse(node), subjects.spares(node)]
    control += [subjects.confirm(pipeline), subjects.update(pipeline)]
    assert len({*data, *control}) == len(data) + len(control)
    assert not any(subject.startswith("understudy._.") for subject in data)
    assert all(token and not set(token) & set(" *>\t\n") for subject in data + control for token in subject.split("."))
