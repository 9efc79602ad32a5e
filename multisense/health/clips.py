"""The clips on which health is measured: few, the same every time, in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from multisense.clips import Grid, Windows, collate
from multisense.evaluate.windows import Target, label_names, targets
from multisense.logs.base import SensorLog
from multisense.types import Batch

CLIPS = 64
"""Enough that a skill is known to about .02 and a rank of some tens can be told; few enough to be measured while training."""
BATCH = 32
"""Clips in a pass, as many as a training step of a laptop has."""


@dataclass(frozen=True)
class HeldOut:
    """N clips in batches, and what the logs' labels say of them."""

    batches: tuple[Batch, ...]
    log: np.ndarray
    """(N,) number of each clip's log: what is fitted on some clips is never tested on others of the same log."""
    targets: Mapping[str, Target]
    """Every label of every log, one value per clip; empty where the logs carry none."""

    def __len__(self) -> int:
        return len(self.log)

    def to(self, device: torch.device | str) -> "HeldOut":
        return HeldOut(tuple(batch.to(device) for batch in self.batches), self.log, self.targets)


def held_out(
    logs: Sequence[SensorLog], grids: Mapping[str, Grid], seconds: float, count: int = CLIPS, batch_size: int = BATCH
) -> HeldOut:
    """At most `count` windows of `seconds`, evenly through all windows of `logs`: a pure function of the logs.

    Raises ValueError where there are fewer than two windows: spread, rank and retrieval compare clips.
    """
    windows = Windows(logs, grids, seconds, seconds)
    if len(windows) < 2:
        raise ValueError(
            f"health is measured over at least 2 held-out clips; {len(windows)} of {seconds} s are in the {len(logs)} "
            f"logs given: give more or longer logs"
        )
    picks = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int)
    index = [windows.index[i] for i in picks]
    # A last batch of one clip has no other clip to be compared with.
    parts = np.array_split(picks, max(round(len(picks) / batch_size), 1))
    return HeldOut(
        tuple(collate([windows[int(i)] for i in part]) for part in parts),
        np.array([number for number, _ in index], dtype=int),
        targets(logs, index, seconds, label_names(logs)),
    )
