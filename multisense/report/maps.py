"""The embedding as a map: held-out windows in two dimensions, coloured by any label, each with its clip."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader, Subset

from multisense.clips import Windows, collate
from multisense.embed import embed_subsets
from multisense.evaluate.bench import filled
from multisense.evaluate.windows import SignalLabels, Target, label_names, targets
from multisense.inspect.pictures import svg
from multisense.logs.base import SensorLog, how_to_install
from multisense.report.thumbs import Size, figure, pictures
from multisense.run import Run

WINDOWS = 300
"""At most so many, evenly through all: each brings a picture of about 4 kB."""
WIDTH, HEIGHT, EDGE = 640, 480, 16
FACTS = 8
"""At most so many labels are told of a clip."""
HOW_TO_GET_UMAP = f"A UMAP stands beside it where umap-learn is installed. {how_to_install('umap')}"


def embedding_map(run: Run, logs: Sequence[SensorLog], *, batch_size: int = 32, seed: int = 0) -> dict[str, Any]:
    """Where windows of `logs` lie: {"layouts": {"PCA": (N, 2) in [0, 1]}, "shares": of the variance on the two axes,
    "windows": [[log, start_s]], "colours": [{"name", "classes" | "units", "values", "decimals" of what must not be cut}],
    "pictures": base64 JPEGs}.

    Windows are clips that follow each other, at most WINDOWS of them. UMAP (McInnes et al. 2018) where it is installed.
    """
    seconds = run.config.data.clip_seconds
    windows = Windows(logs, run.grids, seconds, seconds)
    picks = np.linspace(0, len(windows) - 1, min(len(windows), WINDOWS)).round().astype(int).tolist()
    index = [windows.index[i] for i in picks]
    loader = DataLoader(Subset(windows, picks), batch_size, collate_fn=collate)
    names = run.model.names
    fused = np.concatenate([embed_subsets(run.model, batch, [names])[names] for batch in loader])
    layouts, shares = _layouts(filled(fused, fused)[0], seed)
    return {
        "layouts": {name: np.round(_framed(xy), 4).tolist() for name, xy in layouts.items()},
        "shares": shares,
        "windows": [[logs[number].name, start] for number, start in index],
        "seconds": seconds,
        "sensors": list(names),
        "colours": _colours(logs, index, seconds, names),
        "pictures": pictures([(logs[n], start) for n, start in index], names, seconds, Size()),
    }


def _layouts(x: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], list[float]]:
    """(N, F) -> {layout: (N, 2)} and the shares of the variance on the two axes of the PCA."""
    if len(x) < 2:
        raise ValueError(f"a map needs at least 2 windows, found {len(x)}: give more or longer logs")
    pca = PCA(2, random_state=seed).fit(x)
    layouts = {"PCA": pca.transform(x)}
    if has_umap() and len(x) > 3:
        import umap

        neighbours = min(15, len(x) - 1)
        layouts["UMAP"] = np.asarray(umap.UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(x))
    return layouts, [float(share) for share in pca.explained_variance_ratio_]


def has_umap() -> bool:
    """Whether umap-learn is installed, so that a map holds its layout, too."""
    return importlib.util.find_spec("umap") is not None


def _framed(xy: np.ndarray) -> np.ndarray:
    low, high = xy.min(axis=0), xy.max(axis=0)
    return (xy - low) / np.maximum(high - low, 1e-12)


def _colours(
    logs: Sequence[SensorLog], index: Sequence[tuple[int, float]], seconds: float, sensors: Sequence[str]
) -> list[dict[str, Any]]:
    """Every label, a vector's parts one by one, then which recording it is and when."""
    labelled = logs if any(log.labels for log in logs) else [SignalLabels.of(log, sensors) for log in logs]
    found = targets(labelled, index, seconds, label_names(labelled))
    parts = [part for target in found.values() for part in _parts(target)]
    order = list(dict.fromkeys(number for number, _ in index))
    recording = {"classes": [logs[n].name for n in order], "values": [order.index(n) for n, _ in index]}
    when = {"units": "s", "decimals": 2, "values": [round(start, 3) for _, start in index]}
    return [*parts, {"name": "recording", **recording}, {"name": "begins at", **when}]


def _parts(target: Target) -> list[dict[str, Any]]:
    columns = target.values.reshape(len(target.values), -1).T
    names = [target.name] if len(columns) == 1 else [f"{target.name} [{i}]" for i in range(len(columns))]
    shown = [[float(f"{v:.4g}") if p else None for v, p in zip(c, target.present, strict=True)] for c in columns]
    if not target.is_class:
        return [{"name": n, "units": target.units, "values": v} for n, v in zip(names, shown, strict=True)]
    count = int(target.values.max(initial=0)) + 1
    classes = [*target.classes, *map(str, range(len(target.classes), count))]
    return [{"name": n, "classes": classes, "values": v} for n, v in zip(names, shown, strict=True)]


def map_section(found: Mapping[str, Any]) -> str:
    """The map as HTML; page.js colours it, moves between layouts and shows the clips."""
    layouts, sensors = list(found["layouts"]), [escape(name) for name in found["sensors"]]
    words = (
        f"Each dot is a clip of {found['seconds']:g} s of a held-out recording; near each other lie clips whose fused "
        f"embeddings are alike. The PCA's axes hold {100 * found['shares'][0]:.0f} % and {100 * found['shares'][1]:.0f} % "
        "of the variance. Labels were not used to make the map."
    )
    how = "" if "UMAP" in layouts else f"<p class='faint'>{HOW_TO_GET_UMAP}</p>"
    chosen = "".join(f"<option>{escape(c['name'])}</option>" for c in found["colours"])
    layout = "".join(f"<option>{name}</option>" for name in layouts)
    hint = "Point at a dot, or go to the map with Tab and on with the arrow keys, to see its clip."
    return (
        f"<p>{words}</p>{how}<div class='controls'><label>Colour by <select id='map-colour'>{chosen}</select></label>"
        f"<label>Layout <select id='map-layout'>{layout}</select></label></div>"
        f"<div class='map'><div><div id='map'>{_dots(found)}</div><div id='map-legend' class='legend'></div></div>"
        f"<div id='map-card'>{figure('', sensors, hint, '')}</div></div>"
        f"<script type='application/json' id='map-data'>{_data(found)}</script>"
    )


def _dots(found: Mapping[str, Any]) -> str:
    first = next(iter(found["layouts"].values()))
    dots = [
        f'<circle cx="{EDGE + x * (WIDTH - 2 * EDGE):.1f}" cy="{EDGE + (1 - y) * (HEIGHT - 2 * EDGE):.1f}" r="6" '
        f'role="img" tabindex="{-1 if i else 0}" aria-label="{escape(log, quote=True)}, {start:.2f} s"/>'
        for i, ((x, y), (log, start)) in enumerate(zip(first, found["windows"], strict=True))
    ]
    drawn = svg(HEIGHT, dots, "map of the embedding", WIDTH)
    return drawn.replace('role="img"', 'role="group"', 1).replace("<title>map of the embedding</title>", "", 1)


def _data(found: Mapping[str, Any]) -> str:
    """For a script element: what would end it is escaped."""
    facts = [colour["name"] for colour in found["colours"][: min(FACTS, len(found["colours"]) - 2)]]
    data = {**found, "facts": facts, "frame": [WIDTH, HEIGHT, EDGE]}
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
