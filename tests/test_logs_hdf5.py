"""robomimic and ALOHA files written by h5py after the published layouts, and what damage does to them."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import assert_gives_single_samples, vector
from PIL import Image

from multisense.logs import LogError, write_log
from multisense.logs.formats.hdf5 import aloha_log, candidates, recognises, robomimic_log
from multisense.logs.pool import POOL

STEPS = 6


def frames(count: int = STEPS) -> np.ndarray:
    """Frame i is a plain colour that names i."""
    return np.zeros((count, 16, 24, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None] * 40


def jpegs(images: np.ndarray) -> list[bytes]:
    def encode(image: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "JPEG", quality=95)
        return out.getvalue()

    return [encode(image) for image in images]


def padded(images: np.ndarray) -> np.ndarray:
    """(N, longest) uint8, as the real robots' recorders write them."""
    encoded = jpegs(images)
    out = np.zeros((len(encoded), max(map(len, encoded)) + 7), np.uint8)
    for row, data in zip(out, encoded, strict=True):
        row[: len(data)] = np.frombuffer(data, np.uint8)
    return out


def robomimic(path: Path, demos: int = 2, control_freq: float | None = 10) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for i in range(demos):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = np.full((STEPS, 7), i, np.float64)
            demo["states"] = np.arange(STEPS * 3.0).reshape(STEPS, 3)
            demo["rewards"] = np.linspace(0, 1, STEPS)
            demo["dones"] = np.arange(STEPS) == STEPS - 1
            for group in ("obs", "next_obs"):
                demo[f"{group}/robot0_eef_pos"] = np.arange(STEPS * 3.0).reshape(STEPS, 3) + i
                demo.create_dataset(f"{group}/agentview_image", data=frames(), compression="gzip")
                demo[f"{group}/agentview_depth"] = np.ones((STEPS, 16, 24, 1), np.float32)
            demo.attrs["num_samples"] = STEPS
            demo.attrs["model_file"] = "<mujoco/>"
        kwargs = {} if control_freq is None else {"control_freq": control_freq}
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": kwargs})
        data.attrs["total"] = demos * STEPS
        file["mask/train"] = np.array([b"demo_0"])
    return path


def aloha(path: Path, compress: bool = False, sim: bool = True) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = sim
        file["observations/qpos"] = np.arange(STEPS * 14.0).reshape(STEPS, 14)
        file["observations/qvel"] = np.zeros((STEPS, 14))
        file["action"] = np.ones((STEPS, 14))
        if compress:
            file.attrs["compress"] = True
            file["observations/effort"] = np.zeros((STEPS, 14))
            file["observations/images/cam_high"] = padded(frames())
            file["compress_len"] = np.array([[len(data) for data in jpegs(frames())]], np.float32)
        else:
            file.create_dataset("observations/images/top", data=frames(), chunks=(1, 16, 24, 3))
    return path


