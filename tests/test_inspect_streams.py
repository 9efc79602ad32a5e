"""Faults planted into clean simulated logs are found, each by its kind and sensor; the clean logs give none."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ArrayLog

from multisense.inspect.findings import Finding, findings_table, has_errors, worst_first
from multisense.inspect.streams import check, check_logs
from multisense.logs import Recording, write_log
from multisense.logs.base import Reason
from multisense.logs.foreign import ForeignLog, stamped

LOGS, SECONDS = 3, 3.0
Recordings = dict[str, Recording]
PLANTED = "log-1"


@dataclass(frozen=True)
class Clean:
    folder: Path
    recordings: list[Recordings] = field(repr=False)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """Three simulated logs as they come from the simulator, in memory and on disk."""
    pytest.importorskip("mujoco", reason="the tabletop world needs multisense[sim]")
    from multisense.sim.simulate import simulate_log

    folder = tmp_path_factory.mktemp("clean")
    made = [simulate_log(3, index, SECONDS, 32).recordings for index in range(LOGS)]
    for index, recordings in enumerate(made):
        write_log(folder / f"log-{index}.h5", recordings)
    return Clean(folder, made)


def test_no_finding_on_clean_logs(clean: Clean):
    assert check(clean.folder) == []


# Faults of what was recorded: Recording -> Recording.
def with_data(change: Callable[[np.ndarray], None]) -> Callable[[Recording], Recording]:
    def fault(recording: Recording) -> Recording:
        data = recording.data.copy()
        change(data)
        return replace(recording, data=data)

    return fault


def cut(first: int | None, last: int | None) -> Callable[[Recording], Recording]:
    return lambda r: replace(r, data=r.data[first:last], times_s=times(r)[first:last])


def times(recording: Recording) -> np.ndarray:
    assert recording.times_s is not None
    return recording.times_s


def without(first: int, last: int) -> Callable[[Recording], Recording]:
    gone = slice(first, last)
    return lambda r: replace(r, data=np.delete(r.data, gone, 0), times_s=np.delete(times(r), gone))


def jittered(r: Recording) -> Recording:
    return replace(r, times_s=times(r) + np.random.default_rng(0).uniform(-0.45, 0.45, len(r.data)) / r.rate_hz)


def sound_gap(r: Recording) -> Recording:
    kept, lost = 16000, 4000
    anchors = np.array([[0, 0], [kept - 1, (kept - 1) / 16e3], [kept, (kept + lost) / 16e3]])
    return replace(r, data=np.delete(r.data, slice(kept, kept + lost), 0), anchors=anchors)


def slow_sound(r: Recording) -> Recording:
    end = len(r.data) - 1
    return replace(r, anchors=np.array([[0, 0], [end, end / 15000]]))


def clip_sound(data: np.ndarray) -> None:
    limit = np.quantile(np.abs(data), 0.97)
    np.clip(data, -limit, limit, out=data)


def clip_torque(data: np.ndarray) -> None:
    data[:, 8] = np.minimum(data[:, 8], np.quantile(data[:, 8], 0.7))


def saturate(data: np.ndarray) -> None:
    """A taxel pressed for a second, its noise cut at the end of its range."""
    rng = np.random.default_rng(0)
    data[100:350, 2, 3, 2] = np.minimum(3 + rng.normal(0, 0.2, 250).round(2), 3)


def assign(place: object, value: object) -> Callable[[Recording], Recording]:
    return with_data(lambda data: data.__setitem__(place, value))


def hold(first: int, last: int | None) -> Callable[[Recording], Recording]:
    return with_data(lambda data: data.__setitem__(slice(first, last), data[first]))


def twins(data: np.ndarray) -> None:
    data[:, 1] = data[:, 0]


every = slice(None)
RECORDED: dict[str, tuple[str, str, Callable[[Recording], Recording]]] = {
    "nominal rate wrong": ("arm", "rate", lambda r: replace(r, rate_hz=200.0)),
    "nominal rate of pictures slightly wrong": ("camera", "rate", lambda r: replace(r, rate_hz=20.5)),
    "sound slower than its rate": ("mic", "rate", slow_sound),
    "jitter": ("arm", "jitter", jittered),
    "gap": ("arm", "gap", without(200, 260)),
    "one lost frame": ("camera", "gap", without(20, 21)),
    "gap in the sound": ("mic", "gap", sound_gap),
    "late start": ("camera", "late", cut(20, None)),
    "missing tail": ("fingertip", "tail", cut(None, 500)),
    "no common time": ("arm", "apart", lambda r: replace(r, times_s=times(r) + 1e3)),
    "one sample only": ("action", "few", cut(0, 1)),
    "NaN": ("arm", "nan", assign((300, 4), np.nan)),
    "infinite": ("fingertip", "nan", assign((300, 2, 3, 1), np.inf)),
    "NaN in the sound": ("mic", "nan", assign((slice(100, 200), 0), np.nan)),
    "channel constant in one log": ("arm", "stuck", assign((every, 6), 0.5)),
    "taxel constant in one log": ("fingertip", "stuck", assign((every, 1, 1), 0)),
    "signal frozen for a while": ("arm", "frozen", hold(200, 500)),
    "signal clipped": ("arm", "clipping", with_data(clip_torque)),
    "taxel saturated": ("fingertip", "saturated", with_data(saturate)),
    "sound clipped": ("mic", "clipped", with_data(clip_sound)),
    "silent sound": ("mic", "silent", assign(every, 0)),
    "one silent channel": ("mic", "silent", assign((every, 1), 0)),
    "sound drops out": ("mic", "dropout", assign(slice(8000, 16000), 0)),
    "one microphone stored twice": ("mic", "twins", with_data(twins)),
    "black video": ("camera", "black", assign(every, 0)),
    "black for a while": ("camera", "black", assign(slice(20, 40), 2)),
    "blinded video": ("camera", "white", assign(every, 255)),
    "frozen video": ("camera", "frozen", hold(0, None)),
    "frozen for a while": ("camera", "frozen", hold(10, 45)),
    "another shape than in the other logs": ("arm", "form", lambda r: replace(r, data=r.data[:, :8], channels=())),
    "another unit than in the other logs": ("arm", "form", lambda r: replace(r, units="deg")),
}


@pytest.mark.parametrize("fault", RECORDED)
def test_a_fault_of_one_log_is_found(clean: Clean, tmp_path: Path, fault: str):
    sensor, kind, plant = RECORDED[fault]
    folder = beside_clean(clean, tmp_path)
    broken = {**clean.recordings[1], sensor: plant(clean.recordings[1][sensor])}
    write_log(folder / f"{PLANTED}.h5", broken)
    assert_found(check(folder), kind, sensor)


# Faults of the files, which the writer would refuse to write: what is on disk is changed.
def stamp(at: int, value: Callable[[np.ndarray], float]) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        with h5py.File(folder / f"{PLANTED}.h5", "r+") as file:
            stamps = file["streams/arm/times"]
            stamps[at] = value(stamps[:])

    return fault


def another_clock(folder: Path) -> None:
    with h5py.File(folder / f"{PLANTED}.h5", "r+") as file:
        file["streams/arm/times"][...] += 1.7e9


def longer_video(folder: Path) -> None:
    """The last times of the camera are lost, its frames are not."""
    with h5py.File(folder / f"{PLANTED}.h5", "r+") as file:
        group = file["streams/camera"]
        kept = group["times"][:-4]
        del group["times"]
        group["times"] = kept


def shorter_video(folder: Path) -> None:
    with h5py.File(folder / f"{PLANTED}.h5", "r+") as file:
        group = file["streams/camera"]
        more = np.append(group["times"][:], group["times"][-1] + np.arange(1, 5) / 20)
        del group["times"]
        group["times"] = more


def truncated(folder: Path) -> None:
    path = folder / f"{PLANTED}.h5"
    path.write_bytes(path.read_bytes()[:5000])


def damaged_video(folder: Path) -> None:
    path = folder / f"{PLANTED}.camera.mp4"
    path.write_bytes(path.read_bytes()[:600])


def lost_sensor(folder: Path) -> None:
    with h5py.File(folder / f"{PLANTED}.h5", "r+") as file:
        del file["streams/fingertip"]


FILES: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "duplicate stamp": ("arm", "duplicate", stamp(70, lambda t: t[69])),
    "backward step": ("arm", "backward", stamp(70, lambda t: t[60])),
    "a stamp that is no number": ("arm", "stamps", stamp(70, lambda t: np.nan)),
    "stamps of another clock": ("arm", "apart", another_clock),
    "more frames than stamps": ("camera", "frames", longer_video),
    "fewer frames than stamps": ("camera", "frames", shorter_video),
    "log cut short": ("", "unreadable", truncated),
    "video cut short": ("camera", "unreadable", damaged_video),
    "video lost": ("camera", "unreadable", lambda folder: (folder / f"{PLANTED}.camera.mp4").unlink()),
    "sensor lost": ("fingertip", "missing", lost_sensor),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_fault_of_the_files_is_found(clean: Clean, tmp_path: Path, fault: str):
    sensor, kind, plant = FILES[fault]
    folder = beside_clean(clean, tmp_path)
    write_log(folder / f"{PLANTED}.h5", clean.recordings[1])
    plant(folder)
    assert_found(check(folder), kind, sensor)


EVERYWHERE: dict[str, tuple[str, str, Callable[[Recording], Recording]]] = {
    "dead joint": ("arm", "dead", assign((every, 4), 0.25)),
    "dead taxel": ("fingertip", "dead", assign((every, 5, 0), 0)),
    "dead microphone": ("mic", "silent", assign((every, 0), 0)),
}


@pytest.mark.parametrize("fault", EVERYWHERE)
def test_a_channel_dead_in_all_logs_is_one_finding(clean: Clean, tmp_path: Path, fault: str):
    sensor, kind, plant = EVERYWHERE[fault]
    for index, recordings in enumerate(clean.recordings):
        write_log(tmp_path / f"log-{index}.h5", {**recordings, sensor: plant(recordings[sensor])})
    found = check(tmp_path)
    assert [(f.log, f.sensor, f.kind) for f in found] == [("", sensor, kind)]


def beside_clean(clean: Clean, folder: Path) -> Path:
    for file in clean.folder.iterdir():
        if not file.name.startswith(PLANTED):
            shutil.copy(file, folder)
    return folder


def assert_found(found: list[Finding], kind: str, sensor: str) -> None:
    told = [(f.log, f.sensor, f.kind) for f in found]
    assert (PLANTED, sensor, kind) in told
    assert {log for log, _, _ in told} == {PLANTED}  # the other logs are as clean as before


def test_a_resting_joint_and_an_untouched_taxel_are_healthy():
    t = np.arange(400) / 100
    rng = np.random.default_rng(0)
    logs = []
    for k in range(3):
        touch = np.zeros((400, 2), np.float32)
        touch[100:200, k % 2] = 1 + rng.normal(0, 0.1, 100)  # without contact exactly 0; one of two is touched
        gripper = np.clip(np.sin(t * (k + 1)) * 2, -1, 1)[:, None]  # smooth, and at its stops for a long time
        logs.append(ArrayLog(f"log-{k}", {"pad": ("touch", 100.0, t, touch), "hand": ("proprio", 100.0, t, gripper)}))
    assert check_logs(logs) == []


def test_a_noisy_command_that_rests_at_its_limit_is_no_clipping():
    t, rng = np.arange(400) / 100, np.random.default_rng(0)
    hand = 0.7 + rng.normal(0, 0.05, 400)
    hand[50:150] = hand[300:] = 1
    log = ArrayLog("log", {"hand": ("proprio", 100.0, t, np.stack([hand, rng.normal(size=400)], 1))})
    assert check_logs([log]) == []


def test_values_beyond_reason_raise_no_warning():
    t = np.arange(100) / 100
    values = np.stack([np.full(100, np.nan), np.tile([1.7e308, -1.7e308], 50)], 1)
    found = check_logs([ArrayLog("log", {"imu": ("proprio", 100.0, t, values)})])
    assert [f.kind for f in found] == ["nan"]


def test_where_and_when_are_told(clean: Clean, tmp_path: Path):
    folder = beside_clean(clean, tmp_path)
    write_log(folder / f"{PLANTED}.h5", {**clean.recordings[1], "camera": hold(10, 45)(clean.recordings[1]["camera"])})
    (found,) = check(folder)
    assert found.start_s == pytest.approx(0.5, abs=0.11)
    assert found.stop_s == pytest.approx(2.2, abs=0.11)


def test_what_a_foreign_reader_left_out_is_told():
    data = ArrayLog(
        "m", {"imu": ("proprio", 100.0, np.arange(50) / 100, np.random.default_rng(0).normal(size=(50, 2)))}
    )

    class Memory:
        def read(self, first: int, last: int) -> np.ndarray:
            return data.streams["imu"][3][first:last]

    imu = stamped("imu", np.arange(50) / 100, Memory(), (2,), "float64", "x")
    skipped = {
        "gps": Reason("x: found times not increasing: 3 at 4, then 2; expected strictly increasing.", "backward"),
        "chatter": "std_msgs/String: a type that is not read",
        "n": "bookkeeping",
    }
    found = check_logs([ForeignLog("x", "x", [imu], skipped=skipped)])
    assert [(f.level, f.sensor, f.kind) for f in found] == [
        ("error", "gps", "backward"),
        ("info", "chatter", "skipped"),
    ]


def test_a_topic_of_a_bag_whose_times_run_backward_is_an_error(tmp_path: Path):
    """Where its own stamps alone do, the bag's time takes their place."""
    pytest.importorskip("rosbags", reason="bags need multisense[ros]")
    from test_logs_ros import START, Maker, arrays, opened, poses

    make, times = Maker(False), [START, START + 10, START + 20]
    bad = poses(make, [START, START + 10, START + 5], [START, START + 7, START + 7])
    log = opened(tmp_path, sorted([*arrays(make, times, [2] * 3), *bad], key=lambda item: item[1]), make)
    assert ("error", "/pose", "backward") in [(f.level, f.sensor, f.kind) for f in check_logs([log])]


def test_the_worst_comes_first():
    info, error = (Finding(level, "a", "s", "gap", "x") for level in ("info", "error"))
    assert worst_first([info, error]) == [error, info]
    assert has_errors([info, error])
    assert not has_errors([info])
    assert findings_table([info, error]).row_count == 2


def test_real_robot_data_gives_no_false_alarm(realdata: Path):
    pytest.importorskip("pyarrow", reason="LeRobot data are parquet: install multisense[lerobot]")
    from multisense.logs import open_logs

    found = check_logs(open_logs(realdata / "g1_lerobot_v21")[:2])
    assert not has_errors(found)
