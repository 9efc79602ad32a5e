"""Shuffle importance: what a representation loses when one sensor is that of another recording (Breiman 2001)."""

import numpy as np
from rich.progress import track

from multisense.clips import Windows
from multisense.embed import batches, embed_subsets
from multisense.evaluate.disturbances import DISTURBANCES, Gauge, Surroundings, View
from multisense.run import Run

SWAPPED = next(d for d in DISTURBANCES if d.name == "swapped")


def shuffled(run: Run, windows: Windows, seed: int, batch_size: int) -> dict[str, np.ndarray]:
    """{sensor: (N, F)} fused vectors of every window with that sensor as it was in another log. A sensor that fewer
    than two logs have is left out."""
    names = run.model.names
    around = {name: Surroundings(run.grids[name], windows, Gauge(run.grids[name]).scale, seed) for name in names}
    found: dict[str, list[np.ndarray]] = {name: [] for name in names if len(around[name].order[0]) > 1}
    for number, batch in enumerate(track(batches(windows, batch_size), "swapping sensors", transient=True)):
        items = range(number * batch_size, number * batch_size + len(batch))
        for name, parts in found.items():
            view = View(around[name], items, batch.values[name], batch.valid[name])
            parts.append(embed_subsets(run.model, SWAPPED.disturb(batch, view, 1), [names])[names])
    return {name: np.concatenate(parts) for name, parts in found.items()}
