"""Lab Streaming Layer recordings: the real example files, and small ones written by the XDF specification."""

import struct
from pathlib import Path

import numpy as np
import pytest

from multisense.logs import LogError
from multisense.logs.formats.xdf import candidates, recognises

pyxdf = pytest.importorskip("pyxdf")


def chunk(tag: int, body: bytes) -> bytes:
    return b"\x04" + struct.pack("<IH", len(body) + 2, tag) + body


def header(number: int, name: str, kind: str, channels: int, form: str, rate: float, desc: str = "") -> bytes:
    fields = {"name": name, "type": kind, "channel_count": channels, "nominal_srate": rate, "channel_format": form}
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items())
    return chunk(2, struct.pack("<I", number) + f"<info>{inner}<desc>{desc}</desc></info>".encode())


def samples(number: int, stamps: np.ndarray, values: list[bytes]) -> bytes:
    rows = b"".join(b"\x08" + struct.pack("<d", t) + value for t, value in zip(stamps, values, strict=True))
    return chunk(3, struct.pack("<IBI", number, 4, len(values)) + rows)


def text(value: str) -> bytes:
    return b"\x01" + bytes([len(value)]) + value.encode()


def offset(number: int, time: float, value: float) -> bytes:
    return chunk(4, struct.pack("<Idd", number, time, value))


TIMES = 1000 + np.arange(50) / 25
FORCE = np.random.default_rng(1).normal(size=(50, 2)).astype("<f4")
LABELS = "<channels>" + "".join(f"<channel><label>{n}</label><unit>N</unit></channel>" for n in "xy") + "</channels>"
BOUNDARY = chunk(5, bytes.fromhex("43a546dccbf5410fb30ed5467383cbe4"))


def session(stamps: np.ndarray = TIMES) -> bytes:
    """A force at 25 Hz whose clock is 3 s behind the recorder's, irregular pokes, and markers."""
    parts = [b"XDF:", chunk(1, b"<info><version>1.0</version></info>")]
    parts += [header(1, "Force plate", "Force", 2, "float32", 25, LABELS), header(2, "cue", "Markers", 1, "string", 0)]
    parts += [header(3, "poke", "Other", 1, "int16", 0), header(4, "silent", "EEG", 4, "float32", 100)]
    parts += [offset(1, 1000 + 5 * k, 3.0) for k in range(3)]
    parts += [samples(1, stamps[:30], [row.tobytes() for row in FORCE[:30]]), BOUNDARY]
    parts += [samples(1, stamps[30:], [row.tobytes() for row in FORCE[30:]])]
    parts += [samples(2, np.array([1003.5, 1004.0]), [text("go"), text("end")])]
    parts += [samples(3, np.array([1003.1, 1003.2, 1004.6]), [struct.pack("<h", k) for k in (1, -2, 3)])]
    return b"".join(parts)


def written(folder: Path, data: bytes) -> Path:
    (folder / "session.xdf").write_bytes(data)
    return folder / "session.xdf"


