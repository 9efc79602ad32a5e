"""Write an ablation and its heat map as a page of docs/results:
`python tools/results.py ABLATION.json docs/results/NAME.md --title ... --command ...`."""

import argparse
import json
from pathlib import Path
from typing import Any

Interval = dict[str, Any]


def cell(score: Interval) -> str:
    """`.71 [.69, .73]`, or the value alone where there are too few logs for an interval."""
    numbers = [f"{score[key]:.3f}" for key in ("mean", "low", "high") if score.get(key) is not None]
    return numbers[0] if len(numbers) < 3 else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def scores_table(tree: dict[str, Any]) -> str:
    labels, mean = tree["labels"], tree["mean"]
    subsets, baselines = list(mean["subsets"]), list(mean["baselines"])
    rows = []
    for what, names in (("subsets", subsets), ("baselines", baselines)):
        for name in names:
            shown = name if what == "subsets" else f"*{name}*"
            rows.append([shown, *(cell(label[what][name]) for label in labels.values()), cell(mean[what][name])])
    return table(["input", *(f"{name} ({label['metric']})" for name, label in labels.items()), "mean"], rows)


def needs_table(tree: dict[str, Any]) -> str:
    sensors = list(next(iter(tree["labels"].values()))["needs"])
    rows = []
    for name, label in tree["labels"].items():
        costs = {sensor: label["needs"][sensor]["mean"] for sensor in sensors}
        rows.append([name, *(cell(label["needs"][s]) for s in sensors), max(costs, key=costs.__getitem__)])
    return table(["label", *(f"without {s}" for s in sensors), "hurts most"], rows)


def against_table(tree: dict[str, Any]) -> str:
    rows = [
        [name, *(cell(label["differences"][b]) for b in ("untrained", "raw")), cell(label["synergy"])]
        for name, label in tree["labels"].items()
    ]
    mean = tree["mean"]["differences"]
    rows.append(["**mean**", *(cell(mean[f"fused-{b}"]) for b in ("untrained", "raw")), ""])
    return table(["label", "fused - untrained", "fused - raw", "synergy: all - best single"], rows)


def page(tree: dict[str, Any], title: str, command: str, picture: str) -> str:
    origin = tree["provenance"]
    made = {k: origin[k] for k in ("multisense", "code", "torch", "seed", "data", "logs") if k in origin}
    return "\n\n".join(
        [
            f"# {title}",
            picture,
            f"Made by\n\n```bash\n{command.strip()}\n```",
            f"Provenance: {', '.join(f'{k} {v}' for k, v in made.items())}. Windows: {origin['ablation']['windows']}. "
            "Linear probes on held-out logs; brackets are 95 % bootstrap intervals over logs, paired for differences. "
            "Accuracy is balanced over classes. In the mean over labels a score below 0 counts as 0.",
            "## Against the baselines",
            against_table(tree),
            "## What removing a sense costs",
            needs_table(tree),
            "## Every subset",
            scores_table(tree),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ablation", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--command", required=True)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    drawn, shown = given.ablation.with_name("ablation.png"), given.out.with_suffix(".png")
    shown.write_bytes(drawn.read_bytes())
    picture = f"![Scores of every subset of senses]({shown.name})"
    given.out.write_text(page(json.loads(given.ablation.read_text()), given.title, given.command, picture))


if __name__ == "__main__":
    main()
