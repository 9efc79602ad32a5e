"""The whole line on real recordings: a humanoid's camera and joints, a hand's skin and joints."""

import runpy
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from multisense.embed import embed_logs
from multisense.logs import open_logs
from multisense.run import load_config, open_run
from multisense.train import train

ROOT = Path(__file__).parents[1]
SMALL = ["train.steps=2", "train.batch_size=4", "train.log_with=[]", "model.width=32", "model.depth=2", "model.heads=2"]


@pytest.mark.slow
def test_a_humanoid_trains_and_embeds_its_held_out_episodes(realdata: Path, tmp_path: Path):
    data = realdata / "g1_lerobot_v21"
    words = [f"data.train={data}", "data.in_memory=false", *SMALL]
    run = open_run(train(load_config(ROOT / "configs" / "g1.yaml", words), tmp_path / "run"))
    held_out = [log for log in open_logs(data) if log.name in run.config.data.hold_out]
    embed_logs(run, held_out, tmp_path / "out.h5", stride_s=4.0)
    with h5py.File(tmp_path / "out.h5") as file:
        assert set(file) == set(run.config.data.hold_out)
        for group in file.values():
            assert group["fused"].shape[1] == 3 * 2 * 32
            assert np.isfinite(group["fused"][:]).all()


@pytest.mark.slow
def test_a_hand_trains_on_the_recipe_of_its_data_set(realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = ROOT / "datasets" / "icub_grasp" / "make_logs.py"
    monkeypatch.setattr(sys, "argv", [str(recipe), str(realdata / "icub_grasp"), str(tmp_path / "logs")])
    runpy.run_path(str(recipe), run_name="__main__")
    words = [f"data.train={tmp_path / 'logs' / 'train'}", f"data.test={tmp_path / 'logs' / 'test'}", *SMALL]
    run = open_run(train(load_config(ROOT / "configs" / "icub_grasp.yaml", words), tmp_path / "run"))
    assert run.grids["touch"].shape == (5, 12, 1)
