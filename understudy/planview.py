"""A plan as a table and a small picture."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from planner.chain import Chain
from planner.plan import Plan, Step
from understudy.cli.units import format_bytes, format_count

BAR = 20


def plan_view(plan: Plan, chain: Chain) -> Group:
    """The stages, then every step of a frame with its time as a bar, then what is proven, and what was not measured."""
    return Group(_stages(plan, chain), _picture(plan), _verdict(plan), *_sources(plan, chain))


def _stages(plan: Plan, chain: Chain) -> Table:
    table = Table(title=Text(f"{chain.name}: {len(plan.stages)} stage(s)"), title_justify="left")
    for column in ("stage", "node", "blocks"):
        table.add_column(column)
    for column in ("memory", "FLOPs", "sends"):
        table.add_column(column, justify="right")
    for index, stage in enumerate(plan.stages):
        first, end = stage.first_block, stage.end_block
        table.add_row(
            str(index + 1),
            Text(stage.node),
            f"{first}-{end - 1}" if end - first > 1 else str(first),
            format_bytes(chain.stage_memory_bytes(first, end)),
            format_count(sum(chain.block_flops[first:end])),
            _sends(plan, index, chain),
        )
    return table


def _sends(plan: Plan, index: int, chain: Chain) -> str:
    """What crosses behind a stage, before a codec makes less of it."""
    size = format_bytes(chain.cut_bytes[plan.stages[index].end_block])
    codec = plan.stages[index + 1].codec if index + 1 < len(plan.stages) else "none"
    return size if codec == "none" else f"{size}, {codec}"


def _picture(plan: Plan) -> Text:
    """One line per step: what happens where, for how long it keeps something busy, and a bar relative to the longest.
    Where a frame is on its way for longer than that, in a star, how long below it."""
    longest = max(step.busy_s for step in plan.steps)
    text = Text()
    for step in plan.steps:
        length = round(BAR * step.busy_s / longest) if longest > 0 else 0
        slowest = longest > 0 and step.busy_s == longest
        style = "bold red" if slowest else "cyan" if step.kind == "compute" else "green"
        text.append(f"{_what(step):<32}{_milliseconds(step.busy_s):>12}  ")
        text.append("█" * length, style=style)
        text.append("  bottleneck\n" if slowest else "\n", style=style)
        if step.seconds > step.busy_s:
            text.append(f"{'':<32}{_milliseconds(step.seconds):>12}  on its way, over both links\n", style="dim")
    return text


def _what(step: Step) -> str:
    if step.kind == "compute":
        return f"  {step.node} computes"
    codec = "" if step.codec == "none" else f", {step.codec}"
    return f"{step.node} → {step.to}  {format_bytes(step.size_bytes)}{codec}"


def _verdict(plan: Plan) -> Text:
    rate = "" if plan.bottleneck_s == 0 else f", {1 / plan.bottleneck_s:.2f} frames/s"
    proof = (
        "proven: no plan is better"
        if plan.proven
        else f"not proven: {_distance(plan)} (bound {_milliseconds(plan.lower_bound_s)})"
    )
    return Text(
        f"bottleneck {_milliseconds(plan.bottleneck_s)}{rate}; latency {_milliseconds(plan.latency_s)}\n"
        f"{proof}; solved in {_milliseconds(plan.solve_s)}"
    )


def _sources(plan: Plan, chain: Chain) -> list[Text]:
    """A line per way in which seconds came about that were not measured."""
    found: dict[str, list[str]] = {}
    for node in dict.fromkeys(stage.node for stage in plan.stages):
        source = chain.block_seconds_source.get(node, "measured")
        if source != "measured":
            found.setdefault(source, []).append(node)
    return [Text(f"computing is {source} on {', '.join(nodes)}") for source, nodes in found.items()]


def _distance(plan: Plan) -> str:
    if plan.lower_bound_s <= 0:
        return "no bound above 0 is known"
    return f"at most {plan.value_s / plan.lower_bound_s - 1:.2%} above the optimum"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
