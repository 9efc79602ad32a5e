"""Clocks compared by content: planted offsets are found, mismatched streams are not, and corrections undo what was planted."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ArrayLog

from multisense.inspect.activity import Stretch, activity
from multisense.inspect.align import Alignment, Offset, find_offsets, is_command
from multisense.inspect.clocks import clock_findings
from multisense.inspect.correct import apply_offsets
from multisense.inspect.tally import blocks
from multisense.logs import LogError, LogWriter, Recording, open_logs, write_log

LOGS, SECONDS = 24, 6.0


MODALITIES = {"arm": "proprio", "skin": "touch", "ear": "audio", "eye": "video"}


def stamped(log: ArrayLog, sensor: str, late_s: float, drift_ppm: float = 0.0) -> ArrayLog:
    """The log with one sensor stamped by a clock that is late and gains."""
    modality, rate_hz, times, data = log.streams[sensor]
    moved = modality, rate_hz, times * (1 + 1e-6 * drift_ppm) + late_s, data
    return ArrayLog(log.name, {**log.streams, sensor: moved})


def body(number: int, seconds: float = SECONDS) -> ArrayLog:
    """Blows at random times: the arm is shaken, the skin pressed, the ear hears a click, the eye sees things move."""
    rng = np.random.default_rng(number)
    blows = np.sort(rng.uniform(0.2, seconds - 0.5, int(2 * seconds)))

    def ring(times: np.ndarray, decay_s: float) -> np.ndarray:
        out = np.zeros(len(times))
        for blow in blows:
            here = slice(*np.searchsorted(times, [blow, blow + 8 * decay_s]))
            out[here] += np.exp((blow - times[here]) / decay_s)
        return out

    arm, skin, ear, eye = (np.arange(round(seconds * rate)) / rate for rate in (200, 250, 8000, 20))
    shaken = np.cumsum(ring(arm, 0.05)[:, None] * rng.normal(size=(len(arm), 3)), axis=0)
    pressed = ring(skin, 0.1)[:, None, None, None] * rng.uniform(0.2, 1, (4, 4, 1)) + rng.normal(
        0, 0.01, (len(skin), 4, 4, 1)
    )
    heard = ring(ear, 0.02) * rng.normal(size=len(ear)) + rng.normal(0, 0.01, len(ear))
    moved = np.cumsum(ring(eye, 0.05) * 40).astype(int)
    seen = rng.integers(0, 255, (1, 32, 64, 1)).repeat(3, axis=3)
    seen = np.concatenate([np.roll(seen, shift, axis=2) for shift in moved]).astype(np.uint8)
    data = {
        "arm": (200.0, arm, shaken),
        "skin": (250.0, skin, pressed),
        "ear": (8000.0, ear, heard),
        "eye": (20.0, eye, seen),
    }
    return ArrayLog(f"body-{number}", {n: (MODALITIES[n], rate_hz, t, x) for n, (rate_hz, t, x) in data.items()})


@pytest.fixture(scope="module")
def bodies() -> list[ArrayLog]:
    return [body(number) for number in range(LOGS)]


@pytest.mark.parametrize(
    ("sensor", "late_s"), [("ear", 0.0), ("ear", 0.25), ("skin", -0.1), ("skin", 0.02), ("ear", -0.05)]
)
def test_a_planted_offset_is_found_within_ten_milliseconds(bodies: list[ArrayLog], sensor: str, late_s: float) -> None:
    found = find_offsets([stamped(log, sensor, late_s) for log in bodies])
    assert found.reference == "arm"
    for name in ("skin", "ear"):
        assert found.offsets[name].late_s == pytest.approx(late_s if name == sensor else 0.0, abs=0.01)
        assert found.offsets[name].confidence > 0.3


def test_a_slow_camera_is_late_or_undetermined_but_never_wrong(bodies: list[ArrayLog]) -> None:
    found = find_offsets([stamped(log, "eye", 0.1) for log in bodies]).offsets["eye"]
    assert not found.is_determined or found.late_s == pytest.approx(0.1, abs=0.025)


def test_streams_of_other_logs_are_undetermined(bodies: list[ArrayLog]) -> None:
    """At most one answer in twenty may be wrong."""
    rng, answers = np.random.default_rng(0), []
    for _ in range(12):
        dealt = {name: rng.permutation(LOGS) for name in MODALITIES}
        mixed = [ArrayLog(str(i), {n: bodies[dealt[n][i]].streams[n] for n in MODALITIES}) for i in range(LOGS)]
        answers += list(find_offsets(mixed).offsets.values())
    wrong = [a for a in answers if a.is_determined]
    assert len(wrong) <= len(answers) / 20, wrong
    assert all(a.reason for a in answers if not a.is_determined)


def since(log: ArrayLog, start_s: float) -> ArrayLog:
    """The log on a clock that did not begin with it."""
    return ArrayLog(log.name, {n: (m, r, times + start_s, data) for n, (m, r, times, data) in log.streams.items()})


@pytest.fixture(scope="module")
def drifting() -> list[ArrayLog]:
    """Long logs whose skin is late by 30 ms at first and gains 100 ppm."""
    long = [stamped(body(100 + i, 300.0), "skin", 0.03, 100.0) for i in range(4)]
    return [ArrayLog(log.name, {n: log.streams[n] for n in ("arm", "skin")}) for log in long]


@pytest.mark.parametrize("starts_s", [(0, 0, 0, 0), (5000,) * 4, (100, 1100, 6000, 9000), (1.7e9,) * 4])
def test_drift_is_found_in_long_logs_whenever_they_began(drifting: list[ArrayLog], starts_s: tuple[float]) -> None:
    found = find_offsets([since(log, start_s) for log, start_s in zip(drifting, starts_s, strict=True)])
    skin = found.offsets["skin"]
    assert skin.drift_ppm == pytest.approx(100.0, abs=20)
    assert skin.drift_error_ppm < 20
    assert skin.late_s == pytest.approx(0.03 + 100e-6 * found.middle_s, abs=0.005)


def test_drift_is_not_claimed_where_logs_are_short(bodies: list[ArrayLog]) -> None:
    assert np.isnan(find_offsets(bodies).offsets["skin"].drift_ppm)


def test_a_topic_of_few_messages_does_not_end_the_comparison_of_the_others(bodies: list[ArrayLog]) -> None:
    status = "", 1.0, np.array([0.1, 0.5, 0.9]), np.zeros((3, 1))
    logs = [ArrayLog(log.name, {**stamped(log, "ear", 0.08).streams, "status": status}) for log in bodies]
    found = find_offsets(logs, sensors=["arm", "ear", "status"])
    assert found.offsets["ear"].late_s == pytest.approx(0.08, abs=0.01)
    assert not found.offsets["status"].is_determined
    assert "lasts less" in found.offsets["status"].reason


def test_a_log_of_another_shape_is_named(bodies: list[ArrayLog]) -> None:
    modality, rate_hz, times, data = bodies[3].streams["arm"]
    odd = ArrayLog("odd", {**bodies[3].streams, "arm": (modality, rate_hz, times, data[:, :2])})
    with pytest.raises(LogError, match=r"memory:odd: arm: found samples of shape \(2,\); expected \(3,\)"):
        find_offsets([*bodies[:3], odd])


def test_pictures_are_read_in_small_pieces_with_the_same_result(bodies: list[ArrayLog], monkeypatch) -> None:
    log, stretch = bodies[0], Stretch(0, 0.5, 4.0)
    whole = activity(log, "eye", stretch)
    held, read = [], ArrayLog.read
    monkeypatch.setattr(blocks, "__defaults__", (3 * 32 * 64 * 3, -math.inf, math.inf))
    monkeypatch.setattr(ArrayLog, "read", lambda *a: (held.append(len((s := read(*a)).data)), s)[1])
    pieces = activity(log, "eye", stretch)
    assert max(held) <= 4
    for probe, values in whole.items():
        np.testing.assert_array_equal(pieces[probe], values)


def test_numbers_that_are_none_and_lags_beyond_the_search_are_no_answer(bodies: list[ArrayLog]) -> None:
    broken = [stamped(log, "skin", 0.05) for log in bodies]
    for log in broken[::2]:
        modality, rate_hz, times, data = log.streams["arm"]
        holes = data.copy()
        holes[300:500], holes[:, 2] = np.nan, np.nan
        log.streams = {**log.streams, "arm": (modality, rate_hz, times, holes)}
    assert find_offsets(broken).offsets["skin"].late_s == pytest.approx(0.05, abs=0.01)
    silent = [
        ArrayLog(log.name, {**log.streams, "arm": (*log.streams["arm"][:3], 0 * log.streams["arm"][3])})
        for log in bodies
    ]
    assert not any(o.is_determined for o in find_offsets(silent).offsets.values())
    far = find_offsets([stamped(log, "ear", 0.9) for log in bodies], sensors=["arm", "ear"])
    assert not far.offsets["ear"].is_determined


def test_few_logs_are_undetermined_and_say_why(bodies: list[ArrayLog]) -> None:
    found = find_offsets(bodies[:3]).offsets["ear"]
    assert not found.is_determined
    assert "fewer than" in found.reason


def test_comparing_needs_two_sensors_that_all_logs_have(bodies: list[ArrayLog]) -> None:
    with pytest.raises(ValueError, match=r"comparing clocks needs two"):
        find_offsets(bodies, sensors=["ear"])
    with pytest.raises(ValueError, match="reference 'nose' is not in every log"):
        find_offsets(bodies, "nose")


def native(folder: Path, bodies: list[ArrayLog], late_s: float) -> None:
    for log in bodies:
        late = {"ear": late_s}
        recordings = {
            n: Recording(modality, rate_hz, data, times + late.get(n, 0.0))
            for n, (modality, rate_hz, times, data) in log.streams.items()
            if n != "eye"
        }
        write_log(folder / f"{log.name}.h5", recordings)


def test_applied_corrections_put_the_clocks_together_and_leave_the_data(tmp_path: Path, bodies: list[ArrayLog]) -> None:
    native(tmp_path, bodies, 0.08)
    logs = open_logs(tmp_path)
    before = logs[0].read("ear", -1, 99)
    assert set(apply_offsets(logs, find_offsets(logs))) == {"ear"}  # the skin is off by less than its error
    again = open_logs(tmp_path)
    after = again[0].read("ear", -1, 99)
    np.testing.assert_array_equal(before.data, after.data)
    assert np.mean(after.times_s - before.times_s) == pytest.approx(-0.08, abs=0.005)
    assert abs(find_offsets(again).offsets["ear"].late_s) < 0.002
    with h5py.File(logs[0].path) as file:
        assert file["streams/ear/times"][0] == pytest.approx(0.08)
        assert dict(file["clock/ear"].attrs)["reference"] == "arm"


@pytest.mark.parametrize(("drift_ppm", "recorded_ppm"), [(5.0, 0.0), (-100.0, 100.0)])
def test_a_drift_within_its_error_is_not_recorded(tmp_path: Path, drift_ppm: float, recorded_ppm: float) -> None:
    write_log(tmp_path / "a.h5", {"ear": Recording("", 100.0, np.zeros((20, 1)), np.arange(20) / 100)})
    ear = Offset("ear", 0.08, 0.001, drift_ppm, 0.9, drift_error_ppm=10.0)
    apply_offsets(open_logs(tmp_path), Alignment("arm", {"ear": ear}, (), 100.0))
    with h5py.File(tmp_path / "a.h5") as file:
        told = dict(file["clock/ear"].attrs)
    assert told["drift_ppm"] == recorded_ppm
    assert told["offset_s"] == pytest.approx(
        -0.08 - recorded_ppm * 1e-6 * 100.0
    )  # that of the middle, taken to the start


def test_a_command_leads_what_it_causes_and_is_corrected_only_by_name(tmp_path: Path) -> None:
    names = ("action", "leftCmd", "ear", "reaction_wheel")
    for name in names:
        assert is_command(name) == (name in ("action", "leftCmd"))
    write_log(tmp_path / "a.h5", {n: Recording("", 100.0, np.zeros((20, 1)), np.arange(20) / 100) for n in names})
    found = Alignment("arm", {n: Offset(n, -0.05, 0.001, np.nan, 0.9) for n in names}, (), 0.0)
    assert {f.sensor for f in clock_findings(found)} == {"ear", "reaction_wheel"}
    assert apply_offsets(open_logs(tmp_path), found) == ["ear", "reaction_wheel"]
    assert "action" in apply_offsets(open_logs(tmp_path), found, ["action"])


def test_a_command_is_no_reference_unless_there_is_nothing_else(bodies: list[ArrayLog]) -> None:
    told = [ArrayLog(log.name, {"action": log.streams["arm"], **log.streams}) for log in bodies]
    assert find_offsets(told).reference == "arm"
    assert find_offsets(told, sensors=["action", "ear"]).reference == "ear"


@pytest.mark.parametrize(
    ("late_s", "error_s", "drift_ppm", "kinds"),
    [
        (0.25, 0.001, np.nan, ["offset"]),
        (-0.02, 0.001, 20.0, ["offset"]),  # 6 ms in a log of 300 s
        (0.009, 0.001, 0.0, []),
        (0.012, 0.0045, -100.0, ["drift"]),
        (np.nan, np.nan, np.nan, []),
    ],
)
def test_a_clock_that_is_certainly_off_is_a_warning(
    late_s: float, error_s: float, drift_ppm: float, kinds: list
) -> None:
    ear = Offset("ear", late_s, error_s, drift_ppm, 0.9, drift_error_ppm=5.0)
    found = clock_findings(Alignment("arm", {"ear": ear}, (), 150.0))
    assert [(f.level, f.sensor, f.kind) for f in found] == [("warning", "ear", kind) for kind in kinds]


def test_an_unfinished_recording_is_not_corrected(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "live.h5") as writer:
        writer.add_sensor("arm", "proprio", 100.0, (1,), "float32")
        writer.append("arm", np.zeros((10, 1), np.float32), np.arange(10) / 100)
        writer.flush()
        with pytest.raises(LogError, match=r"unfinished recording.*Close its writer"):
            apply_offsets(open_logs(tmp_path), Alignment("arm", {}, (), 0.0))


def test_logs_read_in_place_are_not_corrected(bodies: list[ArrayLog]) -> None:
    with pytest.raises(LogError, match="multisense import"):
        apply_offsets(bodies, Alignment("arm", {}, (), 0.0))
