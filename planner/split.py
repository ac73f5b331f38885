"""Split a chain so that the largest stage is least, under each node's memory.

Symbols: B blocks, f_b the FLOPs of block b, n nodes with memory M_v. A plan cuts [0, B) into K <= n runs, each on a
node of its own, such that memory(i, j) <= M_v for the run [i, j) on node v. We minimise max over runs of the sum of
f_b; among plans with the same maximum the one with fewer stages wins, then the one that the order of nodes gives first.

For a fixed order of the nodes this is exact, by dynamic programming over (blocks done, nodes seen). Memories differ, so
the order matters: the given order, ascending and descending memory are tried. Links are not looked at here.
(SEIFER, arXiv 2304.11941, section IV partitions by memory first as well, but by bytes crossing the cuts.)
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.chain import Chain
from planner.cluster import NodeSpec
from planner.plan import NoPlanError, Plan, Stage

_Table = list[list[tuple[int, int] | None]]
"""[nodes seen][blocks done] -> (largest stage's FLOPs, number of stages), or None where that cannot be."""


def split(
    chain: Chain, nodes: Sequence[NodeSpec], *, stages: int | None = None, max_cut_bytes: int | None = None
) -> Plan:
    """The plan with the least largest stage.

    Args:
        stages: exactly so many stages; None leaves the number to the planner.
        max_cut_bytes: no activation between two stages may be larger than this (the broker's payload limit).

    Raises:
        NoPlanError: nothing fits; says what stands in the way.
    """
    _check(chain, nodes, stages)
    descending = sorted(nodes, key=lambda node: _memory(node), reverse=True)
    best: tuple[tuple[int, int], Plan] | None = None
    for order in (list(nodes), descending, descending[::-1]):
        found = _split_in_order(chain, order, stages, max_cut_bytes)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        raise NoPlanError(_explain(chain, nodes, stages, max_cut_bytes))
    return best[1]


def _check(chain: Chain, nodes: Sequence[NodeSpec], stages: int | None) -> None:
    if not nodes:
        raise NoPlanError("there is no node")
    if stages is None:
        return
    if stages < 1:
        raise NoPlanError(f"{stages} stages were asked for: at least 1 is needed")
    if stages > len(nodes):
        raise NoPlanError(f"{stages} stages need {stages} nodes, and there are {len(nodes)}")
    if stages > chain.blocks:
        hint = "it has no cut" if chain.blocks == 1 else f"it can be cut into at most {chain.blocks}"
        raise NoPlanError(
            f"{stages} stages were asked for, but model '{chain.name}' has {chain.blocks} block(s): {hint}"
        )


def _memory(node: NodeSpec) -> float:
    return float("inf") if node.memory_bytes is None else node.memory_bytes


def _split_in_order(
    chain: Chain, nodes: Sequence[NodeSpec], stages: int | None, max_cut_bytes: int | None
) -> tuple[tuple[int, int], Plan] | None:
    """The best plan that uses the nodes in this order (some may be left out)."""
    limit = len(nodes) if stages is None else stages
    if max_cut_bytes is not None and chain.cut_bytes[-1] > max_cut_bytes:
        # The output goes from the last stage's node to the first one's, where the head is: it can only stay there.
        limit = 1
        if stages not in (None, 1):
            return None
    tables, choices = _fill(chain, nodes, limit, max_cut_bytes)
    counts = range(1, limit + 1) if stages is None else (stages,)
    reachable = [(value, k) for k in counts if (value := tables[k][len(nodes)][chain.blocks]) is not None]
    if not reachable:
        return None
    largest, count = min(reachable)
    runs: list[Stage] = []
    seen, done = len(nodes), chain.blocks
    for k in range(count, 0, -1):
        seen, start = choices[k][seen][done]
        runs.append(Stage(first_block=start, end_block=done, node=nodes[seen].name))
        done = start
    plan = Plan(stages=tuple(reversed(runs)), largest_stage_flops=largest, total_flops=sum(chain.block_flops))
    return (largest, count), plan


def _fill(
    chain: Chain, nodes: Sequence[NodeSpec], limit: int, max_cut_bytes: int | None
) -> tuple[list[list[list[int | None]]], list[list[list[tuple[int, int]]]]]:
    """tables[k][v][j]: least largest stage when k stages on the first v nodes cover blocks [0, j); and how."""
    blocks, count = chain.blocks, len(nodes)
    tables: list[list[list[int | None]]] = [
        [[0 if k == j == 0 else None for j in range(blocks + 1)] for _ in range(count + 1)] for k in range(limit + 1)
    ]
    choices = [[[(0, 0)] * (blocks + 1) for _ in range(count + 1)] for _ in range(limit + 1)]
    starts = [[*_starts(chain, node, max_cut_bytes)] for node in nodes]
    for k in range(1, limit + 1):
        for v in range(1, count + 1):
            for j in range(1, blocks + 1):
                best, choice = tables[k][v - 1][j], choices[k][v - 1][j]
                for i, flops in starts[v - 1][j]:
                    before = tables[k - 1][v - 1][i]
                    if before is not None and (best is None or max(before, flops) < best):
                        best, choice = max(before, flops), (v - 1, i)
                tables[k][v][j], choices[k][v][j] = best, choice
    return tables, choices


def _starts(chain: Chain, node: NodeSpec, max_cut_bytes: int | None) -> list[list[tuple[int, int]]]:
    """For each end j, the (start i, FLOPs) of every stage [i, j) that the node can hold."""
    result: list[list[tuple[int, int]]] = [[]]
    for j in range(1, chain.blocks + 1):
        found: list[tuple[int, int]] = []
        weights = peak = flops = 0
        for i in range(j - 1, -1, -1):
            weights += chain.block_memory_bytes[i]
            peak = max(peak, chain.block_peak_bytes[i])
            flops += chain.block_flops[i]
            if not node.holds(weights + peak):
                break
            if i == 0 or max_cut_bytes is None or chain.cut_bytes[i] <= max_cut_bytes:
                found.append((i, flops))
        result.append(found)
    return result


def _explain(chain: Chain, nodes: Sequence[NodeSpec], stages: int | None, max_cut_bytes: int | None) -> str:
    largest = max(nodes, key=_memory)
    needs = [chain.stage_memory_bytes(b, b + 1) for b in range(chain.blocks)]
    block = max(range(chain.blocks), key=lambda b: needs[b])
    if not largest.holds(needs[block]):
        missing = needs[block] - int(_memory(largest))
        return (
            f"block {block} of '{chain.name}' needs {needs[block]} bytes, and the largest node ({largest.name}) offers "
            f"{largest.memory_bytes}: {missing} bytes are missing"
        )
    if max_cut_bytes is not None and any(size > max_cut_bytes for size in chain.cut_bytes[1:]):
        try:
            split(chain, nodes, stages=stages)
        except NoPlanError as error:
            return str(error)
        return (
            f"every split of '{chain.name}' that fits the nodes' memory sends an activation larger than the broker's "
            f"limit of {max_cut_bytes} bytes: raise max_payload, or use nodes with more memory"
        )
    whole = chain.stage_memory_bytes(0, chain.blocks)
    offered = sum(node.memory_bytes or 0 for node in nodes)
    wanted = f" in exactly {stages} stages" if stages is not None else ""
    return (
        f"'{chain.name}' needs {whole} bytes in one piece, the {len(nodes)} node(s) offer {offered} together, and no "
        f"split{wanted} fits: add nodes, or memory"
    )
