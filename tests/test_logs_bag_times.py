"""When messages of a bag were taken, and which of them are of one sensor."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from test_logs_ros import START, Maker, Written, arrays, opened, poses

from multisense.logs import LogError
from multisense.logs.base import Reason


def test_zero_stamps_give_bag_time(tmp_path: Path) -> None:
    make = Maker(False)
    log = opened(tmp_path, poses(make, [0, 5], [START, START + 10**9]), make)
    assert log.notes["pose"].startswith("bag time")
    assert log.read("pose", 0, 9).times_s.tolist() == [0, 1]


def test_a_clock_of_another_epoch_gives_way_to_the_bag(tmp_path: Path) -> None:
    make = Maker(False)
    times = [START, START + 10**9]
    log = opened(tmp_path, [*arrays(make, times, [2, 2]), *poses(make, [10, 20], times)], make)
    assert "another clock" in log.notes["pose"]
    assert log.read("pose", -1, 9).times_s.tolist() == [0, 1]


def test_stamps_that_do_not_increase_give_bag_time(tmp_path: Path) -> None:
    make = Maker(False)
    times = [START, START + 10, START + 20]
    log = opened(tmp_path, [*arrays(make, times, [2, 2, 2]), *poses(make, [START, START - 10, START + 5], times)], make)
    assert log.notes["pose"] == "bag time: header.stamp of message 1 runs backward"
    np.testing.assert_allclose(log.read("pose", -1, 9).times_s, [0, 1e-8, 2e-8], atol=1e-12)
    (tmp_path / "twice").mkdir()
    log = opened(tmp_path / "twice", poses(make, [START, START + 5, START + 5], times), make)
    assert log.notes["pose"] == "bag time: header.stamp of message 2 is that of the one before"


@pytest.mark.parametrize(("third", "kind"), [(5, "backward"), (10, "duplicate")])
def test_neither_stamps_nor_bag_time_leave_the_sensor_out(tmp_path: Path, third: int, kind: str) -> None:
    make = Maker(False)
    good = arrays(make, [START, START + 10, START + 20], [2, 2, 2])
    bad = poses(make, [START, START + 10, START + third], [START, START + 7, START + 7])
    log = opened(tmp_path, sorted([*good, *bad], key=lambda item: item[1]), make)
    assert set(log.sensors) == {"a"}
    reason = log.skipped["/pose"]
    assert "times not increasing" in reason
    assert isinstance(reason, Reason)
    assert reason.kind == kind


def joints(make: Maker, names: Sequence[str], times: Sequence[int]) -> Written:
    return [("/joint_states", t, make("sensor_msgs/JointState", header=make.header(t), name=list(names),
                                      position=np.arange(len(names)) + 10.0 * i, velocity=np.array([]),
                                      effort=np.array([])))
            for i, t in enumerate(times)]  # fmt: skip


def test_joints_of_two_publishers_are_two_sensors(tmp_path: Path) -> None:
    make = Maker(False)
    arm, hand = [START + 10**7 * i for i in range(20)], [START + 10**6 + 3 * 10**7 * i for i in range(5)]
    both = [*joints(make, ["shoulder", "elbow"], arm), *joints(make, ["thumb", "index", "ring"], hand)]
    log = opened(tmp_path, sorted(both, key=lambda item: item[1]), make)
    assert {name: info.channels for name, info in log.sensors.items()} == {
        "joint_states_shoulder": ("shoulder.position", "elbow.position"),
        "joint_states_thumb": ("thumb.position", "index.position", "ring.position"),
    }
    whole = log.read("joint_states_shoulder", -1, 9)
    np.testing.assert_allclose(whole.times_s, 0.01 * np.arange(20), atol=1e-9)
    np.testing.assert_array_equal(whole.data, 10.0 * np.arange(20)[:, None] + [0, 1])
    np.testing.assert_array_equal(log.read("joint_states_thumb", 0.03, 0.09).data, [[10, 11, 12], [20, 21, 22]])
    assert log.read("joint_states_thumb", 5, 9).data.shape == (0, 3)


def test_joints_named_at_random_are_refused(tmp_path: Path) -> None:
    make = Maker(False)
    messages = [message for i in range(20) for message in joints(make, [f"joint{i}"], [START + i])]
    with pytest.raises(LogError, match="more than 16 sets of joints"):
        opened(tmp_path, messages, make)


def test_sound_by_arrival_keeps_its_pitch_and_its_gaps(tmp_path: Path) -> None:
    make, rng, block, rate = Maker(False), np.random.default_rng(0), 512, 16_000
    first = np.arange(500) * block + np.where(np.arange(500) < 300, 0, 8000)  # half a second is lost
    arrival = np.maximum.accumulate(first / rate + abs(rng.normal(0, 0.004, 500)) + 1e-6 * np.arange(500))
    arrival[100:106] = arrival[106] - 1e-4 * np.arange(6, 0, -1)  # six come at once, the first of them 0.2 s late
    info = make("audio_common_msgs/AudioInfo", channels=1, sample_rate=rate, sample_format="S16LE", bitrate=0,
                coding_format="wave")  # fmt: skip
    data = np.zeros(2 * block, np.uint8)
    messages = [("/audio", START + round(t * 1e9), make("audio_common_msgs/AudioData", data=data)) for t in arrival]
    log = opened(tmp_path, [("/info", START, info), *messages], make)
    times = log.read("audio", -1, 99).times_s
    truth = (first[:, None] + np.arange(block)).reshape(-1) / rate
    steps = np.diff(times)
    assert np.argmax(steps) == 300 * block - 1
    np.testing.assert_allclose(np.delete(steps, np.argmax(steps)) * rate, 1, atol=2e-3)
    error_s = times - truth - (times[0] - truth[0])
    assert np.abs(error_s).max() < 0.003
    assert "line through the arrivals" in log.notes["audio"]
