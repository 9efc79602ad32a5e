"""Any HDF5 file through a mapping: clocks of several units, groups as logs, and mappings that cannot be."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import vector

from multisense.logs import LogError, write_log
from multisense.logs.formats.mapping import candidates, mapped_log, read_mapping, recognises

START_NS = 1_700_000_000_123_456_789

MAPPING = """
log: "session_*.h5"
sensors:
  cam: {path: camera/color, times: camera/stamps, time_unit: ns, modality: video}
  arm: {path: robot/q, times: robot/t, units: rad, channels: [shoulder, elbow]}
  mic: {path: /sound, rate_hz: 16000, modality: audio}
"""


def session(path: Path) -> Path:
    """A camera stamped in unix nanoseconds, an arm in unix seconds from .5 s later on, and sound without stamps."""
    with h5py.File(path, "w") as file:
        file["camera/color"] = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
        file["camera/stamps"] = START_NS + np.arange(4) * 33_333_333
        file["robot/q"] = np.arange(10.0).reshape(5, 2)
        file["robot/t"] = START_NS / 1e9 + 0.5 + np.arange(5) / 100
        file["sound"] = np.arange(16000, dtype=np.int16)
    return path


def mapping(folder: Path, text: str = MAPPING, name: str = "multisense.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_sensors_keep_their_own_clocks_on_one_origin(tmp_path: Path) -> None:
    session(tmp_path / "session_1.h5")
    session(tmp_path / "session_0.h5")
    assert not recognises(tmp_path)
    path = mapping(tmp_path)
    assert recognises(tmp_path)
    assert recognises(path)
    assert list(candidates(path)) == ["session_0", "session_1"]
    log = candidates(tmp_path)["session_0"]()
    camera = log.read("cam", 0, 9)
    np.testing.assert_allclose(camera.times_s, np.arange(4) * 0.033333333, atol=1e-12)
    assert camera.data[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    arm = log.read("arm", 0, 9)
    np.testing.assert_allclose(arm.times_s, 0.5 + np.arange(5) / 100, atol=1e-6)
    np.testing.assert_array_equal(arm.data, np.arange(10.0).reshape(5, 2))
    assert (log.sensors["arm"].units, log.sensors["arm"].channels) == ("rad", ("shoulder", "elbow"))
    assert log.sensors["arm"].modality == "proprio"
    sound = log.read("mic", 0.5, 0.501)
    assert (sound.data[:, 0].tolist(), sound.times_s[0]) == (list(range(8000, 8016)), 0.5)
    assert "index / 16000 Hz" in mapped_log("x", str(tmp_path / "session_0.h5"), "", read_mapping(path)).notes["mic"]


def test_groups_may_be_logs(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for i in range(3):
            file[f"runs/run_{i}/q"] = np.full((5, 2), i)
            file[f"runs/run_{i}/t"] = np.arange(5) * 10 + i
        file["runs/notes/q"] = np.zeros((5, 2))
    text = 'log: "all.h5:/runs/run_*"\nsensors:\n  arm: {path: q, times: t, time_unit: ms, rate_hz: 100}\n'
    logs = candidates(mapping(tmp_path, text, "any.yaml"))
    assert list(logs) == ["all-runs-run_0", "all-runs-run_1", "all-runs-run_2"]
    part = logs["all-runs-run_2"]().read("arm", 0, 1)
    np.testing.assert_allclose(part.times_s, [0.002, 0.012, 0.022, 0.032, 0.042], atol=1e-15)
    assert (part.data == 2).all()
    assert part.rate_hz == 100


def test_what_a_log_lacks_is_skipped_with_the_reason(tmp_path: Path) -> None:
    path = session(tmp_path / "session_0.h5")
    with h5py.File(path, "a") as file:
        del file["camera"]
        file["robot/t"][3] = 0.0
    log = mapped_log("x", str(path), "", read_mapping(mapping(tmp_path)))
    assert set(log.sensors) == {"mic"}
    assert "/camera/stamps: found nothing" in log.skipped["cam"]
    assert "not increasing" in log.skipped["arm"]


def test_native_logs_are_left_out_and_damage_is_reported(tmp_path: Path) -> None:
    mapping(tmp_path)
    write_log(tmp_path / "session_9.h5", {"arm": vector()})
    data = session(tmp_path / "session_0.h5").read_bytes()
    (tmp_path / "session_1.h5").write_bytes(data[:3000])
    logs = candidates(tmp_path)
    assert list(logs) == ["session_0", "session_1"]
    with pytest.raises(LogError, match=r"session_1\.h5: found a damaged HDF5 file"):
        logs["session_1"]()


ARM = "arm: {path: robot/q, times: robot/t}"
BAD_MAPPINGS = {
    "unknown key": (
        "log: '*.h5'\nsensors: {arm: {path: q, rate: 5}}",
        r"sensors\.arm\.rate: unknown key; did you mean",
    ),
    "no clock": ("log: '*.h5'\nsensors: {arm: {path: q}}", r"sensors\.arm: found neither times nor rate_hz"),
    "no log": (f"sensors: {{{ARM}}}", r"log: missing"),
    "modality": ("log: '*.h5'\nsensors: {arm: {path: q, rate_hz: 1, modality: smell}}", r"sensors\.arm\.modality"),
    "outside": (f"log: ../*.h5\nsensors: {{{ARM}}}", r"found '\.\./\*\.h5'; expected files below"),
    "absolute": (f"log: /etc/*\nsensors: {{{ARM}}}", r"expected files below"),
    "nothing": (f"log: none_*.h5\nsensors: {{{ARM}}}", r"nothing that matches 'none_\*\.h5'"),
    "alias": ("log: &a '*.h5'\nsensors: {arm: {path: *a, rate_hz: 1}}", r"an alias"),
    "deep": ("log: x\nsensors: " + "[" * 20000, r"an alias \(\*name\) or deep nesting"),
    "no YAML": ("log: [", r"no readable YAML"),
    "wide": ("log: '**/**/*.h5'\nsensors: {arm: {path: q, rate_hz: 1}}", r"expected one \*\* and 4 levels"),
    "deep groups": (
        "log: '*.h5:/*/*/*/*/*/*'\nsensors: {arm: {path: q, rate_hz: 1}}",
        r"expected one \*\* and 4 levels",
    ),
    "no date": ("log: 2001-99-99", r"no readable YAML"),
    "slow": ("log: '*.h5'\nsensors: {arm: {path: q, rate_hz: 1e-300}}", r"sensors\.arm\.rate_hz: found"),
    "list": ("- log", r"found list"),
    "name": ("log: '*.h5'\nsensors: {../arm: {path: q, rate_hz: 1}}", r"sensors\."),
    "rate": ("log: '*.h5'\nsensors: {arm: {path: q, rate_hz: -1}}", r"sensors\.arm\.rate_hz"),
}


@pytest.mark.parametrize(("text", "message"), BAD_MAPPINGS.values(), ids=BAD_MAPPINGS)
def test_a_bad_mapping_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    session(tmp_path / "session_0.h5")
    with pytest.raises(LogError, match=message):
        candidates(mapping(tmp_path, text))


BAD_SENSORS = {
    "modality": ("{path: robot/q, rate_hz: 5, modality: video}", "uint8 frames"),
    "channels": ("{path: robot/q, rate_hz: 5, channels: [a]}", "1 channel names for a last axis of 2"),
    "lengths": ("{path: robot/q, times: camera/stamps, time_unit: ns}", "found 4 stamps in camera/stamps"),
    "unit": ("{path: camera/color, times: camera/stamps}", "Check the unit"),
    "group": ("{path: robot, rate_hz: 5}", "expected an array stored in this file"),
    "link": ("{path: away/q, rate_hz: 5}", "a link to other.h5:/x"),
    "stamps": ("{path: robot/q, times: robot/q}", "expected one number per sample"),
}


@pytest.mark.parametrize(("sensor", "message"), BAD_SENSORS.values(), ids=BAD_SENSORS)
def test_a_log_without_a_usable_sensor_is_refused(tmp_path: Path, sensor: str, message: str) -> None:
    with h5py.File(session(tmp_path / "session_0.h5"), "a") as file:
        file["away"] = h5py.ExternalLink("other.h5", "/x")
    logs = candidates(mapping(tmp_path, f"log: session_*.h5\nsensors:\n  it: {sensor}\n"))
    with pytest.raises(LogError, match=message):
        logs["session_0"]()


def test_a_training_configuration_is_no_mapping(tmp_path: Path) -> None:
    assert not recognises(mapping(tmp_path, "data: {train: logs}\nsensors: {arm: {kind: proprio}}"))
    assert not recognises(mapping(tmp_path, "sensors: {arm: text}"))
    assert not recognises(mapping(tmp_path, "sensors: {arm: 5}"))


def test_files_linked_from_elsewhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    session(tmp_path / "away.h5")
    (tmp_path / "logs" / "session_0.h5").symlink_to(tmp_path / "away.h5")
    with pytest.raises(LogError, match="a link out of this folder"):
        candidates(mapping(tmp_path / "logs"))


def test_groups_that_hold_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multisense.logs.formats.mapping.MOST_GROUPS", 100)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["q"] = np.arange(10.0)
        for i in range(10):
            file[f"g{i}"] = file["/"]
    path = mapping(tmp_path, "log: 'a.h5:/*/*/*'\nsensors: {arm: {path: q, rate_hz: 1}}")
    with pytest.raises(LogError, match="log: found more than 100 groups"):
        candidates(path)
