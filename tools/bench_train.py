"""How long an optimizer step takes, where the time goes, and how much of the machine's matrix peak that is.

    python tools/bench_train.py configs/bench/cpu_384x12.yaml [key.path=value ...] [--steps 10] [--out step.json]

Random numbers in the shapes of the configuration's sensors; the step is the training loop's own (`multisense.train.loop.Step`),
on a GPU where there is one. The peak is a matrix product's, measured before and after in the same process; the FLOPs are those
of the masks that were drawn (`multisense.estimate.flops`).
"""

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from multisense.checkpoint import TrainingState
from multisense.clips import Grid
from multisense.estimate.body import find_body
from multisense.estimate.flops import clip_flops
from multisense.estimate.masks import Kept
from multisense.masking import ALONE, Mask
from multisense.run import RunConfig, build_objective, load_config
from multisense.train.data import StepSampler
from multisense.train.guard import make_guard
from multisense.train.loop import Step, make_accelerator
from multisense.train.optimizer import make_optimizer
from multisense.types import Batch

WARM_UP = 3
"""Steps that are not counted: allocation, and compilation where it is asked for."""


def random_batch(grids: dict[str, Grid], clips: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, grid in grids.items():
        shape = (clips, grid.count, *grid.shape)
        if grid.dtype == "uint8":
            values[name] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        else:
            values[name] = torch.randn(shape, generator=generator)
    valid = {name: torch.ones(clips, grid.count, dtype=torch.bool) for name, grid in grids.items()}
    return Batch(values, valid, complete=True)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of ten square products: 2048 on a CPU, 8192 on a GPU."""
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(timed(lambda: a @ b, device) for _ in range(10))


def timed(work: Callable[[], Any], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@dataclass
class Bench:
    """A step as training takes it, and its parts alone."""

    config: RunConfig
    grids: dict[str, Grid]
    step: Step
    batch: Batch

    @property
    def device(self) -> torch.device:
        return self.step.accelerator.device

    def flops(self, masks: list[Mask]) -> dict[str, float]:
        """Of a clip, by part, with the tokens that these masks keep."""
        objective = self.step.state.objective
        sensors = range(len(objective.student.names))
        each = np.array([[dict(mask.parts).get(s, 0) for s in sensors] for mask in masks if mask.family != ALONE])
        kept = each.sum(1)
        alone = {s: Kept(np.array([n]), n**2, n) for mask in masks if mask.family == ALONE for s, n in mask.parts}
        mean = Kept(each.mean(0), float((kept**2).mean()), int(kept.max()), alone)
        return clip_flops(self.config, objective, mean, self.config.train.batch_size).parts

    def parts(self, number: int) -> dict[str, float]:
        """Seconds of each part of a step, one after the other, each waited for."""
        objective, accelerator, state = self.step.state.objective, self.step.accelerator, self.step.state
        masks, found, kept = self.step.masks(number, 0), {}, {}
        batch = self.batch.to(self.device)

        def run(name: str, work: Callable[[], Any]) -> None:
            def call() -> None:
                with accelerator.autocast():
                    kept[name] = work()

            found[name] = timed(call, self.device)

        run("patches", lambda: objective.student.patches(batch))
        there = objective.student.token_valid(batch)
        with torch.no_grad():
            run("teacher", lambda: objective.teacher_latents(objective.teacher.stem(kept["patches"], there, True)))
        run("student stem", lambda: objective.student.stem(kept["patches"], there, True))
        tokens = kept["student stem"]
        run("student", lambda: [objective.student.encode_kept(tokens, mask.keep, mask.parts)[0] for mask in masks])
        run("predictor", lambda: [
            objective.predictor.outward(objective.predictor(objective.student, latents, None, mask))
            for latents, mask in zip(kept["student"], masks, strict=True)
        ])  # fmt: skip
        found["backward"] = timed(
            lambda: sum(p.float().square().mean() for p in kept["predictor"]).backward(), self.device
        )
        found["clip"] = timed(lambda: torch.nn.utils.clip_grad_norm_(objective.parameters(), 3.0), self.device)
        found["optimizer"] = timed(state.optimizer.step, self.device)
        state.optimizer.zero_grad()
        found["teacher's average"] = timed(lambda: objective.update_teacher(1000), self.device)
        return found


def make_bench(config: RunConfig, grids: dict[str, Grid]) -> Bench:
    objective, guard = build_objective(config, grids), make_guard(config.train)
    state = TrainingState(objective, make_optimizer(objective, config.train), guard, config.train, {})
    accelerator = make_accelerator(config.train, Path("unused"))
    layout = objective.student.layout
    parallel, optimizer = accelerator.prepare(objective, state.optimizer)
    guard.to(accelerator.device)
    batch = random_batch(grids, config.train.batch_size // config.train.accumulate)

    def batches() -> Iterator[Batch]:
        while True:
            yield batch

    sampler = StepSampler(config.train, 0, 0, 1)
    return Bench(
        config, grids, Step(config, state, accelerator, parallel.train(), optimizer, layout, sampler, batches()), batch
    )


def measure(bench: Bench, steps: int) -> dict[str, Any]:
    config, device = bench.config, bench.device
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.train.mixed_precision]
    before = matmul_peak(device, dtype)
    for number in range(WARM_UP):
        bench.step.take(number)
    seconds, flops, predicted = [], [], []
    for number in range(WARM_UP, WARM_UP + steps):
        masks = bench.step.masks(number, 0)
        flops.append(sum(bench.flops(masks).values()) * config.train.batch_size)
        predicted.append(sum(mask.target.shape[1] for mask in masks) * config.train.batch_size)
        seconds.append(timed(lambda number=number: bench.step.take(number), device))
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident()
    peak = max(before, matmul_peak(device, dtype))
    parts = [bench.parts(number) for number in range(WARM_UP, WARM_UP + min(steps, 5))]
    tokens = len(bench.step.layout)
    clips = config.train.batch_size
    total = sum(seconds)
    return {
        "device": name_of(device),
        "torch": torch.__version__, "precision": config.train.mixed_precision, "compiled": config.train.compile,
        "parameters": sum(p.numel() for p in bench.step.state.objective.parameters() if p.requires_grad),
        "tokens_per_clip": tokens, "clips_per_step": clips, "masks_per_clip": config.objective.masks.masks_per_clip,
        "seconds_per_step": np.quantile(seconds, [0.5, 0.25, 0.75]).tolist(), "steps": steps,
        "clips_per_second": clips * steps / total, "tokens_per_second": tokens * clips * steps / total,
        "predicted_per_second": sum(predicted) / total,
        "flops_per_second": sum(flops) / total, "matmul_peak": peak, "share_of_peak": sum(flops) / total / peak,
        "parts_s": {name: statistics.median(part[name] for part in parts) for name in parts[0]},
        "flops_by_part": bench.flops(bench.step.masks(WARM_UP, 0)),
        "peak_memory_bytes": memory,
    }  # fmt: skip


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(found: dict[str, Any], console: Console) -> None:
    table = Table(
        title=f"{found['device']}, {found['precision']}, {found['parameters'] / 1e6:.1f} M parameters",
        show_header=False,
    )
    median, low, high = found["seconds_per_step"]
    reached, peak = found["flops_per_second"] / 1e9, found["matmul_peak"] / 1e9
    table.add_row("seconds a step", f"{median:.3f} [{low:.3f}, {high:.3f}] over {found['steps']} steps")
    table.add_row("clips a second", f"{found['clips_per_second']:.1f} of {found['tokens_per_clip']} tokens")
    table.add_row("tokens a second", f"{found['tokens_per_second']:,.0f}")
    table.add_row("predicted targets a second", f"{found['predicted_per_second']:,.0f}")
    table.add_row("FLOP/s", f"{reached:,.1f} G of {peak:,.1f} G: {found['share_of_peak']:.1%}")
    table.add_row("peak memory", f"{found['peak_memory_bytes'] / 2**30:.2f} GiB")
    for name, part in found["parts_s"].items():
        table.add_row(f"  {name}", f"{part * 1e3:.1f} ms")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_intermixed_args()
    config = load_config(given.config, [*given.overrides, "train.log_with=[]"])
    grids = find_body(config, given.config.parent).grids(config)
    found = {"config": given.config.name, "overrides": given.overrides} | measure(
        make_bench(config, grids), given.steps
    )
    show(found, Console())
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