def test_robomimic_has_one_log_per_demo(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5")
    assert recognises(path)
    assert recognises(tmp_path)
    with h5py.File(path, "a"):
        """Recognising leaves nothing open, so the file can be written to."""
    logs = candidates(path)
    assert list(logs) == ["lift-demo_0", "lift-demo_1"] == list(candidates(tmp_path))
    log = logs["lift-demo_1"]()
    assert {name: (s.modality, s.shape, s.rate_hz) for name, s in log.sensors.items()} == {
        "agentview_depth": ("", (16, 24, 1), 10.0),
        "agentview_image": ("video", (16, 24, 3), 10.0),
        "robot0_eef_pos": ("proprio", (3,), 10.0),
        "actions": ("proprio", (7,), 10.0),
        "states": ("proprio", (3,), 10.0),
    }
    part = log.read("robot0_eef_pos", 0.2, 0.4)
    np.testing.assert_array_equal(part.times_s, [0.2, 0.3])
    np.testing.assert_array_equal(part.data, [[7, 8, 9], [10, 11, 12]])
    np.testing.assert_array_equal(log.read("agentview_image", 0, 9).data, frames())
    np.testing.assert_array_equal(log.labels["rewards"].data, np.linspace(0, 1, STEPS))
    assert log.labels["dones"].data.tolist() == [0, 0, 0, 0, 0, 1]
    assert log.labels["dones"].classes == ("going on", "done")
    assert set(robomimic_log(str(path), "demo_1").skipped) == {"next_obs"}
    assert log.fingerprint() != logs["lift-demo_0"]().fingerprint()


def test_robomimic_without_a_rate_says_so(tmp_path: Path) -> None:
    log = robomimic_log(str(robomimic(tmp_path / "a.hdf5", control_freq=None)), "demo_0")
    assert log.sensors["actions"].rate_hz == 20
    assert "the usual 20 Hz assumed" in log.notes["actions"]
    POOL.close()  # to edit the file in the process that has read it
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["data"].attrs["env_args"] = "no json"
    assert robomimic_log(str(tmp_path / "a.hdf5"), "demo_0").sensors["actions"].rate_hz == 20


def test_aloha_frames_are_read_at_50_hz(tmp_path: Path) -> None:
    for i in range(2):
        aloha(tmp_path / f"episode_{i}.hdf5")
    assert recognises(tmp_path)
    logs = candidates(tmp_path)
    assert list(logs) == ["episode_0", "episode_1"]
    log = logs["episode_0"]()
    assert set(log.sensors) == {"top", "qpos", "qvel", "action"}
    part = log.read("qpos", 0.04, 0.08)
    np.testing.assert_array_equal(part.times_s, [0.04, 0.06])
    np.testing.assert_array_equal(part.data, np.arange(STEPS * 14.0).reshape(STEPS, 14)[2:4])
    np.testing.assert_array_equal(log.read("top", 0.02, 0.06).data, frames()[1:3])
    assert_gives_single_samples(log)
    assert "DT .02" in aloha_log(str(tmp_path / "episode_0.hdf5")).notes["top"]
    real = aloha_log(str(aloha(tmp_path / "real.hdf5", sim=False)))
    assert "blue first" in real.notes["top"]
    assert "blue first" not in real.notes["qpos"]


def test_aloha_jpegs_are_decoded_without_their_padding(tmp_path: Path) -> None:
    log = aloha_log(str(aloha(tmp_path / "e.hdf5", compress=True, sim=False)))
    assert log.sensors["cam_high"].shape == (16, 24, 3)
    assert log.sensors["cam_high"].modality == "video"
    np.testing.assert_allclose(log.read("cam_high", 0, 1).data.astype(int), frames(), atol=2)
    assert_gives_single_samples(log)
    assert log.skipped == {"compress_len": "bookkeeping"}


@pytest.mark.parametrize("kind", ["strings", "variable length"])
def test_aloha_jpegs_may_be_byte_strings(tmp_path: Path, kind: str) -> None:
    path, encoded = aloha(tmp_path / "e.hdf5", compress=True), jpegs(frames())
    with h5py.File(path, "a") as file:
        del file["observations/images/cam_high"]
        if kind == "strings":
            file["observations/images/cam_high"] = np.array(encoded, "S")
        else:
            rows = file.create_dataset("observations/images/cam_high", STEPS, h5py.vlen_dtype(np.uint8))
            for i, data in enumerate(encoded):
                rows[i] = np.frombuffer(data, np.uint8)
    np.testing.assert_allclose(aloha_log(str(path)).read("cam_high", 0, 1).data.astype(int), frames(), atol=2)


# Bad input


def test_native_logs_and_strangers_are_not_claimed(tmp_path: Path) -> None:
    write_log(tmp_path / "native.h5", {"arm": vector()})
    assert not recognises(tmp_path / "native.h5")
    assert not recognises(tmp_path)
    aloha(tmp_path / "zebra.hdf5")
    assert list(candidates(tmp_path)) == ["zebra"]
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    assert not recognises(tmp_path / "other.h5")
    with pytest.raises(LogError, match=r"other\.h5: found \['x'\]; expected action and observations"):
        candidates(tmp_path)["other"]()
    assert not recognises(tmp_path / "gone")


def test_a_file_cut_short_is_an_error_and_its_neighbour_is_not(tmp_path: Path) -> None:
    aloha(tmp_path / "a.hdf5")
    data = aloha(tmp_path / "b.hdf5").read_bytes()
    (tmp_path / "b.hdf5").write_bytes(data[: len(data) // 2])
    logs = candidates(tmp_path)
    assert logs["a"]().sensors
    with pytest.raises(LogError, match=r"b\.hdf5: found a damaged HDF5 file"):
        logs["b"]()


def test_arrays_of_another_length_are_skipped(tmp_path: Path) -> None:
    path = aloha(tmp_path / "e.hdf5")
    with h5py.File(path, "a") as file:
        file["observations/short"] = np.zeros((STEPS - 1, 2))
    assert "found 5 rows; expected 6" in aloha_log(str(path)).skipped["short"]
    path = robomimic(tmp_path / "r.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["num_samples"] = 99
    with pytest.raises(LogError, match="demo_0: found num_samples=99 and 6 actions; expected the same"):
        robomimic_log(str(path), "demo_0")


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/action")])
def test_links_are_refused(tmp_path: Path, link: object) -> None:
    path = aloha(tmp_path / "e.hdf5")
    with h5py.File(path, "a") as file:
        file["observations/away"] = link
    with pytest.raises(LogError, match=r"/observations: found 'away', a link to .*; expected what lies in this file"):
        aloha_log(str(path))


def test_virtual_external_and_unwritten_arrays_are_refused(tmp_path: Path) -> None:
    path = aloha(tmp_path / "e.hdf5")
    with h5py.File(path, "a") as file:
        file.create_dataset("observations/raw", (STEPS, 2), "f8", external=[("x.raw", 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout((STEPS, 2), "f8")
        layout[:] = h5py.VirtualSource("x.h5", "y", (STEPS, 2))
        file.create_virtual_dataset("observations/virtual", layout)
        file.create_dataset("observations/huge", (STEPS, 10**12), "f8", chunks=(1, 1000))
    skipped = aloha_log(str(path)).skipped
    assert "expected an array stored in this file" in skipped["raw"]
    assert "expected an array stored in this file" in skipped["virtual"]
    assert "expected an array that was written" in skipped["huge"]


def test_damaged_jpegs_are_errors_when_they_are_read(tmp_path: Path) -> None:
    path = aloha(tmp_path / "e.hdf5", compress=True)
    with h5py.File(path, "a") as file:
        file["observations/images/cam_high"][3, 30:] = 0
    log = aloha_log(str(path))
    assert len(log.read("cam_high", 0, 0.06).data) == 3
    with pytest.raises(LogError, match=r"e\.hdf5: /observations/images/cam_high, image 3: found undecodable image"):
        log.read("cam_high", 0.06, 0.08)
    POOL.close()
    with h5py.File(path, "a") as file:
        file["observations/images/cam_high"][0] = 0
    assert "JPEG or PNG bytes" in aloha_log(str(path)).skipped["cam_high"]
