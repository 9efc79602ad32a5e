"""Project Aria: there is no free writer of its files, so a stand-in provider hands out records of the library's classes."""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_gives_single_samples

from multisense.logs import LogError
from multisense.logs.formats.vrs import MAGIC, candidates, recognises

pytest.importorskip("projectaria_tools")
from projectaria_tools.core import sensor_data
from projectaria_tools.core.stream_id import StreamId

START = 5_000_000_000_000
"""ns: the device had been on for a while."""
BLOCK, CHANNELS, SOUND_HZ = 480, 7, 48_000
STREAMS = {
    "camera-rgb": ("214-1", "IMAGE", 10, 20),
    "camera-slam-left": ("1201-1", "IMAGE", 10, 20),
    "imu-right": ("1202-1", "IMU", 1000, 800),
    "imu-left": ("1202-2", "IMU", 800, 640),
    "mag0": ("1203-1", "MAGNETOMETER", 10, 8),
    "baro0": ("247-1", "BAROMETER", 50, 40),
    "mic": ("231-1", "AUDIO", 100, 30),
    "wps": ("282-1", "WPS", 1, 2),
}


class Kind:
    def __init__(self, name: str) -> None:
        self.name = name


class Image:
    def __init__(self, pixels: np.ndarray) -> None:
        self.to_numpy_array = lambda: pixels


class StandIn:
    """As much of `VrsDataProvider` as is asked for. Sound is stamped by the last sample of its blocks."""

    def __init__(self) -> None:
        self.label = {text: label for label, (text, *_) in STREAMS.items()}
        self.late: dict[str, list[int]] = {}

    def of(self, stream: StreamId) -> tuple[str, str, int, int]:
        label = self.label[str(stream)]
        return label, *STREAMS[label][1:]

    def get_all_streams(self) -> list[StreamId]:
        return [StreamId(text) for text in self.label]

    def get_label_from_stream_id(self, stream: StreamId) -> str:
        return self.label[str(stream)]

    def get_sensor_data_type(self, stream: StreamId) -> Kind:
        return Kind(self.of(stream)[1])

    def get_nominal_rate_hz(self, stream: StreamId) -> float:
        return self.of(stream)[2]

    def get_timestamps_ns(self, stream: StreamId, domain: sensor_data.TimeDomain) -> list[int]:
        assert domain == sensor_data.TimeDomain.DEVICE_TIME
        label, kind, rate, count = self.of(stream)
        if kind == "AUDIO":
            return [int(self.sound_ns(i)[-1]) for i in range(count)]
        return self.late.get(label) or [START + 1_000_000 + i * 10**9 // rate for i in range(count)]

    def get_image_data_by_index(self, stream: StreamId, index: int) -> tuple[Image, None]:
        sides = (6, 8, 3) if self.of(stream)[0] == "camera-rgb" else (4, 5)
        return Image(np.full(sides, index, np.uint8)), None

    def get_imu_data_by_index(self, stream: StreamId, index: int) -> sensor_data.MotionData:
        record = sensor_data.MotionData()
        record.accel_msec2, record.gyro_radsec = [index, 1, 9.81], [0.5, -index, self.of(stream)[2]]
        return record

    def get_magnetometer_data_by_index(self, stream: StreamId, index: int) -> sensor_data.MotionData:
        record = sensor_data.MotionData()
        record.mag_tesla = [index, 2, 3]
        return record

    def get_barometer_data_by_index(self, stream: StreamId, index: int) -> sensor_data.BarometerData:
        record = sensor_data.BarometerData()
        record.pressure, record.temperature = 101_325 + index, 20.5
        return record

    def sound_ns(self, index: int) -> np.ndarray:
        return START + np.arange(index * BLOCK, (index + 1) * BLOCK) * 10**9 // SOUND_HZ

    def get_audio_configuration(self, stream: StreamId) -> sensor_data.AudioConfig:
        config = sensor_data.AudioConfig()
        config.num_channels, config.sample_rate = CHANNELS, SOUND_HZ
        return config

    def get_audio_data_by_index(self, stream: StreamId, index: int) -> tuple[Any, Any]:
        data, record = sensor_data.AudioData(), sensor_data.AudioDataRecord()
        data.data = (np.arange(index * BLOCK, (index + 1) * BLOCK)[:, None] * 8 + np.arange(CHANNELS)).ravel().tolist()
        data.max_amplitude = 2.0**20
        record.capture_timestamps_ns = self.sound_ns(index).tolist()
        return data, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "walk.vrs").write_bytes(MAGIC + bytes(1000))
    return tmp_path / "walk.vrs"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr("projectaria_tools.core.data_provider.create_vrs_data_provider", lambda path: made)
    return made


