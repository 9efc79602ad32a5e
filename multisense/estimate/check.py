"""Whether a configuration would run: its step on tensors without numbers, its bytes against the device."""

from collections.abc import Sequence
from dataclasses import dataclass

from multisense.estimate.cost import Estimate
from multisense.estimate.dry_run import DryRun, dry_run
from multisense.estimate.memory import GIB, Memory


@dataclass(frozen=True)
class Checked:
    """`rows` (what, how much) for people; `problems` are why the run would stop, none if it would not."""

    rows: list[tuple[str, str]]
    problems: Sequence[str]


def check(found: Estimate) -> Checked:
    """Run one micro-batch with the fullest masks without numbers, and compare what it held with formula and device."""
    seen = dry_run(found.config, found.grids, found.micro_batch, found.kept)
    whole = found.replicated
    ways = {"DDP": whole, "FSDP2": found.sharded} if found.plan.processes > 1 else {"alone": whole}
    held = {way: needed(memory, whole, seen) for way, memory in ways.items()}
    least = min(held.values())
    rows = [
        ("parameters", f"{seen.parameters / 1e6:,.1f} million; by formula {found.parameters / 1e6:,.1f}"),
        ("kept for backward", f"{seen.saved / GIB:,.2f} GiB"),
        ("most at once", f"{seen.forward / GIB:,.2f} GiB beside the weights; by formula {predicted(whole) / GIB:,.2f}"),
        *((f"a process, {way}", f"{size / GIB:,.2f} GiB") for way, size in held.items()),
    ]
    return Checked(rows, [*_problems(found, seen), *_too_large(found, least)])


def predicted(memory: Memory) -> float:
    """What a dry run should see: it counts the 16-bit copies of weights among the activations."""
    return memory.working + memory.copies


def needed(memory: Memory, whole: Memory, seen: DryRun) -> float:
    """Bytes of a process, with its working memory as seen. Gradients are there from the first micro-batch on."""
    working = max(seen.forward, seen.step - whole.gradients) - whole.copies
    return memory.weights + max(working, 0.0)


def _problems(found: Estimate, seen: DryRun) -> list[str]:
    settings, number = found.config.train, found.plan.processes
    problems = []
    if settings.batch_size % (settings.accumulate * number):
        problems.append(
            f"train.batch_size {settings.batch_size} does not divide into train.accumulate {settings.accumulate} x "
            f"{number} processes"
        )
    if seen.without_gradient:
        shown = ", ".join(seen.without_gradient[:5])
        problems.append(
            f"no gradient reaches {len(seen.without_gradient)} parameters, such as {shown}: processes would wait"
        )
    if seen.parameters != found.parameters:
        problems.append(f"the dry run has {seen.parameters:,} parameters, the estimate {found.parameters:,}")
    return problems


def _too_large(found: Estimate, least: float) -> list[str]:
    if least <= found.usable:
        return []
    return [
        f"needs {least / GIB:,.1f} GiB of the {found.usable / GIB:,.1f} GiB usable on {found.plan.gpu}: raise "
        f"train.accumulate, set train.checkpoint_activations, or take more devices (--processes)"
    ]
