"""Where a model can be cut: boundaries that few tensors cross, with a weighted operator on either side.

1. Within a segment of dynamic nodes (at first the whole model) the boundaries with the least number of crossing tensors
   are cuts. A segment between two neighbouring cuts that is still too large is cut again at its own minimum: that is
   how a U-Net, a transformer with a mask or a model of two towers gets its cuts.
2. A piece of cheap operators only joins a neighbour: of the boundaries between two weighted pieces one stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

# Residual, inception and transformer layers hold up to about ten weighted operators; a segment with more than this is
# several layers that some long connection (a U-Net's skip, a mask) holds together.
MAX_WEIGHTED_OPS = 12

# A piece with over half of the work, or of the weights, decides alone what the pipeline can gain.
MAX_SHARE = 0.5


# A tensor that crosses this part of a segment (a mask that every layer reads, a long skip) is paid for wherever the
# segment is cut: there it does not count. Otherwise the layer that reads it last would be cut inside its shortcut.
LONG_SHARE = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What the cutting rule knows of n dynamic nodes and their n - 1 interior boundaries.

    Attributes:
        weighted: n entries: 1 for a weighted operator, else 0.
        flops: n entries: floating-point operations of one frame.
        weight_bytes: n entries: bytes of the static tensors that the node reads.
        spans: per tensor that is read later the boundaries [first, end) that it crosses.
        allowed: n - 1 entries: False where the model must not be cut.
        crossing_bytes: n - 1 entries: bytes of all that crosses.
    """

    weighted: Sequence[int]
    flops: Sequence[int]
    weight_bytes: Sequence[int]
    spans: Sequence[tuple[int, int]]
    allowed: Sequence[bool]
    crossing_bytes: Sequence[int]


def choose_cuts(profile: Profile, is_skippable: Callable[[int, int], bool]) -> list[int]:
    """The interior boundaries to cut at, ascending; empty if there is none.

    Args:
        profile: costs of the nodes and of the boundaries.
        is_skippable: tells whether the dynamic nodes [start, end) would make a block that the identity can replace.
    """
    candidates = candidate_cuts(profile)
    if not any(profile.weighted):
        return candidates
    return _join_cheap(candidates, profile, is_skippable)


def candidate_cuts(profile: Profile) -> list[int]:
    """The boundaries of rule 1, ascending."""
    weighted, flops, weight_bytes = (
        [0, *accumulate(values)] for values in (profile.weighted, profile.flops, profile.weight_bytes)
    )

    def too_large(start: int, end: int) -> bool:
        count = weighted[end] - weighted[start]
        heavy = any(sums[end] - sums[start] > MAX_SHARE * sums[-1] for sums in (flops, weight_bytes))
        return count > MAX_WEIGHTED_OPS or (count > 1 and heavy)

    found: set[int] = set()
    last = len(profile.weighted)
    segments = [(0, last)]
    while segments:
        start, end = segments.pop()
        counts = _crossing(profile, start, end, count_long=(start, end) == (0, last))
        if not counts:
            continue
        least = min(counts.values())
        cuts = [boundary for boundary, count in counts.items() if count == least]
        found.update(cuts)
        edges = [start, *(boundary + 1 for boundary in cuts), end]
        segments.extend(segment for segment in pairwise(edges) if too_large(*segment))
    return sorted(found)


def _crossing(profile: Profile, start: int, end: int, *, count_long: bool) -> dict[int, int]:
    """How many tensors cross each boundary inside the nodes [start, end) that may be a cut."""
    length = max(end - 1 - start, 0)
    steps = [0] * (length + 1)
    for first, past in profile.spans:
        low, high = max(first - start, 0), min(past - start, length)
        if low < high and (count_long or high - low < LONG_SHARE * length):
            steps[low] += 1
            steps[high] -= 1
    counts = accumulate(steps[:length])
    return {boundary: count for boundary, count in enumerate(counts, start) if profile.allowed[boundary]}


def _join_cheap(candidates: Sequence[int], profile: Profile, is_skippable: Callable[[int, int], bool]) -> list[int]:
    """One boundary of `candidates` between each two neighbouring weighted pieces."""
    edges = [0, *(boundary + 1 for boundary in candidates), len(profile.weighted)]
    weighted = [0, *accumulate(profile.weighted)]
    pieces = [(first, last) for first, last in pairwise(edges) if weighted[last] > weighted[first]]
    kept: list[int] = []
    start = 0
    for (_, after), (following, _) in pairwise(pieces):
        choices = [boundary for boundary in candidates if after - 1 <= boundary < following]
        boundary = _best(choices, profile.crossing_bytes, [is_skippable(start, choice + 1) for choice in choices])
        kept.append(boundary)
        start = boundary + 1
    return kept


def _best(choices: Sequence[int], crossing_bytes: Sequence[int], skippable: Sequence[bool]) -> int:
    """The boundary among `choices` to cut at.

    The last that keeps the block before it skippable (a ResNet's pooling goes with the classifier). Else the one that
    fewest bytes cross, the last of equals: so the batch norm and ReLU stay with their convolution, where the runtime
    fuses them, and what crosses is sparse; and the cut lies before an upsampling, after a pooling or quantisation.
    """
    if any(skippable):
        return max(choice for choice, skips in zip(choices, skippable, strict=True) if skips)
    return min(choices, key=lambda boundary: (crossing_bytes[boundary], -boundary))
