"""The status document that `understudy status --json` prints."""

from __future__ import annotations

from typing import Any

from recovery.queries import alive, is_prepared, members
from recovery.state import ClusterState, NodeView


def status(state: ClusterState, broker_url: str, frames_per_s: float, now_s: float) -> dict[str, Any]:
    """The state as JSON values; docs/protocol.md lists the fields."""
    living = {view.beat.node for view in alive(state, now_s)}
    ours = [view for _, view in sorted(state.nodes.items()) if view.beat.pipeline in ("", state.pipeline)]
    heads = [view.beat for view in ours if view.beat.is_head and view.beat.node in living]
    active = _serves(state, living)
    return {
        "pipeline": state.pipeline,
        "broker": broker_url,
        "state": "running" if active else "waiting",
        "reason": "" if active else _reason(state, living),
        "epoch": state.active_epoch,
        "technique": state.active.technique if state.active is not None else "none",
        "prepared": is_prepared(state, now_s),
        "standby_head": state.active.standby_head if state.active is not None else "",
        "codecs": _codecs(state),
        "nodes": [_node(view, view.beat.node in living) for view in ours],
        "in_flight": sum(head.in_flight for head in heads),
        "waiting": sum(head.waiting for head in heads),
        "answered": sum(head.answered for head in heads),
        "failed": sum(head.failed for head in heads),
        "superseded": sum(head.superseded for head in heads),
        "frames_per_s": round(frames_per_s, 2),
    }


def _codecs(state: ClusterState) -> list[dict[str, Any]]:
    """Of the hops of the active route that have one."""
    hops = () if state.active is None else state.active.hops
    return [{"cut": hop.part.first_block, "to": hop.node, "codec": hop.codec} for hop in hops if hop.codec != "none"]


def _serves(state: ClusterState, living: set[str]) -> bool:
    """Whether every node of the active route is alive and says that it serves its epoch."""
    route = state.active
    if route is None or not route.nodes <= living:
        return False
    return all(state.nodes[name].beat.active_epoch == route.epoch for name in route.nodes)


def _node(view: NodeView, living: bool) -> dict[str, Any]:
    beat = view.beat
    return {
        "name": beat.node,
        "pid": beat.pid,
        "host": beat.host,
        "alive": living,
        "stages": [[stage.first_block, stage.end_block] for stage in beat.stages],
        "head": beat.is_head,
        "epoch": beat.active_epoch,
        "spares": list(beat.spares),
        "leaving": beat.leaving,
        "frames": beat.frames,
        "busy_s": round(beat.busy_s, 3),
        "dropped": beat.dropped,
        "malformed": dict(beat.malformed),
        "rss_bytes": beat.rss_bytes,
        "tasks": beat.tasks,
        "memory_bytes": beat.memory_bytes or None,
        "threads": beat.threads,
        "providers": list(beat.providers),
        "links": [{"from": link.sender, "bytes_per_s": link.bytes_per_s} for link in beat.links],
        "failure": beat.failure,
    }


def _reason(state: ClusterState, living: set[str]) -> str:
    if state.no_plan_reason:
        return state.no_plan_reason
    if state.broken:
        return "; ".join(sorted(state.broken.values()))
    if state.plan is None:
        return f"waiting for nodes: {len(living)} there"
    missing = sorted(set(members(state)) - living)
    return f"node(s) {', '.join(missing)} are gone" if missing else "stages are being loaded"
