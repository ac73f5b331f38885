"""A result in one line, for people."""

from __future__ import annotations

from understudy.result import Result


def result_line(result: Result) -> str:
    if result.error is not None:
        return f"{result.id}  ERROR {result.error.code}: {result.error.reason}"
    if result.class_index is not None:
        answer = f"{result.label} ({result.scores[0].score:.3f})" if result.scores else str(result.label)
    else:
        answer = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in result.outputs.items())
    technique = "" if result.technique == "none" else f"  [{result.technique}]"
    nodes = " > ".join(hop.node for hop in result.path)
    return f"{result.id}  {answer}  {result.latency_ms:.1f} ms{technique}  {nodes}"
