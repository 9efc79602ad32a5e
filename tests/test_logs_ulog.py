"""PX4 flight logs: a real one against pyulog's own values, and small ones written by pyulog."""

import struct
from pathlib import Path

import numpy as np
import pytest

from multisense.logs import LogError
from multisense.logs.formats.ulog import candidates, recognises

pyulog = pytest.importorskip("pyulog")

START_US = 5_000_000
STAMPS_US = START_US + np.array([-1_000_000, 4000, 8100, 12000, 20500])


def message(kind: str, body: bytes) -> bytes:
    return struct.pack("<HB", len(body), ord(kind)) + body


def build(
    formats: tuple[str, ...], topics: tuple[tuple[int, int, str], ...], rows: tuple[tuple[int, bytes], ...]
) -> bytes:
    """A file by the ULog specification: `topics` are (instance, id, name), `rows` are (id, packed sample)."""
    parts = [b"ULog\x01\x12\x35\x01" + struct.pack("<Q", START_US), message("B", bytes(40))]
    parts += [message("F", text.encode()) for text in formats]
    parts += [message("A", struct.pack("<BH", *topic[:2]) + topic[2].encode()) for topic in topics]
    parts += [message("D", struct.pack("<H", number) + row) for number, row in rows]
    return b"".join(parts)


def flight(folder: Path) -> Path:
    """Two gyros and an echo of text, packed by the specification, then written again by pyulog."""
    formats = ("gyro:uint64_t timestamp;float[2] rate;uint8_t flags;", "echo:uint64_t timestamp;char[3] text;")
    gyro = [(k, struct.pack("<QffB", t, i, -i, i)) for i, t in enumerate(STAMPS_US.tolist()) for k in (0, 1)]
    echo = (2, struct.pack("<Q3s", START_US, b"abc"))
    (folder / "raw.ulg").write_bytes(build(formats, ((0, 0, "gyro"), (1, 1, "gyro"), (0, 2, "echo")), (*gyro, echo)))
    pyulog.ULog(str(folder / "raw.ulg")).write_ulog(str(folder / "flight.ulg"))
    return folder / "flight.ulg"


def test_instances_are_sensors_on_their_own_stamps(tmp_path: Path) -> None:
    path = flight(tmp_path)
    assert recognises(path)
    log = candidates(path)["flight"]()
    assert set(log.sensors) == {"gyro", "gyro_1"}
    assert log.sensors["gyro_1"].channels == ("rate[0]", "rate[1]", "flags")
    stream = log.read("gyro_1", -2, 1)
    np.testing.assert_allclose(stream.times_s, (STAMPS_US - START_US) / 1e6, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(stream.data, np.arange(5)[:, None] * np.array([1, -1, 1], np.float32))
    np.testing.assert_array_equal(log.read("gyro", 0.004, 0.0205).data[:, 0], [1, 2, 3])
    assert "numeric" in log.skipped["echo"]


def test_a_real_flight_has_the_values_of_pyulog(realdata: Path) -> None:
    path = realdata / "px4_ulog" / "test_ulog.ulg"
    log = candidates(path)["test_ulog"]()
    ulog = pyulog.ULog(str(path))
    assert len(log.sensors) + len(log.skipped) == len(ulog.data_list)
    for topic in ulog.data_list:
        name = topic.name + (f"_{topic.multi_id}" if topic.multi_id else "")
        stream = log.read(name, -np.inf, np.inf)
        times = (topic.data["timestamp"].astype(np.float64) - ulog.start_timestamp) / 1e6
        np.testing.assert_array_equal(stream.times_s, times)
        for i, channel in enumerate(log.sensors[name].channels):
            np.testing.assert_array_equal(stream.data[:, i], topic.data[channel])
    combined = log.sensors["sensor_combined"]
    assert (combined.count, combined.modality) == (1297, "proprio")
    assert combined.rate_hz == pytest.approx(200, abs=1)


def test_a_cut_or_blank_tail_is_left_out_and_noted(tmp_path: Path) -> None:
    data = flight(tmp_path).read_bytes()
    for name, changed in {"cut": data[:-9], "blank": data + bytes(5000)}.items():
        (tmp_path / f"{name}.ulg").write_bytes(changed)
        log = candidates(tmp_path / f"{name}.ulg")[name]()
        assert "left out" in log.notes["gyro"]
        assert log.sensors["gyro"].count >= 4


def test_a_stamp_twice_leaves_the_sensor_out(tmp_path: Path) -> None:
    rows = tuple((k, struct.pack("<QB", START_US + t, 0)) for k, t in ((0, 1), (1, 1), (0, 1), (1, 2)))
    formats = ("a:uint64_t timestamp;uint8_t x;", "b:uint64_t timestamp;uint8_t x;")
    (tmp_path / "f.ulg").write_bytes(build(formats, ((0, 0, "a"), (0, 1, "b")), rows))
    log = candidates(tmp_path / "f.ulg")["f"]()
    assert set(log.sensors) == {"b"}
    assert "not increasing" in log.skipped["a"]


@pytest.mark.parametrize(
    ("formats", "reason"),
    [
        (("a:uint64_t timestamp;b[9999] x;", "b:c[9999] x;", "c:float[9999] x;"), "bytes; expected at most"),
        (("a:uint64_t timestamp;a x;",), "a type defined before"),
        (("a:uint64_t timestamp;float[99999999999] x;",), "a size"),
        (("a:float x;",), "no field"),
    ],
)
@pytest.mark.parametrize("tail", [b"", bytes(64)])
def test_absurd_topics_are_refused(tmp_path: Path, formats: tuple[str, ...], reason: str, tail: bytes) -> None:
    (tmp_path / "f.ulg").write_bytes(build(formats, ((0, 0, "a"),), ((0, struct.pack("<Qf", START_US, 1)),)) + tail)
    with pytest.raises(LogError, match=reason):
        candidates(tmp_path / "f.ulg")["f"]()


def test_damage_gives_data_or_a_log_error(tmp_path: Path) -> None:
    whole, rng = flight(tmp_path).read_bytes(), np.random.default_rng(0)
    for n in range(80):
        data = bytearray(whole if n % 4 else whole[: rng.integers(len(whole))])
        for at in rng.integers(len(data), size=2):
            data[at] ^= 1 << int(rng.integers(8))
        file = tmp_path / f"{n}.ulg"
        file.write_bytes(data)
        try:
            log = candidates(file)[str(n)]()
        except LogError:
            continue
        for sensor in log.sensors:
            log.read(sensor, -np.inf, np.inf)


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "x.ulg").write_bytes(b"ULo")
    assert not any(recognises(path) for path in (tmp_path, tmp_path / "x.ulg", tmp_path / "missing"))