def test_streams_are_sensors_by_label(path: Path, provider: StandIn) -> None:
    assert recognises(path)
    (name, open_one), *more = candidates(path).items()
    log = open_one()
    assert (name, more, log.name) == ("walk", [], "walk")
    assert set(log.sensors) == set(STREAMS) - {"wps"}
    assert getattr(log, "skipped", {}) == {"wps": "a stream of kind WPS"}
    shapes = {name: (s.modality, s.shape, s.rate_hz, s.count) for name, s in log.sensors.items()}
    assert shapes["camera-rgb"] == ("video", (6, 8, 3), 10, 20)
    assert shapes["camera-slam-left"] == ("video", (4, 5, 3), 10, 20)
    assert shapes["imu-right"] == ("proprio", (6,), 1000, 800)
    assert shapes["mic"] == ("audio", (7,), 48_000, 30 * BLOCK)
    assert log.sensors["mag0"].units == "T"
    assert f"0 is {START} ns" in getattr(log, "notes", {})["mic"]


def test_values_and_device_times(path: Path, provider: StandIn) -> None:
    log = pickle.loads(pickle.dumps(candidates(path)["walk"]()))
    imu = log.read("imu-left", 0.1, 0.2)
    index = np.arange(80, 160)
    np.testing.assert_allclose(imu.times_s, 0.001 + index / 800, atol=1e-9)
    np.testing.assert_allclose(imu.data[:, 0], index)
    np.testing.assert_allclose(imu.data[0], [80, 1, 9.81, 0.5, -80, 800])
    frames = log.read("camera-slam-left", 0.3, 0.6)
    assert frames.data[:, 3, 4].tolist() == [[i] * 3 for i in (3, 4, 5)]
    np.testing.assert_allclose(frames.times_s, [0.301, 0.401, 0.501])
    assert log.read("baro0", 0, 0.03).data.tolist() == [[101_325, 20.5], [101_326, 20.5]]
    assert log.read("mag0", 9, 10).data.shape == (0, 3)


@pytest.mark.parametrize(("start", "stop"), [(-1.0, 9.0), (0.09951, 0.11051), (0.1, 0.1), (0.19999, 0.20001)])
def test_sound_over_blocks(path: Path, provider: StandIn, start: float, stop: float) -> None:
    stream = candidates(path)["walk"]().read("mic", start, stop)
    times = np.arange(30 * BLOCK) / SOUND_HZ
    wanted = np.flatnonzero((times >= start) & (times < stop))
    np.testing.assert_allclose(stream.times_s, times[wanted], atol=2e-9)
    np.testing.assert_array_equal(stream.data * 2**20, wanted[:, None] * 8 + np.arange(CHANNELS))


def test_single_samples_are_those_of_a_range(path: Path, provider: StandIn) -> None:
    (open_one,) = candidates(path).values()
    assert_gives_single_samples(open_one())


def test_a_stream_that_jumps_back_is_left_out(path: Path, provider: StandIn) -> None:
    provider.late["mag0"] = [START + t for t in (0, 100, 90)]
    log = candidates(path)["walk"]()
    assert "mag0" not in log.sensors
    assert "walk.vrs: mag0: found times not increasing" in getattr(log, "skipped", {})["mag0"]


def test_what_the_library_raises_is_a_log_error(path: Path, provider: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    log = candidates(path)["walk"]()

    def broken(*_: object) -> None:
        raise RuntimeError("decompression failed")

    monkeypatch.setattr(provider, "get_imu_data_by_index", broken)
    with pytest.raises(LogError, match=r"walk\.vrs: imu-left, record 0: found unreadable records \(decompression"):
        log.read("imu-left", 0, 1)
    monkeypatch.setattr(provider, "get_image_data_by_index", lambda *_: (Image(np.zeros((9, 9), np.uint8)), None))
    with pytest.raises(LogError, match=r"camera-rgb, record 0: found shape \(9, 9, 3\); expected \(6, 8, 3\)"):
        log.read("camera-rgb", 0, 1)
    monkeypatch.setattr(provider, "get_image_data_by_index", lambda *_: (Image(np.zeros((6, 8), np.uint16)), None))
    with pytest.raises(LogError, match=r"frame 0: found uint16 of shape \(6, 8\); expected 8-bit grey or RGB"):
        log.read("camera-rgb", 0, 1)


def test_only_vrs_files_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "x.vrs").write_bytes(b"something else")
    assert not any(recognises(path) for path in (tmp_path, tmp_path / "x.vrs", tmp_path / "none.vrs"))


def test_a_damaged_file_is_refused_by_the_library_itself(path: Path) -> None:
    with pytest.raises(LogError, match=r"walk\.vrs: found no readable recording; expected a whole VRS file of Project"):
        candidates(path)["walk"]()


def test_without_projectaria_tools(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "projectaria_tools.core", None)
    with pytest.raises(LogError, match=r"no projectaria_tools in this environment; .* extra `aria`"):
        candidates(path)["walk"]()
