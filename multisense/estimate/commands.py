"""What `multisense estimate` prints."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multisense.estimate.body import find_body
from multisense.estimate.check import check
from multisense.estimate.cost import FLEETS, USABLE, Estimate, Plan, estimate
from multisense.estimate.memory import Memory
from multisense.run import load_config

Rows = list[tuple[str, ...]]


def show_estimate(
    console: Console, file: Path, overrides: Sequence[str], plan: Plan, like: Path | None, with_check: bool
) -> int:
    """Print what the configuration in `file` costs; the exit status is 1 where it is checked and would not run."""
    config = load_config(file, overrides)
    found = estimate(config, find_body(config, file.parent, like), plan)
    for table in estimate_tables(found):
        console.print(table)
    if not with_check:
        return 0
    checked = check(found)
    console.print(_table("checked by a dry run on tensors without numbers", checked.rows))
    for problem in checked.problems:
        console.print(f"[bold red]problem:[/] {escape(problem)}", highlight=False, soft_wrap=True)
    return int(bool(checked.problems))


def estimate_tables(found: Estimate) -> list[Table]:
    """What it costs, what a process holds, and everything that was assumed."""
    ways = {"every process whole (DDP)": found.replicated, "sharded over all (FSDP2)": found.sharded}
    if found.plan.processes == 1:
        ways = {"": found.replicated}
    memory = [(n, *(size(getattr(way, n)) for way in ways.values())) for n in _names()]
    return [
        _table(
            f"{found.plan.processes} x {found.plan.gpu}", [*_model(found), *_step(found), *_run(found), *_fit(found)]
        ),
        _table("memory of a process", memory, ["", *ways] if len(ways) > 1 else None),
        _table("assumed", assumptions(found)),
    ]


def _model(found: Estimate) -> Rows:
    tokens = ", ".join(f"{name} {count:,}" for name, count in found.tokens.items())
    masks = found.config.objective.masks.masks_per_clip
    names = list(found.tokens)
    return [
        ("parameters trained", f"{found.parameters / 1e6:,.1f} million"),
        ("tokens a clip", f"{sum(found.tokens.values()):,} ({tokens})"),
        ("kept by a mask", f"{found.kept.mean:,.0f} on average, {found.kept.most:,} at most; {masks} masks a clip"),
        *(
            (f"kept of {names[s]} alone", f"{own.mean:,.0f} on average, {own.most:,} at most; one mask a clip")
            for s, own in found.kept.alone.items()
        ),
    ]


def _step(found: Estimate) -> Rows:
    parts = ", ".join(f"{name} {part / found.flops.total:.0%}" for name, part in found.flops.parts.items())
    again = f", {flops(found.recomputed)} computed again" if found.recomputed else ""
    return [
        ("FLOPs a clip", f"{flops(found.flops.total)} ({parts}){again}"),
        ("FLOPs a step", f"{flops(found.step_flops)} for {found.config.train.batch_size:,} clips"),
        ("seconds a step", f"{found.step_s:.3g}"),
        ("clips a second", f"{found.clips_per_s:,.3g}"),
        ("loader, as recorded", f"{size(found.decoded_bytes_per_s)}/s to read and decode"),
        ("loader, to the model", f"{size(found.cached_bytes_per_s)}/s at the model's sizes and rates"),
    ]


def _run(found: Estimate) -> Rows:
    plan, steps = found.plan, found.clips / found.config.train.batch_size
    seen = (
        "train.steps"
        if plan.hours_of_data is None
        else f"{plan.hours_of_data:,g} h of data x {plan.passes:g}, not train.steps"
    )
    days = found.device_days
    rows = [
        ("whole run", f"{found.clips:,.0f} clips in {steps:,.0f} steps ({seen})"),
        (f"{plan.gpu} days", f"{days:,.3g}, so {duration(days / plan.processes)} on {plan.processes}"),
    ]
    if found.devices_for_days is not None:
        rows.append((f"to take {plan.days:g} days", f"{found.devices_for_days:,} x {plan.gpu}"))
    return rows


def _fit(found: Estimate) -> Rows:
    strategy, least = found.strategy, found.devices_for_memory
    total = (found.sharded if strategy == "FSDP2" else found.replicated).total
    verdict = "does not fit" if strategy is None else f"fits, {strategy}"
    fewest = (
        f"none of up to {FLEETS[-1]:,}" if least is None else f"{least} x {found.plan.gpu}{', sharded' * (least > 1)}"
    )
    return [
        ("memory", f"{size(total)} of {size(found.usable)} usable: {verdict}"),
        ("micro-batch", f"{found.micro_batch:,} clips; {found.most_clips:,} would fit"),
        ("fewest that hold it", f"{fewest}, one clip at a time"),
    ]


def _names() -> list[str]:
    return [*(field.name for field in fields(Memory)), "total"]


def assumptions(found: Estimate) -> Rows:
    """Everything that was not computed."""
    precision, device = found.config.train.mixed_precision, found.device
    kind, peak = "float32" if precision == "no" else precision, device.peak(precision) / 1e12
    return [
        (
            "speed",
            f"{found.plan.share:.0%} (--share) of {peak:,.4g} TFLOP/s, {kind}: {device.source}; on every device alike",
        ),
        ("FLOPs", "matrix products and convolutions, backward as 2 x forward, the expectation over masks"),
        ("left out", "waiting for the loader, messages between devices, checkpoints, evaluation"),
        ("data", f"clips of {found.config.data.clip_seconds:g} s, every second of recording once a pass"),
        ("loader", "every recorded sample of every sensor is read and decoded; from a cache, none"),
        ("memory", "float32 weights, AdamW, the fullest masks that can be drawn, at the end of the forward pass"),
        ("usable", f"{USABLE:.0%} of {device.memory_gib:g} GiB"),
        ("sensors", f"shapes and rates from {found.body.source}"),
    ]


def _table(title: str, rows: Rows, columns: Sequence[str] | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, show_edge=False, padding=(0, 1, 0, 0))
    table.show_header = columns is not None
    for index, name in enumerate(columns or [""] * len(rows[0])):
        table.add_column(name, no_wrap=index == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def flops(value: float) -> str:
    return _scaled(value, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def size(value: float) -> str:
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:.3g} {units[power]}" if value < 100 else f"{value:,.0f} {units[power]}"


def duration(days: float) -> str:
    for unit, of_a_day in (("days", 1.0), ("hours", 24.0), ("minutes", 1440.0)):
        if days * of_a_day >= 1.5:
            return f"{days * of_a_day:,.1f} {unit}"
    return f"{days * 86400:,.1f} seconds"
