"""Does anything beat chance where nothing can be known: `python tools/null_world.py RUN [LOGS] [--permutations 5] [--logs 200]`.

Labels are permuted between logs, and in each log between its windows: what all logs have in common at one moment, such
as that an arm has not yet touched anything, would else be known from any signal that tells the time. Prints, for every
label, in what share of the cells (subset of sensors x permutation) the 95 % interval lies above chance; 2.5 % is what an
interval allows on that side.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track
from threadpoolctl import threadpool_limits

from multisense.clips import Windows
from multisense.embed import batches, embed_subsets
from multisense.evaluate.ablation import open_held_out, refuse_overlap
from multisense.evaluate.bench import bench
from multisense.evaluate.table import subsets
from multisense.evaluate.windows import label_names, targets
from multisense.logs.base import SensorLog
from multisense.run import Run, check_logs, training_logs


@dataclass(frozen=True)
class Relabelled:
    labels: dict


def permuted(
    run: Run, train: list[SensorLog], test: list[SensorLog], permutations: int, stride_s: float
) -> dict[str, list[bool]]:
    """{label: whether the interval lies above chance, for every subset and permutation}"""
    logs, seconds = [*train, *test], run.config.data.clip_seconds
    windows = Windows(logs, run.grids, seconds, stride_s)
    wanted = subsets(run.model.names)
    found = [embed_subsets(run.model, b, wanted) for b in track(batches(windows), "embedding", transient=True)]
    features = [np.concatenate([part[subset] for part in found]) for subset in wanted]
    number = np.array([log for log, _ in windows.index])
    held, above = number >= len(train), dict[str, list[bool]]()
    for seed in track(range(permutations), "probing", transient=True):
        rng = np.random.default_rng(seed)
        order, moments = rng.permutation(len(logs)), _shuffled(windows.index, number, rng)
        others = [Relabelled(dict(logs[other].labels)) for other in order]
        sides = [
            targets(others, [moments[i] for i in np.flatnonzero(side)], seconds, label_names(others))
            for side in (~held, held)
        ]
        kept, _ = bench(*sides, number[~held], number[held] - len(train), seed=seed)
        chance = kept.chance()
        with threadpool_limits(1):
            for x in features:
                for name, score in kept.scores(x[~held], x[held]).items():
                    above.setdefault(name, []).append((score.interval()["low"] or -1) > chance[name].value)
    return above


def _shuffled(
    index: Sequence[tuple[int, float]], number: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, float]]:
    """The windows, those of each log in another order."""
    found = list(index)
    for log in np.unique(number):
        own = np.flatnonzero(number == log)
        for here, there in zip(own, rng.permutation(own), strict=True):
            found[here] = index[there]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("test", nargs="?")
    parser.add_argument("--permutations", type=int, default=5)
    parser.add_argument("--logs", type=int, default=200, help="Of the training logs, at most.")
    given = parser.parse_args()
    run, test = open_held_out(given.run, given.test)
    trained_on = training_logs(run.config)
    refuse_overlap(trained_on, test)
    train = trained_on[: given.logs]
    check_logs(run.config, run.grids, [*train, *test])
    above = permuted(run, train, test, given.permutations, run.config.data.clip_seconds)
    for name, cells in above.items():
        print(f"{name:20} {sum(cells):4} of {len(cells):4} above chance ({np.mean(cells):.1%})")
    every = [cell for cells in above.values() for cell in cells]
    print(f"{'all':20} {sum(every):4} of {len(every):4} above chance ({np.mean(every):.1%})")


if __name__ == "__main__":
    main()
