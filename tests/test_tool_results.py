"""The tool that writes a page of results: it shows what there is, names it, and refuses what is not of one run."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from multisense.evaluate.scores import Score, constant, unknown
from multisense.evaluate.table import Scores, Tree, key, subsets, tabulate

TOOL = Path(__file__).parents[1] / "tools" / "results.py"


def tree_of(names: tuple[str, ...], failed: tuple[str, ...] = (), weights: str = "aaaa") -> Tree:
    """Of two labels; sets of sensors that `failed` are not known."""
    rng = np.random.default_rng(0)

    def scores(name: str) -> Scores:
        drawn = {x: Score(rng.uniform(), rng.uniform(size=50), bounds=(0.0, 1.0)) for x in ("place", "sound")}
        return {x: unknown(50) for x in drawn} if name in failed else drawn

    fused = {key(s): scores(key(s)) for s in subsets(names)}
    baselines = {"raw": scores("raw"), "chance": {x: constant(0.0, 50) for x in ("place", "sound")}}
    tree = tabulate(names, fused, baselines, {}, {n: scores(n) for n in names[:-1]})
    drop = {k: cells.interval() for k, cells in ((k, of["place"]) for k, of in fused.items())}
    for part in (*tree["labels"].values(), tree["mean"]):
        gone = {n: part["needs"][n] for n in part["needs"]}
        part.update(drop=drop, laziness=gone, missing=gone)
    return {**tree, "provenance": {"weights": weights, "ablation": {"windows": {"train": 3, "test": 2}}}}


def page_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **trees: Tree) -> str:
    for name, tree in trees.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))
    out = tmp_path / "docs" / "page.md"
    monkeypatch.setattr("sys.argv", ["results.py", str(tmp_path), str(out), "--title", "t", "--command", "c"])
    runpy.run_path(str(TOOL), run_name="__main__")
    return out.read_text()


def test_a_single_sense_and_failed_arms_have_a_page(tmp_path, monkeypatch):
    alone = page_of(tmp_path, monkeypatch, retrain=tree_of(("arm",)))
    assert "without" not in alone
    names = ("arm", "ear", "eye")
    failed = tuple(key([n for n in names if n != name]) for name in names)
    lines = page_of(tmp_path, monkeypatch, retrain=tree_of(names, failed)).splitlines()
    assert any(line.startswith("| place | - p 1") and line.endswith("| - |") for line in lines), "none hurts most"


@pytest.mark.parametrize(
    ("count", "words"), [(3, "its Shapley value"), (6, "the loss where it is that of another log")]
)
def test_what_is_shown_is_what_is_said(tmp_path, monkeypatch, count, words):
    tree = tree_of(tuple("abcdef"[:count]))
    page = page_of(tmp_path, monkeypatch, ablation=tree)
    assert f"beside all others; then {words}." in page
    of = tree["mean"]["shapley" if count == 3 else "shuffle"]
    row = page.split("### Who knows what")[1].split("| **mean** |")[1].splitlines()[0]
    assert f"; {of['a']['mean']:.2f} |" in row
    assert row.endswith("; - |") == (count == 6), "the last sensor was not shuffled"
    assert "Holm's over all labels of a table, the mean by itself" in page


def test_results_of_different_weights_are_refused(tmp_path, monkeypatch):
    names = ("arm", "ear")
    with pytest.raises(SystemExit, match=r"ablation.json of aaaa, retrain.json of bbbb; a page is of one run"):
        page_of(tmp_path, monkeypatch, ablation=tree_of(names), retrain=tree_of(names, weights="bbbb"))
    assert not (tmp_path / "docs").exists()


def test_nothing_to_show_is_said(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"found none of ablation.json, retrain.json"):
        page_of(tmp_path, monkeypatch)
    tree = {k: v for k, v in tree_of(("arm", "ear")).items() if k != "provenance"}
    with pytest.raises(SystemExit, match="ablation: no provenance in any of them"):
        page_of(tmp_path, monkeypatch, ablation=tree)
