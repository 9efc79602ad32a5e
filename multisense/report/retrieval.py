"""Does one sense know another: recalls of every route, and what was asked for, found and true, side by side."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Subset

from multisense.clips import Windows, collate
from multisense.evaluate.retrieval import Route, galleries, known_on_both, places, predictions, similarity
from multisense.evaluate.table import key
from multisense.logs.base import SensorLog
from multisense.report.tables import Cell, Table, draw, number, percent
from multisense.report.thumbs import SENSORS, Size, Window, figure, pictures
from multisense.run import Run

ROUTES, QUANTILES = 6, (0.1, 0.5, 0.9)
"""Examples are of at most so many routes, the queries whose ranks stand at these quantiles."""
LARGE = Size(240, 72)


def examples(run: Run, logs: Sequence[SensorLog], *, batch_size: int = 32, seed: int = 0) -> dict[str, Any]:
    """Queries of "all others -> one sensor" in the first gallery of `retrieve`, chosen by their rank: a good, a middling
    and a bad one of each sensor, all of windows that hold both sides. {"examples": [{"context", "target", "rank", "gallery",
    "query" | "found": {"log", "start_s", "picture"}}], "sensors", "seconds"}; the true clip is the query's own."""
    names = run.model.names
    seconds = run.config.data.clip_seconds
    windows = Windows(logs, run.grids, seconds, seconds)
    row = galleries(np.array([number for number, _ in windows.index], dtype=int), seed)[0]
    index = [windows.index[i] for i in row]
    routes: list[Route] = [(tuple(n for n in names if n != target), (target,)) for target in names[:ROUTES]]
    loader = DataLoader(Subset(windows, row.tolist()), batch_size, collate_fn=collate)
    sides = predictions(run, loader, routes)
    chosen = [pick for route in routes for pick in _picked(route, *sides[route[0], route[1][0]])]
    wanted = sorted({i for pick in chosen for i in (pick["query"], pick["found"])})
    shown: list[Window] = [(logs[index[i][0]], index[i][1]) for i in wanted]
    drawn = dict(zip(wanted, pictures(shown, names, seconds, LARGE), strict=True))

    def clip(i: int) -> dict[str, Any]:
        return {"log": logs[index[i][0]].name, "start_s": index[i][1], "picture": drawn[i]}

    found = [{**pick, "query": clip(pick["query"]), "found": clip(pick["found"])} for pick in chosen]
    return {"examples": found, "sensors": list(names), "seconds": seconds}


def _picked(route: Route, predicted: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    there = np.flatnonzero(known_on_both([(predicted, truth)]))
    if len(there) < 2:
        return []
    cosines = similarity(predicted[there], truth[there])
    ranks = places(cosines)
    order = np.argsort(ranks, kind="stable")
    picks = dict.fromkeys(int(order[round(q * (len(order) - 1))]) for q in QUANTILES)
    context, target = key(route[0]), route[1][0]
    return [
        {"context": context, "target": target, "rank": float(ranks[i]), "gallery": len(there),
         "query": int(there[i]), "found": int(there[cosines[i].argmax()])}
        for i in picks
    ]  # fmt: skip


def retrieval_table(found: Mapping[str, Any]) -> str:
    """Recall with its interval, median rank and skill of every route; means and chance below."""
    mean = found["mean"]
    columns = ["route", *(f"R@{k}" for k in mean["recall"]), "median rank", "skill"]
    rows = [_entry(way.replace("+", " + ").replace(">", " → "), entry) for way, entry in found["pairs"].items()]
    means = found.get("means", {"one > one": mean})
    foot = [_entry(f"mean: {kind.replace('>', '→')}", entry) for kind, entry in means.items()]
    chance = [percent(entry["chance"]) for entry in mean["recall"].values()]
    foot.append([Cell("chance"), *chance, number(mean["chance_rank"]), number(0.0, ".2f")])
    caption = f"The true window found among {found['among']}"
    return draw(Table("retrieval", caption, columns, rows, foot))


def _entry(name: str, entry: Mapping[str, Any]) -> list[Cell]:
    recalls = [percent(part) for part in entry["recall"].values()]
    return [Cell(name), *recalls, number(entry["median_rank"]), number(entry["skill"], ".2f")]


def example_figures(found: Mapping[str, Any]) -> str:
    """Three clips beside each other for each query; empty where no window holds two sensors."""
    targets = list(dict.fromkeys(one["target"] for one in found["examples"]))
    blocks = [_of_target(name, found, is_open=name == targets[0]) for name in targets]
    words = (
        "The queries are chosen by their rank, not by their looks: of every sensor one of the best tenth, the median one "
        "and one of the worst tenth. Bold is the sensor that was looked for; of the query it was hidden."
    )
    return f"<h3>Examples</h3><p>{words}</p>{''.join(blocks)}" if blocks else ""


def _of_target(target: str, found: Mapping[str, Any], is_open: bool) -> str:
    some = [one for one in found["examples"] if one["target"] == target]
    title = f"<h4>{escape(target)} from {escape(some[0]['context'].replace('+', ' + '))}</h4>"
    shown = "".join(
        f"<p class='rank'>{_rank(o)}</p><div class='triple'>{''.join(_clips(o, found))}</div>" for o in some
    )
    return f"<details{' open' if is_open else ''}><summary>{title}</summary>{shown}</details>"


def _rank(one: Mapping[str, Any]) -> str:
    return "Found at once:" if one["rank"] == 1 else f"The true one came {one['rank']:g} of {one['gallery']}:"


def _clips(one: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    names = [escape(name) for name in found["sensors"][:SENSORS]]
    target = escape(one["target"])
    sides = {"asked with": one["query"], "found": one["found"], "true": one["query"]}
    return [_clip(role, clip, names, target) for role, clip in sides.items()]


def _clip(role: str, clip: Mapping[str, Any], names: Sequence[str], target: str) -> str:
    where = f"{escape(clip['log'])}, {clip['start_s']:.2f} s"
    alt = f"{role}: {where}: {', '.join(names)}, one below the other"
    row = names.index(target) if role == "asked with" and target in names else -1
    place = f"top:{100 * row / len(names):.3f}%;height:{100 / len(names):.3f}%"
    cover = f"<i class='cover' style='{place}'></i>" if row >= 0 else ""
    return figure(clip["picture"], names, f"<b>{role}</b> {where}", alt, target, cover)
