"""How a controller plans: for the nodes that are there, with what is known of their links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.plan import NoPlanError, Plan, Stage
from planner.solve import price, solve

log = structlog.get_logger("understudy.planning")

TIME_LIMIT_S = 3.0
EQUAL_SPEED_FLOPS_PER_S = 1e9
"""Where no cluster is described, all nodes are equally fast and links are not counted: the least largest stage wins,
whatever this number is."""


class PipelinePlanner:
    """Called by the recovery service with the nodes that are there. `cluster` describes speeds and links by node name;
    nodes that it does not name are left out. `given`: these stages, while all of their nodes are there. Codecs may cost
    `max_codec_loss` of the accuracy."""

    def __init__(
        self,
        chain: Chain,
        *,
        stages: int | None,
        max_payload_bytes: int,
        cluster: Cluster | None = None,
        given: Sequence[Stage] = (),
        max_codec_loss: float = 0.0,
    ) -> None:
        self._chain = chain.within(max_codec_loss)
        self._stages = stages
        self._max_payload_bytes = max_payload_bytes
        self._cluster = cluster
        self._given = given

    def __call__(self, nodes: Sequence[NodeSpec], plans_before: int, *, quiet: bool = False) -> Plan:
        """The plan for these nodes. `quiet`: it is only to know it, and nothing is logged of what is left out.

        The given one while its nodes are there. If it is impossible from the start, that is the answer; later (after
        a failure, or an update) answering comes before that wish.

        So many stages as the user asked for; fewer only where nodes are lost (after the first plan), likewise.

        Raises:
            NoPlanError: nothing fits.
        """
        cluster = self._described(nodes, quiet=quiet)
        given = self._given_plan(cluster, first=plans_before == 0, quiet=quiet)
        stages = self._stages if given is None else len(given.stages)
        if stages is not None and plans_before > 0:
            stages = min(stages, len(cluster.nodes))
        if self._chain.cut_bytes[-1] > self._max_payload_bytes:
            # The output goes from the last stage's node to the head, on the first's: it can only stay there.
            if stages not in (None, 1):
                raise NoPlanError(
                    f"the output of '{self._chain.name}' has {self._chain.cut_bytes[-1]} bytes, the broker takes "
                    f"{self._max_payload_bytes}: raise max_payload, or use one stage"
                )
            stages = 1
        return given or self._solve(cluster, stages, fewer=plans_before > 0)

    def _given_plan(self, cluster: Cluster, *, first: bool, quiet: bool) -> Plan | None:
        if not self._given:
            return None
        try:
            return price(self._chain, cluster, self._given)
        except NoPlanError as error:
            if first:
                raise
            if not quiet:
                log.warning("given-plan-left", reason=str(error))
            return None

    def _solve(self, cluster: Cluster, stages: int | None, *, fewer: bool) -> Plan:
        """With so many stages, or with fewer where that may be."""
        while True:
            try:
                return solve(self._chain, cluster, stages=stages, time_limit_s=TIME_LIMIT_S)
            except NoPlanError:
                if stages is None or stages == 1 or not fewer:
                    raise
                stages -= 1

    def _profiled_speed(self) -> float | None:
        """What profiled nodes do on average, for those that are not: all of them are compared in the same seconds."""
        flops = sum(self._chain.block_flops)
        seconds = sum(sum(each) for each in self._chain.block_seconds.values())
        return flops * len(self._chain.block_seconds) / seconds if flops and seconds else None

    def _described(self, nodes: Sequence[NodeSpec], *, quiet: bool) -> Cluster:
        there = {node.name: node for node in nodes}
        if self._cluster is None:
            speed = self._profiled_speed() or EQUAL_SPEED_FLOPS_PER_S
            equal = tuple(replace(node, flops_per_s=speed) for node in nodes)
            return Cluster(nodes=equal, max_payload_bytes=self._max_payload_bytes, chunked=False)
        unknown = sorted(set(there) - set(self._cluster.names))
        if unknown and not quiet:
            log.warning("nodes-not-in-cluster", nodes=unknown, hint="add them to the cluster file")
        kept = [name for name in self._cluster.names if name in there]
        if not kept:
            raise NoPlanError(f"none of the nodes that are there ({', '.join(sorted(there))}) is in the cluster file")
        part = self._cluster.subset(kept)
        tightened = tuple(_tighter(node, there[node.name]) for node in part.nodes)
        return replace(part, nodes=tightened, max_payload_bytes=self._max_payload_bytes, chunked=False)


def _tighter(described: NodeSpec, reported: NodeSpec) -> NodeSpec:
    """A node with the smaller of the two memory limits."""
    limits = [limit for limit in (described.memory_bytes, reported.memory_bytes) if limit is not None]
    return replace(described, memory_bytes=min(limits, default=None))