def test_streams_are_on_the_recorders_clock(tmp_path: Path) -> None:
    path = written(tmp_path, session())
    assert recognises(path)
    assert len(pyxdf.load_xdf(path)[0]) == 4
    log = candidates(path)["session"]()
    force = log.sensors["Force_plate"]
    assert (force.modality, force.units, force.channels, force.rate_hz) == ("proprio", "N", ("x", "y"), 25)
    stream = log.read("Force_plate", -1, 9)
    np.testing.assert_allclose(stream.times_s, TIMES - 1000, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(stream.data, FORCE)
    poke = log.read("poke", -1, 9)
    np.testing.assert_allclose(poke.times_s, [0.1, 0.2, 1.6], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(poke.data[:, 0], [1, -2, 3])
    assert "3 clock offsets applied" in log.notes["Force_plate"]
    assert "no samples" in log.skipped["silent"]


def test_markers_are_labels(tmp_path: Path) -> None:
    cue = candidates(written(tmp_path, session()))["session"]().labels["cue"]
    assert (cue.classes, cue.reduce) == (("end", "go"), "unique")
    np.testing.assert_array_equal(cue.data, [1, 0])
    np.testing.assert_allclose(cue.times_s, [0.5, 1.0], rtol=0, atol=1e-6)


def test_a_step_back_leaves_the_stream_out(tmp_path: Path) -> None:
    log = candidates(written(tmp_path, session(TIMES - 5 * (np.arange(50) > 29))))["session"]()
    assert set(log.sensors) == {"poke"}
    assert "not increasing" in log.skipped["Force_plate"]


def test_clock_resets_of_the_real_file_are_taken_out(realdata: Path) -> None:
    path = realdata / "xdf_lsl" / "clock_resets.xdf"
    log = candidates(path)["clock_resets"]()
    streams = {s["info"]["name"][0]: s for s in pyxdf.load_xdf(path)[0]}
    eeg, markers = streams["BioSemi"], streams["MyMarkerStream"]
    stream = log.read("BioSemi", -np.inf, np.inf)
    assert stream.data.shape == (27815, 8)
    assert (np.diff(stream.times_s) > 0).all()
    np.testing.assert_array_equal(stream.data, eeg["time_series"])
    np.testing.assert_allclose(stream.times_s, eeg["time_stamps"] - eeg["time_stamps"][0], rtol=0, atol=1e-9)
    assert "clock reset before sample 12876" in log.notes["BioSemi"]
    label = log.labels["MyMarkerStream"]
    assert [label.classes[k] for k in label.data] == [row[0] for row in markers["time_series"]]
    np.testing.assert_allclose(label.times_s, markers["time_stamps"] - eeg["time_stamps"][0], rtol=0, atol=1e-9)


def test_the_other_real_files(realdata: Path) -> None:
    minimal = candidates(realdata / "xdf_lsl" / "minimal.xdf")["minimal"]()
    stream = minimal.read("SendDataC", -1, 9)
    np.testing.assert_allclose(stream.times_s, np.arange(9) / 10, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(stream.data[:2], [[192, 255, 238], [12, 22, 32]])
    empty = candidates(realdata / "xdf_lsl" / "empty_streams.xdf")["empty_streams"]()
    assert len(empty.skipped) == 2
    assert list(empty.labels) == ["ctrl"]


def test_a_cut_tail_is_left_out_and_noted(tmp_path: Path) -> None:
    log = candidates(written(tmp_path, session()[:-5]))["session"]()
    assert "left out" in log.notes["Force_plate"]
    assert "poke" in log.skipped


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"XDF?", "begins with"),
        (session()[:120], "no usable sensor"),
        (session() + b"\x07" + BOUNDARY, "no length of a chunk"),
        (session() + b"\x08" + bytes([255] * 8) + BOUNDARY, "a chunk of"),
        (session() + chunk(9, b""), "tag"),
        (session() + header(9, "wide", "EEG", 10**9, "float32", 1), "channels of"),
        (session() + chunk(3, struct.pack("<IBQ", 1, 8, 2**60)), "as many as its samples need"),
        (session() + chunk(3, struct.pack("<IBQ", 77, 8, 1)), "its header"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(LogError, match=reason):
        candidates(written(tmp_path, data))["session"]()


def test_damage_gives_data_or_a_log_error(tmp_path: Path) -> None:
    whole, rng = session(), np.random.default_rng(0)
    for n in range(60):
        data = bytearray(whole if n % 4 else whole[: rng.integers(1, len(whole))])
        for at in rng.integers(len(data), size=2):
            data[at] ^= 1 << int(rng.integers(8))
        file = tmp_path / f"{n}.xdf"
        file.write_bytes(data)
        try:
            log = candidates(file)[str(n)]()
        except LogError:
            continue
        for sensor in log.sensors:
            log.read(sensor, -np.inf, np.inf)


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "x.xdf").write_bytes(b"XD")
    assert not any(recognises(path) for path in (tmp_path, tmp_path / "x.xdf", tmp_path / "missing"))
