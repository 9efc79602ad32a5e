"""Which sense mattered: the verdict, scores of every subset of sensors, what each is needed for."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from multisense.evaluate.metrics import NAMES
from multisense.evaluate.table import Tree, text
from multisense.inspect.pictures import intervals
from multisense.report.tables import NONE, Cell, Table, draw, gap, heat, score


def headline(tree: Tree) -> str:
    """The verdict in a sentence, and the four numbers behind it."""
    mean = tree["mean"]
    best, best_score = max(_singles(mean).items(), key=lambda item: item[1]["mean"])
    facts = {"all senses together": mean["subsets"][whole(tree)], f"best single sense: {best}": best_score}
    facts |= {name: mean["baselines"][name] for name in ("untrained", "raw") if name in mean["baselines"]}
    names = {"untrained": "untrained network", "raw": "raw signals"}
    boxes = "".join(_fact(names.get(name, name), cell) for name, cell in facts.items())
    return (
        f"<p class='lead'>{escape(verdict(mean))}</p><div class='facts'>{boxes}</div>"
        f"<p class='faint'>Mean over {len(tree['labels'])} labels of linear probes on held-out recordings (R² for "
        f"quantities, balanced accuracy for classes), with 95 % intervals over recordings. {floored(mean['floor'])}</p>"
    )


def floored(floor: float) -> str:
    """What a reader must know who makes the mean of a table by himself."""
    return f"In the mean a score below {floor:g} counts as {floor:g}."


def _fact(name: str, cell: Mapping[str, Any]) -> str:
    number, _, interval = text(cell).partition(" ")
    return f"<div class='fact'><b>{number}</b><span>{escape(name)}<br>{interval}</span></div>"


def whole(tree: Tree) -> str:
    """The key of all sensors together."""
    return max(tree["mean"]["subsets"], key=lambda name: name.count("+"))


def _singles(part: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: cell for name, cell in part["subsets"].items() if "+" not in name}


def verdict(mean: Mapping[str, Any]) -> str:
    """What the paired intervals of an ablation tree's `mean` allow to be said, in a sentence."""
    said: dict[str, list[str]] = {"better than": [], "not distinguishable from": [], "worse than": []}
    for versus, difference in mean["differences"].items():
        low, high = difference["low"], difference["high"]
        if difference["mean"] is None:
            continue
        clear = low is not None and (low > 0 or high < 0)
        how = "not distinguishable from" if not clear else "better than" if difference["mean"] > 0 else "worse than"
        said[how].append(f"{versus.removeprefix('fused-')} ({difference['mean']:+.2f})")
    parts = [f"{how} {_listed(names)}" for how, names in said.items() if names]
    return f"The fused representation is {'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def overview(tree: Tree) -> str:
    """The means over labels as dots with whiskers."""
    mean = tree["mean"]
    rows = {"all senses": (mean["subsets"][whole(tree)], "var(--accent)")}
    rows |= {name: (cell, f"var(--c{i % 8})") for i, (name, cell) in enumerate(_singles(mean).items())}
    rows |= {name: (cell, "var(--faint)") for name, cell in mean["baselines"].items()}
    return intervals(rows, "mean score over labels")


def heat_table(tree: Tree, name: str, caption: str) -> str:
    """Labels down, sets of sensors and baselines across; dots in a heading say which sensors the set holds."""
    mean, sensors = tree["mean"], whole(tree).split("+")
    keys, baselines = list(mean["subsets"]), list(mean["baselines"])
    columns = ["label", *(k.replace("+", " + ") for k in keys), *baselines]
    heads = {"label": f"<span class='dots'>{''.join(f'<span>{escape(s)}</span>' for s in sensors)}</span>"}
    heads |= {k.replace("+", " + "): _dots(sensors, k) for k in keys}
    rows = [_scores(label, part, keys, baselines) for label, part in tree["labels"].items()]
    foot = [_scores("mean", mean, keys, baselines)]
    return draw(Table(name, f"{caption}. {floored(mean['floor'])}", columns, rows, foot, heads, "heat"))


def _dots(sensors: Sequence[str], subset: str) -> str:
    held = subset.split("+")
    marks = "".join(f"<i class='{'on' if sensor in held else 'off'}'></i>" for sensor in sensors)
    return f"<span class='dots'>{marks}</span>"


def _scores(label: str, part: Tree, keys: Sequence[str], baselines: Sequence[str]) -> list[Cell]:
    known = [heat(part["subsets"].get(k)) for k in keys] + [heat(part["baselines"].get(k)) for k in baselines]
    return [Cell(label, note=NAMES.get(part.get("metric", ""), "")), *known]


