"""How fast clips are loaded: `python tools/bench_loader.py CONFIG LOGS --out loader.json [--cache DIR]`.

Every way loads the same random clips, each in a process of its own, in turns over `--rounds`: in place with 0, 1 and 2
workers, from the cache, and the floor: a bare loop that asks PyAV and h5py for the bytes that the loader asked them for.
`--lerobot-python PYTHON --lerobot-root ROOT` adds LeRobot's own loader on the same windows (see bench_loader_lerobot.py).
`--clips 20000` is enough for the slope of memory. Ratios hold within a run; a busy machine spoils the rest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import h5py
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from rich.console import Console
from rich.table import Table

from multisense.cache import cached
from multisense.clips import TrainingClips
from multisense.logs import open_logs
from multisense.logs.media import PyavVideo
from multisense.logs.pool import POOL
from multisense.run import RunConfig, load_config, make_grids
from multisense.train.data import StepSampler, make_loader

Asked = list[tuple[str, str, Any]]
"""Of one clip: (video file, "", frames in presentation order) or (HDF5 file, data set, range)."""
OPEN = 16
"""Files that the floor keeps open: as many as the loader."""


def clips_of(config: RunConfig, cache: Path | None) -> TrainingClips:
    logs = open_logs(config.data.train)
    grids = make_grids(config, logs)
    logs = cached(logs, grids, cache) if cache else logs
    length = config.train.steps * config.train.batch_size
    return TrainingClips(logs, grids, config.data.clip_seconds, config.train.seed, length)


def load(config: RunConfig, cache: Path | None) -> dict[str, float]:
    """Clips per second of the training loader once it runs, its memory, and how that grows."""
    clips = clips_of(config, cache)
    loader = make_loader(clips, StepSampler(config.train, 0, 0, 1), config)
    first = 1 + 2 * config.data.workers  # by then every worker has begun
    done, held = [], []
    for _ in loader:
        done.append(time.perf_counter())
        held.append(private_mb())
    speed = (len(done) - 1 - first) * config.train.batch_size / (done[-1] - done[first])
    steady = np.arange(len(held))[len(held) // 4 :]
    slope = np.polyfit(steady * config.train.batch_size / 1000, held[len(held) // 4 :], 1)[0]
    size = sum(grid.bytes for grid in clips.grids.values()) / 2**20
    return {"clips_per_s": speed, "mb_per_s": speed * size, "peak_mb": max(held), "mb_per_1000_clips": float(slope)}


def private_mb() -> float:
    """What this process and its workers hold for themselves, without pages of files; Linux only."""
    total = 0
    for process in [os.getpid(), *(child.pid for child in active_children())]:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return total / 1024


def floor(config: RunConfig) -> dict[str, float]:
    """Clips per second of a loop that reads and decodes what the clips are made of, and does nothing else."""
    asked = list(recorded(config))
    files: OrderedDict[str, Any] = OrderedDict()
    began = time.perf_counter()
    for clip in asked:
        for path, name, what in clip:
            file = kept_open(files, path, open_hdf5 if name else Bare)
            file[name][what] if name else file.decode(what)
    return {"clips_per_s": len(asked) / (time.perf_counter() - began)}


def open_hdf5(path: str) -> h5py.File:
    return h5py.File(path, "r", locking=False)


def recorded(config: RunConfig) -> Iterator[Asked]:
    """What the loader asks of PyAV and h5py for each of its clips."""
    asked: Asked = []
    frames: Any = PyavVideo.frames
    rows: Any = h5py.Dataset.__getitem__

    def of_video(video: PyavVideo, indices: Any) -> np.ndarray:
        asked.append((video.path, "", np.unique(indices)))
        return frames(video, indices)

    def of_hdf5(data: h5py.Dataset, what: Any, *more: Any) -> Any:
        if str(data.name).endswith("/data"):
            asked.append((data.file.filename, str(data.name), what))
        return rows(data, what, *more)

    with patch.object(PyavVideo, "frames", of_video), patch.object(h5py.Dataset, "__getitem__", of_hdf5):
        clips = clips_of(config, None)
        for item in range(len(clips)):
            asked.clear()
            clips[item]
            yield list(asked)
    POOL.close()


class Bare:
    """A video by PyAV alone: a seek to each group of frames with a wanted one, and its frames up to the last of them."""

    def __init__(self, path: str):
        self.container = av.open(path)
        self.stream = self.container.streams.video[0]
        self.stream.thread_type, self.stream.thread_count = "NONE", 1
        self.colours = VideoReformatter()
        packets = [(p.pts, p.dts, p.is_keyframe) for p in self.container.demux(self.stream) if p.pts is not None]
        self.pts = np.sort([pts for pts, _, _ in packets])
        self.keys = np.array(sorted((pts, dts) for pts, dts, is_key in packets if is_key))

    def decode(self, indices: np.ndarray) -> None:
        wanted = self.pts[indices]
        groups = np.searchsorted(self.keys[:, 0], wanted, side="right") - 1
        for group in np.unique(groups):
            missing = set(wanted[groups == group].tolist())
            self.container.seek(int(self.keys[group, 1]), stream=self.stream)
            for frame in self.container.decode(self.stream):
                if frame.pts in missing:
                    self.colours.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    missing.remove(frame.pts)
                if not missing:
                    break

    def close(self) -> None:
        self.container.close()


def kept_open(files: OrderedDict[str, Any], path: str, opener: Callable[[str], Any]) -> Any:
    if path not in files:
        while len(files) >= OPEN:
            files.popitem(last=False)[1].close()
        files[path] = opener(path)
    files.move_to_end(path)
    return files[path]


def lerobot(config: RunConfig, python: str, root: str) -> dict[str, float]:
    """LeRobot's loader on the windows of the same clips; its clock is the episode's, from 0."""
    clips = clips_of(config, None)
    drawn = [clips.draw(item) for item in range(len(clips))]
    windows = [(int(clips.logs[number].name.rpartition("_")[2]), start) for number, start in drawn]
    grids = {name: (grid.rate_hz, grid.count) for name, grid in clips.grids.items()}
    settings = {"windows": windows, "grids": grids, "batch": config.train.batch_size, "workers": config.data.workers}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(settings | {"root": root}, file)
        file.flush()
        script = Path(__file__).with_name("bench_loader_lerobot.py")
        out = subprocess.run([python, str(script), file.name], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


def one(way: str, given: argparse.Namespace) -> dict[str, float]:
    """`way` is place, cache, lerobot or floor, with :workers."""
    torch.set_num_threads(1)
    kind, _, workers = way.partition(":")
    batches = max(-(-given.clips // given.batch), 4 + 2 * int(workers or 0))
    words = [f"data.train={given.logs}", f"data.workers={workers or 0}", f"train.batch_size={given.batch}"]
    config = load_config(given.config, [*words, f"train.steps={batches}", "train.accumulate=1", *given.set])
    if kind == "floor":
        return floor(config)
    if kind == "lerobot":
        return lerobot(config, given.lerobot_python, given.lerobot_root)
    return load(config, given.cache if kind == "cache" else None)


def table(ways: dict[str, list[dict[str, float]]]) -> Table:
    """Medians over the rounds; the last columns are against the floor and against in place without workers."""
    shown = Table("way", "clips/s", "MB/s", "peak MB", "MB / 1,000 clips", "x floor", "x in place")
    medians = {way: {k: statistics.median(r[k] for r in rounds) for k in rounds[0]} for way, rounds in ways.items()}
    for way, found in medians.items():
        speed = found["clips_per_s"]
        ratios = [speed / medians[other]["clips_per_s"] for other in ("floor", "place:0")]
        known = [found.get(key, float("nan")) for key in ("mb_per_s", "peak_mb", "mb_per_1000_clips")]
        shown.add_row(way, *(f"{value:.4g}" for value in (speed, *known, *ratios)))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("logs")
    parser.add_argument("--out", type=Path, default=Path("loader.json"))
    parser.add_argument("--cache", type=Path, help="folder of the cache; built first, and left there")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lerobot-python")
    parser.add_argument("--lerobot-root", help="the same data as LeRobot v3.0")
    parser.add_argument("--set", action="append", default=[], help="key.path=value of the configuration")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(one(given.only, given)))
        return
    kinds = ["place", *(["cache"] if given.cache else []), *(["lerobot"] if given.lerobot_python else [])]
    ways = ["floor", *(f"{kind}:{workers}" for kind in kinds for workers in given.workers.split(","))]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    if given.cache:
        clips_of(load_config(given.config, [f"data.train={given.logs}", *given.set]), given.cache)
    for _ in range(given.rounds):
        for way in ways:
            words = [sys.executable, *sys.argv, "--only", way]
            out = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[way].append(json.loads(out.splitlines()[-1]))
    versions = {"torch": torch.__version__, "av": av.__version__, "h5py": h5py.__version__, "cores": os.cpu_count()}
    given.out.write_text(json.dumps({"command": sys.argv, "machine": versions, "load": os.getloadavg(), "ways": found}))
    Console().print(table(found))


if __name__ == "__main__":
    main()
