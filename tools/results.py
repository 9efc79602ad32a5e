"""Write what evaluation found as a page of docs/results, with the pictures beside it:
`python tools/results.py FOLDER... docs/results/NAME.md --title ... --command ...`.

Each FOLDER holds some of ablation.json, retrain.json, objective.json, robustness.json and retrieval.json
(`multisense retrieve RUN --json > retrieval.json`), all of the same weights.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Cell = Mapping[str, Any]
NAMES = ("ablation", "retrain", "objective", "robustness", "retrieval")


def cell(score: Cell) -> str:
    """`.71 [.69, .73]`, or the value alone where there are too few logs for an interval."""
    numbers = [f"{score[key]:.3f}" for key in ("mean", "low", "high") if score.get(key) is not None]
    return "-" if not numbers else numbers[0] if len(numbers) < 3 else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def tested(score: Cell) -> str:
    """A difference with Holm's p, bold where it is not 0 by that."""
    p = score.get("p")
    if p is None:
        return cell(score)
    words = f"{cell(score)} p {'< .001' if p < 0.001 else f'{p:.3f}'.lstrip('0')}"
    return f"**{words}**" if p < 0.05 else words


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def parts(tree: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [*tree["labels"].items(), ("**mean**", tree["mean"])]


def scores_table(tree: Mapping[str, Any]) -> str:
    rows = []
    for what in ("subsets", "baselines"):
        for name in tree["mean"][what]:
            rows.append(
                [name if what == "subsets" else f"*{name}*", *(cell(part[what][name]) for _, part in parts(tree))]
            )
    return table(["input", *(f"{n} ({p['metric']})" if "metric" in p else n for n, p in parts(tree))], rows)


def needs_table(tree: Mapping[str, Any]) -> str:
    sensors = list(tree["mean"]["needs"])
    rows = []
    for name, part in parts(tree):
        known = {s: part["needs"][s]["mean"] for s in sensors if part["needs"][s]["mean"] is not None}
        worst = max(known, key=lambda s: known[s], default="-")
        rows.append([name, *(tested(part["needs"][s]) for s in sensors), worst])
    return table(["label", *(f"without {s}" for s in sensors), "hurts most"], rows)


def differences_table(tree: Mapping[str, Any]) -> str:
    others = [other for other in tree["mean"]["baselines"] if other != "chance"]
    rows = [
        [name, *(tested(part["differences"][o]) for o in others), cell(part["synergy"])]
        for name, part in tree["labels"].items()
    ]
    mean = tree["mean"]
    rows.append(["**mean**", *(tested(mean["differences"][f"fused-{o}"]) for o in others), cell(mean["synergy"])])
    return table(["label", *(f"all senses - {o}" for o in others), "synergy: all - best single"], rows)


def knows_table(tree: Mapping[str, Any]) -> str:
    """Shares of each sensor, and its Shapley value or, of many sensors, for which there is none, what shuffling costs."""
    sensors, rows = list(tree["mean"]["shares"]), []
    last = "shapley" if "shapley" in tree["mean"] else "shuffle"
    for name, part in parts(tree):
        own = [" / ".join(short(part["shares"][s][k]) for k in ("unique", "redundant", "synergy")) for s in sensors]
        rows.append(
            [name, *(f"{shown}; {short(part[last].get(s, {}))}" for s, shown in zip(sensors, own, strict=True))]
        )
    words = "its Shapley value" if last == "shapley" else "the loss where it is that of another log"
    return "\n\n".join(
        [
            f"Unique / redundant / synergy of each sense beside all others; then {words}.",
            table(["label", *sensors], rows),
        ]
    )


def short(score: Cell) -> str:
    return "-" if score.get("mean") is None else f"{score['mean']:.2f}"


def sensors_table(tree: Mapping[str, Any]) -> str:
    mean, rows = tree["mean"], []
    names = list(mean["laziness"])
    for name in names:
        rest = "+".join(n for n in names if n != name)
        alone = [cell(mean["drop"][name]), cell(mean["subsets"][name]), tested(mean["laziness"][name])]
        without = [cell(mean["drop"][rest]), cell(mean["subsets"][rest]), tested(mean["missing"][name])]
        rows.append([name, *alone, *without])
    words = (
        "alone, dropped",
        "alone, trained",
        "trained - dropped",
        "without, dropped",
        "without, trained",
        "dropped - trained",
    )
    return table(["sensor", *words], rows)


def by_mean_table(tree: Mapping[str, Any]) -> str:
    """All senses against each model of one sense and each baseline, on the mean over labels."""
    rows = [[name.removeprefix("fused-"), tested(gap)] for name, gap in tree["mean"]["differences"].items()]
    return table(["all senses better than", "by"], rows)


def worse_elsewhere(tree: Mapping[str, Any]) -> str:
    """Labels on which a model of one sense or a baseline is ahead of all senses together."""
    whole, found = list(tree["mean"]["subsets"])[-1], []
    for label, part in tree["labels"].items():
        others = {**{k: v for k, v in part["subsets"].items() if "+" not in k}, **part["baselines"]}
        ahead = {k: v["mean"] - part["subsets"][whole]["mean"] for k, v in others.items() if v["mean"] is not None}
        found += [f"{label}: {k} by {gap:.3f}" for k, gap in ahead.items() if gap > 0]
    return "; ".join(found) or "none"


def objective_table(tree: Mapping[str, Any]) -> str:
    rows = [
        [arm, *(cell(part["arms"][arm]) for _, part in parts(tree)), tested(tree["mean"]["differences"].get(arm, {}))]
        for arm in tree["mean"]["arms"]
    ]
    return table(["trained", *(name for name, _ in parts(tree)), "the run - it"], rows)


def robustness_table(tree: Mapping[str, Any]) -> str:
    rows = []
    for sensor, found in tree["sensors"].items():
        for points in found["curves"].values():
            for point in points:
                mean = point["mean"]
                rows.append([sensor, point["words"], *(cell(mean[k]) for k in ("score", "loss", "over_without"))])
    return table(["sensor", "what befell it", "mean score", "loss", "above probes without it"], rows)


def retrieval_table(found: Mapping[str, Any]) -> str:
    chance = found["mean"]["recall"]
    rows = [
        [
            way.replace(">", " > "),
            *(cell(entry["recall"][k]) for k in chance),
            plain(entry["median_rank"], "g"),
            plain(entry["skill"], ".2f"),
        ]
        for way, entry in [
            *found["pairs"].items(),
            *((f"**mean: {kind}**", entry) for kind, entry in found["means"].items()),
        ]
    ]
    by_chance = [plain(part["chance"], ".4f") for part in chance.values()]
    rows.append(["*chance*", *by_chance, plain(found["mean"]["chance_rank"], "g"), ".00"])
    return table(["from > to", *(f"R@{k}" for k in chance), "median rank", "skill"], rows)


def plain(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def sections(trees: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
    shown = []
    if "ablation" in trees:
        tree = trees["ablation"]
        shown += [
            "## Senses dropped from one model",
            pictures.get("ablation", ""),
            "### Against the baselines",
            differences_table(tree),
        ]
        shown += ["### What removing a sense costs", needs_table(tree)] if tree["mean"]["needs"] else []
        if tree["mean"].get("shares"):
            shown += ["### Who knows what", knows_table(tree)]
        shown += ["### Every subset", scores_table(tree)]
    if "retrain" in trees:
        tree = trees["retrain"]
        shown += ["## A model trained for each set of senses", pictures.get("retrain", ""), by_mean_table(tree)]
        shown += [f"Labels on which something else is ahead of all senses together: {worse_elsewhere(tree)}."]
        if tree["mean"]["needs"]:  # of a single sense there is nothing to leave out
            shown += ["### Dropped from one model, or trained without (mean over labels)", sensors_table(tree)]
            shown += ["### What training without a sense costs", needs_table(tree)]
        shown += ["### Every model", scores_table(tree)]
    if "objective" in trees:
        shown += ["## Trained with another objective", objective_table(trees["objective"])]
    if "robustness" in trees:
        shown += ["## A sense that is broken", pictures.get("robustness", ""), robustness_table(trees["robustness"])]
    if "retrieval" in trees:
        words = f"The true window among {trees['retrieval']['among']}, all held out."
        shown += ["## One sense found from others", words, retrieval_table(trees["retrieval"])]
    return shown


def provenances(trees: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """{"ablation": provenance}; exits where there is none, or results are not of the same weights."""
    found = {name: tree["provenance"] for name, tree in trees.items() if "provenance" in tree}
    if not found:
        raise SystemExit(f"{', '.join(trees)}: no provenance in any of them; make them again with this version")
    weights = {name: of["weights"] for name, of in found.items() if "weights" in of}
    if len(set(weights.values())) > 1:
        shown = ", ".join(f"{name}.json of {of}" for name, of in weights.items())
        raise SystemExit(f"results of different weights: {shown}; a page is of one run")
    return found


def page(trees: Mapping[str, Any], title: str, command: str, notes: str, pictures: Mapping[str, str]) -> str:
    every = provenances(trees)
    known = next(iter(every.values()))
    made = {k: known[k] for k in ("multisense", "code", "torch", "seed", "data", "logs", "weights") if k in known}
    made_of = [of[k] for of in every.values() for k in ("ablation", "robustness", "retrieval") if k in of]
    windows = next((part["windows"] for part in made_of if "windows" in part), "-")
    head = [
        f"# {title}",
        f"Made by\n\n```bash\n{command.strip()}\n```",
        f"Provenance: {', '.join(f'{k} {v}' for k, v in made.items())}. Windows: {windows}. Linear probes on held-out logs; "
        "brackets are 95 % bootstrap-t intervals over logs, paired for differences; "
        "p is Holm's over all labels of a table, the mean by itself, bold below .05. "
        "Accuracy is balanced over classes. In the mean over labels a score below 0 counts as 0.",
    ]
    return "\n\n".join([*head, *([notes] if notes else []), *(s for s in sections(trees, pictures) if s), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("out", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--notes", type=Path, help="Markdown with what did and did not work, after the provenance.")
    given = parser.parse_args()
    files = {
        name: folder / f"{name}.json"
        for folder in given.folders
        for name in NAMES
        if (folder / f"{name}.json").exists()
    }
    if not files:
        folders = ", ".join(map(str, given.folders))
        raise SystemExit(
            f"{folders}: found none of {', '.join(f'{name}.json' for name in NAMES)}; expected some of them"
        )
    trees = {name: json.loads(file.read_text()) for name, file in files.items()}
    provenances(trees)  # before a picture is written
    given.out.parent.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, file in files.items():
        if file.with_suffix(".png").exists():
            beside = given.out.with_name(given.out.stem + ("" if name == "ablation" else f"_{name}") + ".png")
            beside.write_bytes(file.with_suffix(".png").read_bytes())
            pictures[name] = f"![{name}]({beside.name})"
    notes = given.notes.read_text().strip() if given.notes else ""
    given.out.write_text(page(trees, given.title, given.command, notes, pictures))


if __name__ == "__main__":
    main()
