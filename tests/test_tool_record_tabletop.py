"""The tool that records the simulated robot live."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from multisense.logs import open_log

pytest.importorskip("mujoco")
TOOL = Path(__file__).parents[1] / "tools" / "record_tabletop.py"


def test_the_live_tabletop_is_the_simulated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from multisense.sim.simulate import simulate_log

    monkeypatch.setattr(sys, "argv", [str(TOOL), str(tmp_path / "run.h5"), "--seconds", "1", "--size", "32"])
    runpy.run_path(str(TOOL), run_name="__main__")
    assert "camera: 20 samples" in capsys.readouterr().out
    log, whole = open_log(tmp_path / "run.h5"), simulate_log(0, 0, 1.0, 32).recordings
    assert {name: info.count for name, info in log.sensors.items()} == {n: len(r.data) for n, r in whole.items()}
    for name in ("mic", "fingertip", "action"):
        np.testing.assert_array_equal(log.read(name, -1, 9).data, whole[name].data)
    frames = log.read("camera", -1, 9).data.astype(int)
    assert np.abs(frames - whole["camera"].data).mean() < 8  # H.264 of small frames
    np.testing.assert_allclose(log.read("mic", -1, 9).times_s, np.arange(16_000) / 16_000, atol=1e-9)
