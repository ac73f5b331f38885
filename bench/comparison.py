"""A pipeline of K stages beside the references that it is compared with, measured round by round."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bench.harness import Summary, cores, ratios, summarise
from bench.pipeline import Pipeline, Singles, Streamed
from bench.reference import Measured, Mode

SAME = "same threads"
"""One call at a time, batch 1, and of up to T intra-op threads as many as make it fastest: what the ratio is about."""

CALLERS = "callers"
"""T Python threads that call one session at the same time, batch 1, one intra-op thread each."""

DECODING = "with decoding"
"""As SAME, and it decodes every frame first, as the pipeline does."""

BATCHED = "same batch"
"""As SAME, with the batch that the pipeline may use: what batching alone gains."""


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What was measured for one K. `threads`: T. `modes` and `references`: by kind of reference; one entry per round
    everywhere."""

    pipeline: Pipeline
    threads: int
    modes: dict[str, Mode]
    streamed: list[Streamed] = field(default_factory=list)
    references: dict[str, list[Measured]] = field(default_factory=dict)
    singles: Singles = field(default_factory=Singles)
    idle: dict[str, float] = field(default_factory=dict)
    rss_before: dict[str, int] = field(default_factory=dict)
    rss_after: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, pipeline: Pipeline, *, threads: int, fastest: Mode) -> Comparison:
        """With the references that apply: one that would be the same as SAME is left out."""
        modes = {SAME: fastest, DECODING: replace(fastest, decode=True)}
        if threads > 1:
            modes[CALLERS] = Mode(callers=threads)
        if pipeline.flow.batch > 1:
            modes[BATCHED] = replace(fastest, batch=pipeline.flow.batch)
        return cls(pipeline=pipeline, threads=threads, modes=modes)

    def ratio(self, kind: str) -> Summary:
        ours = [streamed.frames_per_s for streamed in self.streamed]
        return ratios(ours, [measured.frames_per_s for measured in self.references[kind]])

    @property
    def cpu_ratio(self) -> Summary:
        """CPU time of a frame in the reference, on one thread so that none spins, relative to the pipeline's: all
        of its processes, and the client."""
        single = self.references.get(CALLERS, self.references[SAME])
        measured = [entry.cpu_s / entry.frames for entry in single]
        return ratios(measured, [streamed.cpu_s_per_frame for streamed in self.streamed])

    @property
    def others(self) -> float:
        """Share of the cores that was busy with something else while the pipeline was measured."""
        return summarise(streamed.others_s / (streamed.elapsed_s * cores()) for streamed in self.streamed).median

    @property
    def cpu_s_per_frame(self) -> float:
        return summarise(streamed.cpu_s_per_frame for streamed in self.streamed).median

    @property
    def wrong(self) -> int:
        return sum(streamed.wrong for streamed in self.streamed)
