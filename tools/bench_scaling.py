"""How time grows with what there is: `python tools/bench_scaling.py --out docs/results/scaling.json [--parts step,open] [--small]`.

Parts: `step` (tokens, width, sensors), `processes` (1 to as many as there are cores), `loader` (length and number of logs),
`open` (a folder of 10,000 logs, first and again). Writes JSON with the machine's name, and a picture beside it.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from rich.console import Console
from rich.table import Table

from multisense.clips import TrainingClips
from multisense.estimate.body import Body
from multisense.estimate.cost import Plan, estimate
from multisense.logs import Recording, open_logs, write_log
from multisense.masking import draw_masks
from multisense.run import RunConfig, build_objective, make_grids, parse_config
from multisense.types import Batch, SensorInfo

Point = dict[str, Any]
console = Console()


def arms(count: int, tokens: int, width: int) -> tuple[RunConfig, Body]:
    """`count` sensors of seven channels that give `tokens` tokens in all of a clip of two seconds."""
    rate = tokens / 2.0
    tree = {
        "data": {"train": "memory", "clip_seconds": 2.0},
        "sensors": {f"arm{n}": {"kind": "proprio", "patch_s": count / rate} for n in range(count)},
        "model": {"width": width, "depth": 4, "heads": width // 32},
        "train": {"batch_size": 16, "steps": 1000},
    }
    infos = {n: SensorInfo(n, "proprio", rate, (7,), "float32", 0.0, 2.0, tokens) for n in tree["sensors"]}
    return parse_config(tree), Body(infos, "arms")


def step_point(config: RunConfig, body: Body, device: str, repeats: int) -> Point:
    """Seconds of an optimizer step on random clips, quartiles over `repeats`, and the FLOP/s that the formula makes of it."""
    grids, clips = body.grids(config), range(config.train.batch_size)
    objective = build_objective(config, grids)
    layout = objective.student.layout  # on the host, where masks are drawn
    objective.to(device).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 1e-4, fused=True)
    values = {n: torch.randn(len(clips), g.count, *g.shape, device=device) for n, g in grids.items()}
    valid = {n: torch.ones(len(clips), g.count, dtype=torch.bool, device=device) for n, g in grids.items()}
    seconds = []
    for number in range(repeats + 2):
        masks = [m.to(device) for m in draw_masks(layout, config.objective.masks, 0, number, clips)]
        began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            losses = objective(Batch(values, valid, complete=True), masks)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.update_teacher(config.train.steps)
        losses.total.item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    low, median, high = np.quantile(seconds[2:], (0.25, 0.5, 0.75)).tolist()
    flops = estimate(config, body, Plan("cpu")).step_flops
    return {"tokens": len(layout), "seconds": median, "quartiles": [low, high], "flops_per_s": flops / median}


def step_part(small: bool) -> dict[str, list[Point]]:
    device, repeats = "cuda" if torch.cuda.is_available() else "cpu", 3 if small else 7
    tokens = (20, 40) if small else (40, 80, 160, 320, 640, 1280)
    widths = (32, 64) if small else (64, 128, 192, 256, 384, 512)
    sensors = (1, 2) if small else (1, 2, 4, 8, 16)
    at = (40, 32) if small else (160, 128)
    return {
        "step against tokens": [{"x": n} | step_point(*arms(4, n, at[1]), device, repeats) for n in tokens],
        "step against width": [{"x": w} | step_point(*arms(4, at[0], w), device, repeats) for w in widths],
        "step against sensors": [{"x": s} | step_point(*arms(s, at[0], at[1]), device, repeats) for s in sensors],
    }


def write_arm(file: Path, seconds: float, number: int = 0) -> None:
    times = np.arange(round(seconds * 100)) / 100
    data = np.random.default_rng(number).normal(size=(len(times), 7)).astype(np.float32)
    write_log(file, {"arm0": Recording("proprio", 100.0, data, times)})


def processes_part(small: bool) -> dict[str, list[Point]]:
    """Clips per second of whole runs, one thread a process: `torchrun` starts what `accelerate launch` would."""
    counts = (1, 2) if small else tuple(2**n for n in range(int(math.log2(os.cpu_count() or 1)) + 1))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(4):
            write_arm(Path(folder, "logs", f"{number}.h5"), 10.0, number)
        config, _ = arms(1, 20 if small else 160, 32 if small else 128)
        tree = config.tree() | {"data": {"train": str(Path(folder, "logs")), "in_memory": True}}
        tree["train"] = {"batch_size": 4 * max(counts), "steps": 6 if small else 60, "log_every": 2, "log_with": []}
        Path(folder, "run.yaml").write_text(yaml.safe_dump(tree))
        return {"run against processes": [{"x": n, "clips_per_s": clips_per_s(Path(folder), n)} for n in counts]}


def clips_per_s(folder: Path, processes: int) -> float:
    out, launcher = folder / f"run{processes}", ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    words = ["-m", "multisense", "train", str(folder / "run.yaml"), "--out", str(out)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": str(not torch.cuda.is_available()).lower(),
    }
    launcher = launcher if processes > 1 else []
    subprocess.run([sys.executable, *launcher, *words], check=True, env=environment, capture_output=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["clips_per_second"] for line in lines[1:])


def loader_part(small: bool) -> dict[str, list[Point]]:
    lengths = (10, 20) if small else (10, 60, 600, 3600)
    counts = (1, 4) if small else (1, 10, 100, 1000)
    return {
        "loader against seconds of a log": [{"x": s} | loader_point(s, 2, small) for s in lengths],
        "loader against logs": [{"x": n} | loader_point(10, n, small) for n in counts],
    }


def loader_point(seconds: float, logs: int, small: bool) -> Point:
    """Seconds to open the logs and make the list of clips, clips per second in this process, and how memory grew."""
    config, _ = arms(1, 200, 32)
    with tempfile.TemporaryDirectory() as folder:
        write_arm(Path(folder, "0.h5"), seconds)
        copies(Path(folder, "0.h5"), logs)
        began = time.perf_counter()
        opened = open_logs(folder)
        clips = TrainingClips(opened, make_grids(config, opened), 2.0, 0, 10**6)
        start_s = time.perf_counter() - began
        before, count = held_mb(), 50 if small else 2000
        began = time.perf_counter()
        for item in range(count):
            clips[item]
        speed = count / (time.perf_counter() - began)
    return {"start_s": start_s, "clips_per_s": speed, "grown_mb": held_mb() - before}


def copies(file: Path, count: int) -> None:
    for number in range(1, count):
        shutil.copyfile(file, file.with_name(f"{number}.h5"))


def held_mb() -> float:
    """What this process holds now; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_part(small: bool) -> dict[str, list[Point]]:
    """Seconds that `open_logs` takes for a folder of logs of a second each, the first time and again."""
    points = []
    for count in (10, 100) if small else (100, 1000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            write_arm(Path(folder, "0.h5"), 1.0)
            copies(Path(folder, "0.h5"), count)
            first, again = opening_s(folder), opening_s(folder)
        points.append({"x": count, "first_s": first, "again_s": again})
    return {"opening against logs": points}


def opening_s(folder: str) -> float:
    began = time.perf_counter()
    open_logs(folder)
    return time.perf_counter() - began


PARTS = {"step": step_part, "processes": processes_part, "loader": loader_part, "open": open_part}


def machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads = {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {"gpu": gpu, "cpu": platform.processor() or platform.machine(), **threads, "torch": torch.__version__}


def slopes(points: list[Point], key: str) -> Iterator[float]:
    """Powers by which `key` grows from point to point: 1 is in proportion."""
    for a, b in pairwise(points):
        yield math.log(b[key] / a[key]) / math.log(b["x"] / a["x"])


def table(title: str, points: list[Point]) -> Table:
    shown = Table(title=title, title_justify="left")
    for key in points[0]:
        shown.add_column(key, justify="right")
    for point in points:
        shown.add_row(*(" to ".join(f"{v:.4g}" for v in np.atleast_1d(value)) for value in point.values()))
    return shown


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """One panel a curve, both axes logarithmic; the dotted line is growth in proportion."""
    rows = math.ceil(len(curves) / 3)
    figure = Figure(figsize=(12, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, points) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, 3, place)
        x = np.array([point["x"] for point in points], float)
        for key in [k for k in points[0] if k in ("seconds", "clips_per_s", "start_s", "first_s", "again_s")]:
            y = np.array([point[key] for point in points])
            axes.loglog(x, y, "o-", label=key)
            axes.loglog(x, y[0] * x / x[0], ":", color="grey", linewidth=0.8)
        axes.set(xlabel=title.split("against ")[-1], title=title)
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--small", action="store_true", help="the smallest sizes: whether it works, not how fast")
    given = parser.parse_args()
    curves: dict[str, list[Point]] = {}
    for name in given.parts.split(","):
        for title, points in PARTS[name](given.small).items():
            curves[title] = points
            console.print(table(title, points))
            if "seconds" in points[0]:
                console.print(f"grows by powers {', '.join(f'{power:.2f}' for power in slopes(points, 'seconds'))}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"machine": machine(), "small": given.small, "curves": curves}, indent=1))
    draw(curves, given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