PER_SENSOR = {
    "needs": "without {}",
    "shuffle": "{} of another log",
    "shapley": "Shapley value of {}",
    "unique": "only in {}",
    "redundant": "in {} and others",
    "laziness": "lost of {}",
    "missing": "stands without {}",
}
"""Measures of each sensor under a label, and their headings; `needs` and `shuffle` are losses, shown as changes."""
LOSSES = ("needs", "shuffle")
SHARES = ("unique", "redundant")


def sensors_table(tree: Tree, name: str, caption: str, measures: Sequence[str]) -> str:
    """Some measures of each sensor, for each label; empty where the tree has none of them."""
    parts = {**tree["labels"], "mean": tree["mean"]}
    asked = [(kind, s) for kind in measures for s in whole(tree).split("+") if _measure(tree["mean"], kind, s)]
    has_synergy = "needs" in measures and "synergy" in tree["mean"]
    columns = ["label", *(PER_SENSOR[kind].format(s) for kind, s in asked), *["synergy"] * has_synergy]

    def row(label: str) -> list[Cell]:
        cells = [gap(_measure(parts[label], kind, s), -1 if kind in LOSSES else 1) for kind, s in asked]
        return [Cell(label), *cells, *[_synergy(parts[label].get("synergy"))] * has_synergy]

    rows = [row(label) for label in tree["labels"]]
    return draw(Table(name, caption, columns, rows, [row("mean")])) if asked else ""


def _measure(part: Tree, kind: str, sensor: str) -> Mapping[str, Any] | None:
    if kind in SHARES:
        return part.get("shares", {}).get(sensor, {}).get(kind)
    return part.get(kind, {}).get(sensor)


def _synergy(part: Mapping[str, Any] | None) -> Cell:
    if part is None:
        return NONE
    shown = gap(part)
    return Cell(shown.words, shown.values, f"{shown.note} over {part['best_single']}", is_strong=shown.is_strong)


def retrain_section(tree: Tree) -> str:
    """The same tables of models that were trained on each subset alone."""
    failed = {name: arm.get("error", "") for name, arm in tree.get("arms", {}).items() if arm["state"] == "failed"}
    said = "".join(f"<li>{escape(name)}: {escape(str(error))}</li>" for name, error in failed.items())
    words = (
        "Dropping a sense from a model that learned with it is one question; a model that never had it is another. Here "
        "each subset is a model of its own, trained on those sensors alone with the same steps. Late fusion puts the "
        "embeddings of the single-sensor models side by side."
    )
    return (
        f"<h3>Trained anew for every subset</h3><p>{words}</p>"
        + (f"<p>Left out, because their training failed:</p><ul>{said}</ul>" if failed else "")
        + heat_table(tree, "retrain", "Scores of models trained on each subset of sensors alone")
        + sensors_table(tree, "retrain-needs", "What models trained without a sense lose", ["needs"])
        + "<p>Lost of a sense: how much more a model of that sense alone says than this one from that sense. Stands without: "
        "how much more this model says without a sense than one that never had it.</p>"
        + sensors_table(tree, "retrain-one-model", "One model beside many", ["laziness", "missing"])
    )


def probe_table(tree: Tree) -> str:
    """What `probe` found: every label, share of the training logs and metric, beside untrained network and chance."""
    rows = []
    for label, part in tree["labels"].items():
        for found in part["budgets"].values():
            for metric in part["metrics"]:
                unit = f" ({part['units']})" if metric == "mae" and part["units"] else ""
                cells = [_probed(metric, found[metric][who]) for who in ("run", "untrained")]
                better = NONE if metric == "mae" else gap(found[metric]["gain"])
                chance = _probed(metric, {**found[metric]["chance"], "low": None, "high": None})
                shown = Cell(NAMES[metric] + unit)
                rows.append([Cell(label), shown, Cell(str(found["logs"]), (found["logs"],)), *cells, better, chance])
    kind = tree["protocol"]["probe"]
    caption = f"{kind.capitalize()} probes of the fused embedding on held-out recordings; MAE in the label's unit"
    return draw(Table("probes", caption, ["label", "score", "logs", "run", "untrained", "gain", "chance"], rows))


def _probed(metric: str, cell: Mapping[str, Any]) -> Cell:
    """A share as .62 [.58, .66]; an error in its unit with three digits."""
    if metric != "mae":
        return score(cell)
    mean, low, high = (cell[k] for k in ("mean", "low", "high"))
    return Cell(f"{mean:.3g}", (mean, low, high), "" if low is None else f"[{low:.3g}, {high:.3g}]")
