"""LeRobot's own loader on given windows, for bench_loader.py: run by an interpreter that has lerobot and not multisense.

`python tools/bench_loader_lerobot.py SETTINGS.json`, with root, windows [(episode, start in seconds)], grids {last part
of a feature's name: (rate, count)}, batch and workers; prints JSON. Written for lerobot 0.4, which reads v3.0.
"""

import json
import resource
import sys
import time
from pathlib import Path

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]
from torch.utils.data import DataLoader, Subset


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    plain = LeRobotDataset("local/bench", root=given["root"])
    fps, episodes = plain.fps, plain.meta.episodes
    keys = {key.rpartition(".")[2]: key for key in plain.features}
    # Whole frames from the window's first on, as LeRobot refuses times that are none of its own.
    steps = {keys[name]: [round(k * fps / rate) / fps for k in range(n)] for name, (rate, n) in given["grids"].items()}
    data = LeRobotDataset("local/bench", root=given["root"], delta_timestamps=steps)
    rows = [int(episodes[episode]["dataset_from_index"]) + round(start * fps) for episode, start in given["windows"]]
    workers, batch = given["workers"], given["batch"]
    done = []
    for _ in DataLoader(Subset(data, rows), batch_size=batch, num_workers=workers, drop_last=True):
        done.append(time.perf_counter())
    first = 1 + 2 * workers
    speed = (len(done) - 1 - first) * batch / (done[-1] - done[first])
    kilobytes = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"clips_per_s": speed, "peak_mb": sum(kilobytes) / 1024}))


if __name__ == "__main__":
    main()
