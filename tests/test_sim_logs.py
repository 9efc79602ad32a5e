"""Whole tabletop logs: the same bytes again, labels that fit, clocks that fail as told, runs that stop and go on."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from multisense.logs.native import NativeLog, Recording
from multisense.sim import (
    ClockFault,
    Simulation,
    parse_fault,
    parse_faults,
    simulate_log,
    simulate_tabletop,
    simulate_world,
)
from multisense.sim.clocks import apply_fault


@cache
def log(index: int) -> Simulation:
    return simulate_log(0, index)


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_streams_have_the_shapes_rates_and_ranges_promised() -> None:
    shapes = {name: (r.modality, r.rate_hz, r.data.shape, str(r.data.dtype)) for name, r in log(0).recordings.items()}
    assert shapes == {
        "camera": ("video", 20, (80, 64, 64, 3), "uint8"),
        "mic": ("audio", 16_000, (64_000, 2), "float32"),
        "fingertip": ("touch", 250, (1000, 6, 6, 3), "float32"),
        "arm": ("proprio", 250, (1000, 9), "float32"),
        "action": ("proprio", 50, (200, 3), "float32"),
    }
    for index in range(6):
        for name, recording in log(index).recordings.items():
            assert np.isfinite(recording.data).all(), name
        assert np.abs(log(index).recordings["mic"].data).max() < 1


def test_the_same_seed_gives_the_same_log_whatever_ran_before() -> None:
    again, other = simulate_log(0, 1, seconds=1.5), simulate_log(1, 1, seconds=1.5)
    first = simulate_log(0, 1, seconds=1.5)
    for name, recording in first.recordings.items():
        assert recording.data.tobytes() == again.recordings[name].data.tobytes()
        assert recording.data.tobytes() != other.recordings[name].data.tobytes()
    for one, two in zip(first.labels, again.labels, strict=True):
        assert one.data.tobytes() == two.data.tobytes()


def test_enough_windows_hold_a_contact_and_not_all() -> None:
    held = []
    for index in range(8):
        contact = {label.name: label for label in log(index).labels}["contact"]
        held += [contact.data[start : start + 100].max() for start in range(0, 101, 25)]
    assert 0.4 <= np.mean(held) <= 0.95


def test_labels_lie_inside_the_log_and_in_order() -> None:
    for index in range(8):
        labels = {label.name: label for label in log(index).labels}
        assert sorted(labels) == [
            "contact", "contact_force", "object_mass", "object_position", "struck_colour", "struck_material",
            "tip_position",
        ]  # fmt: skip
        for label in labels.values():
            assert label.times_s is not None
            assert len(label.times_s) == len(label.data)
            assert (np.diff(label.times_s) > 0).all()
            assert len(label.data) == 0 or 0 <= label.times_s[0] <= label.times_s[-1] < 4
            assert not label.is_class or set(label.data) <= set(range(len(label.classes)))
        assert len(labels["contact_force"].data) == labels["contact"].data.sum()


def test_strikes_are_heard_and_felt_when_labelled() -> None:
    louder, felt = [], []
    for index in range(12):
        strikes = {label.name: label for label in log(index).labels}["struck_material"].times_s
        sound, skin = log(index).recordings["mic"].data, log(index).recordings["fingertip"].data
        quiet = np.sqrt(np.mean(sound[:800] ** 2))  # nothing can be struck in the first 50 ms
        for strike in strikes if strikes is not None else ():
            after = sound[int(strike * 16_000) :][:800]
            louder.append(20 * np.log10(np.sqrt(np.mean(after**2)) / quiet))
            touch = skin[..., 0].sum(axis=(1, 2))
            felt.append(touch[int(strike * 250) :][:12].max() - touch[max(int(strike * 250) - 3, 0)])
    assert len(louder) > 8
    assert np.median(louder) > 20
    assert np.median(felt) > 1


def test_tip_position_agrees_with_the_joints_it_was_read_from() -> None:
    tip = next(label for label in log(2).labels if label.name == "tip_position").data
    shoulder, elbow, lift = log(2).recordings["arm"].data[::5, :3].T
    x = -0.30 + 0.27 * (np.cos(shoulder) + np.cos(shoulder + elbow))
    y = 0.27 * (np.sin(shoulder) + np.sin(shoulder + elbow))
    assert np.abs(np.stack([x, y, lift], axis=1) - tip).max() < 0.003


@pytest.mark.parametrize(
    ("seconds", "size", "faults", "message"),
    [
        (0.5, 64, {}, "seconds: found 0.5"),
        (1.05, 64, {}, "multiple of 0.1"),
        (2.0, 65, {}, "size: found 65"),
        (2.0, 64, {"lidar": ClockFault()}, r"no sensor \['lidar'\]"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    seconds: float, size: int, faults: dict[str, ClockFault], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_log(0, 0, seconds, size, faults)


# --- clocks


def ramp(count: int = 4000, rate_hz: float = 250.0) -> Recording:
    """A sensor that measures the true time."""
    times = np.arange(count) / rate_hz
    return Recording("proprio", rate_hz, times[:, None].copy(), times_s=times)


def test_latency_and_drift_are_those_told() -> None:
    fault = ClockFault(latency_s=0.05, drift_ppm=200, jitter_s=0.0003)
    faulty = apply_fault(ramp(), fault, np.random.default_rng(0))
    assert faulty.times_s is not None
    assert (np.diff(faulty.times_s) > 0).all()
    late = faulty.times_s - faulty.data[:, 0]
    slope, offset = np.polyfit(faulty.data[:, 0], late, 1)
    assert slope == pytest.approx(200e-6, abs=5e-6)
    assert offset == pytest.approx(0.05, abs=1e-4)
    assert np.std(late - offset - slope * faulty.data[:, 0]) == pytest.approx(0.0003, rel=0.1)


def test_wild_jitter_does_not_turn_time_back() -> None:
    faulty = apply_fault(ramp(), ClockFault(jitter_s=1.0), np.random.default_rng(0))
    assert faulty.times_s is not None
    assert (np.diff(faulty.times_s) > 0).all()


def test_dropout_loses_its_share_in_bursts_and_moves_nothing() -> None:
    faulty = apply_fault(ramp(), ClockFault(dropout=0.1), np.random.default_rng(0))
    assert faulty.times_s is not None
    assert len(faulty.data) == pytest.approx(3600, abs=2)
    assert faulty.times_s == pytest.approx(faulty.data[:, 0])
    gaps = np.diff(faulty.times_s)
    assert (gaps > 0.05).sum() >= 8


def test_audio_anchors_carry_loss_latency_and_drift() -> None:
    true = np.arange(32_000) / 16_000
    ends = np.array([[0, 0], [31_999, true[-1]]])
    clean = Recording("audio", 16_000, true.copy(), anchors=ends)
    faulty = apply_fault(clean, ClockFault(latency_s=-0.02, drift_ppm=50, dropout=0.2), np.random.default_rng(1))
    assert faulty.anchors is not None
    assert len(faulty.data) == pytest.approx(25_600, abs=2)
    read = np.interp(np.arange(len(faulty.data)), faulty.anchors[:, 0], faulty.anchors[:, 1])
    assert read == pytest.approx(faulty.data * (1 + 50e-6) - 0.02, abs=1e-7)


def test_faults_are_parsed_and_named_when_wrong() -> None:
    assert parse_fault("camera:latency_s=0.05,drift_ppm=100") == ("camera", ClockFault(0.05, 100))
    for text, message in (
        ("camera", "SENSOR:KEY=NUMBER"),
        ("camera:delay=1", "found 'delay'"),
        ("camera:latency_s=soon", "latency_s is 'soon'; expected a number"),
        ("camera:dropout=1", "0 <= dropout < 1"),
        (":latency_s=1", "SENSOR:KEY=NUMBER"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_fault(text)


def test_a_sensor_has_its_faults_named_once() -> None:
    assert parse_faults(["mic:latency_s=1", "arm:dropout=0.1"]) == {
        "mic": ClockFault(latency_s=1),
        "arm": ClockFault(dropout=0.1),
    }
    with pytest.raises(ValueError, match="'mic' is named twice"):
        parse_faults(["mic:latency_s=1", "mic:drift_ppm=1"])


def test_a_faulty_log_reads_with_its_faults_on_record(tmp_path: Path) -> None:
    faults = {name: ClockFault(0.03, 100, 0.001, 0.05) for name in ("camera", "mic", "arm")}
    (path,) = simulate_tabletop(tmp_path, 1, seconds=1.0, workers=1, faults=faults)
    read = NativeLog(path)
    assert json.loads(read.attributes["clock_faults"])["camera"]["latency_s"] == 0.03
    for name, sensor in read.sensors.items():
        assert sensor.start_s == pytest.approx(0.03 if name in faults else 0.0, abs=0.005)
        stream = read.read(name, 0, 2)
        assert len(stream.times_s) == sensor.count
        assert (np.diff(stream.times_s) > 0).all()
    assert read.sensors["arm"].count < 250 == read.sensors["fingertip"].count


# --- folders


def test_a_folder_grows_and_keeps_what_it_has(tmp_path: Path) -> None:
    paths = simulate_tabletop(tmp_path, 2, seconds=1.0, size=16, workers=1)
    before, stamp = digest(tmp_path), paths[0].stat().st_mtime_ns
    paths[1].unlink()
    assert simulate_tabletop(tmp_path, 3, seconds=1.0, size=16, workers=1)[:2] == paths
    after = digest(tmp_path)
    assert {name: after[name] for name in before} == before
    assert paths[0].stat().st_mtime_ns == stamp
    assert (tmp_path / "tabletop-000002.camera.mp4").exists()


def test_a_folder_of_other_parameters_is_refused(tmp_path: Path) -> None:
    simulate_tabletop(tmp_path, 1, seconds=1.0, size=16, workers=1)
    with pytest.raises(ValueError, match=r"seed = 0 \(asked: 1\); choose another folder"):
        simulate_tabletop(tmp_path, 1, seconds=1.0, seed=1, size=16, workers=1)
    (tmp_path / "tabletop.json").unlink()
    with pytest.raises(ValueError, match=r"no tabletop\.json"):
        simulate_tabletop(tmp_path, 1, seconds=1.0, size=16, workers=1)


def test_a_world_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no world 'kitchen'"):
        simulate_world("kitchen", tmp_path, 1)


SCRIPT = """
import sys
from multisense.sim import simulate_tabletop
if __name__ == "__main__":
    simulate_tabletop(sys.argv[1], 12, seconds=2.0, size=32, workers=2)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_whole_logs_and_goes_on(tmp_path: Path) -> None:
    script, folder, straight = tmp_path / "run.py", tmp_path / "killed", tmp_path / "straight"
    script.write_text(SCRIPT)
    run = subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.h5")) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(1.0)  # its workers end themselves
    there = sorted(folder.glob("*.h5"))
    assert 0 < len(there) < 12
    for path in there:
        read = NativeLog(path)
        assert all(len(read.read(name, 0, 3).data) == info.count for name, info in read.sensors.items())
    assert sorted(folder.glob("*.h5")) == there
    simulate_tabletop(folder, 12, seconds=2.0, size=32, workers=1)
    simulate_tabletop(straight, 12, seconds=2.0, size=32, workers=1)
    names = digest(straight)
    assert {name: sha for name, sha in digest(folder).items() if name in names} == names
