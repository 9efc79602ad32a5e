"""How many seconds of recording are embedded in a second, beside decoding alone and the model alone.

    python tools/bench_embed.py RUN LOGS [--stride 0.5] [--logs 20] [--out embed.json]

All three in one process: `embed_logs` as the command runs it; reading the same windows without the model; the model on windows
that are in memory. What is embedded is bounded below by the slower of the last two, which overlap.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from multisense.clips import Rolling, Windows
from multisense.embed import batches, embed_logs
from multisense.logs import SensorLog, open_logs
from multisense.run import Run, open_run


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(run: Run, logs: list[SensorLog], stride_s: float) -> dict[str, Any]:
    def windows(log: SensorLog) -> Windows:
        return Windows([Rolling(log, run.grids)], run.grids, run.config.data.clip_seconds, stride_s)

    recorded = sum(
        max(i.stop_s for i in log.sensors.values()) - min(i.start_s for i in log.sensors.values()) for log in logs
    )
    kept = [batch for log in logs for batch in batches(windows(log))]
    with tempfile.TemporaryDirectory() as folder:
        whole = timed(lambda: embed_logs(run, logs, Path(folder) / "out.h5", stride_s=stride_s))
    seconds = {
        "embed": whole,
        "read alone": timed(lambda: [batch for log in logs for batch in batches(windows(log))]),
        "model alone": timed(lambda: [run.model.embed(batch.to(run.model.time_s.device)) for batch in kept]),
    }
    return {
        "recorded_s": recorded, "windows": sum(map(len, kept)), "stride_s": stride_s, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "device": str(run.model.time_s.device), "seconds": seconds,
        "times_real_time": {name: recorded / value for name, value in seconds.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("logs")
    parser.add_argument("--stride", type=float, default=0.5)
    parser.add_argument("--logs", type=int, default=20, dest="most")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    run = open_run(given.run, "cuda" if torch.cuda.is_available() else "cpu")
    found = measure(run, open_logs(given.logs)[: given.most], given.stride)
    table = Table(
        "", "seconds", "x real time", title=f"{found['recorded_s']:.0f} s recorded, {found['windows']} windows"
    )
    for name, value in found["seconds"].items():
        table.add_row(name, f"{value:.2f}", f"{found['times_real_time'][name]:.1f}")
    Console().print(table)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
