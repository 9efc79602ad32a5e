"""The demo from nothing to a report, with a model that had two steps to learn."""

import json

import pytest
from test_report import without_umap

from multisense.demo import demo, demo_config
from multisense.evaluate.table import subsets
from multisense.run import load_config
from multisense.train.stop import StopSignal

TINY = (
    "train.steps=2",
    "train.batch_size=4",
    "train.log_every=1",
    "model.width=32",
    "model.depth=2",
    "model.heads=2",
    "objective.target_layers=2",
)


@pytest.mark.slow
def test_the_demo_writes_a_report_and_results(tmp_path, monkeypatch):
    without_umap(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "agreed", lambda self: True)
        with pytest.raises(InterruptedError, match="stopped at step 1 of 2; the same command"):
            demo(tmp_path, train_episodes=8, test_episodes=4, overrides=TINY)
    assert not (tmp_path / "report.html").exists()
    report = demo(tmp_path, train_episodes=8, test_episodes=4, overrides=TINY)
    assert report.read_text().startswith("<!doctype html>")
    results = json.loads((tmp_path / "results.json").read_text())
    names = tuple(load_config(demo_config()).sensors)
    assert set(results) == {"ablation", "retrieval", "seconds", "provenance"}
    assert set(results["ablation"]["mean"]["subsets"]) == {"+".join(s) for s in subsets(names)}
    assert set(results["retrieval"]["pairs"]) == {f"{a}>{b}" for a in names for b in names if a != b}
    assert set(results["seconds"]) == {"simulate", "train", "embed", "ablate", "retrieve"}
    assert results["provenance"]["config"]["model"]["width"] == 32
    assert (tmp_path / "embeddings.h5").exists()
