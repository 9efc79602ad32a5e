"""Plain folders: videos, sounds and tables with stamps of their own, written by the usual writers."""

import pickle
import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import assert_gives_single_samples

from multisense.logs import LogError, open_logs
from multisense.logs.anchors import AnchorLine
from multisense.logs.formats.folder import open_folder, recognises
from multisense.logs.media import write_video
from multisense.logs.sound import BLOCK, open_sound

UNIX = 1_760_000_000
EVERYTHING = -np.inf, np.inf


def frames(count: int = 20) -> np.ndarray:
    """Frame i is grey of level 4 i."""
    return np.zeros((count, 64, 64, 3), np.uint8) + (4 * np.arange(count, dtype=np.uint8))[:, None, None, None]


def tone(count: int, rate: int = 8000) -> np.ndarray:
    return (np.sin(np.arange(count) * 2 * np.pi * 440 / rate) * 12000).astype(np.int16)


def write_wav(path: Path, data: np.ndarray, rate: int = 8000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if data.ndim == 1 else data.shape[1], 2, rate, len(data), "NONE", ""))
        file.writeframes(data.astype("<i2").tobytes())


def write_sound(path: Path, codec: str, data: np.ndarray, rate: int = 48000, video: np.ndarray | None = None) -> None:
    """(N,) int16 as one compressed track, after pictures at 20 Hz where there are some."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=20) if video is not None else None
        stream = container.add_stream(codec, rate=rate, layout="mono")
        if picture is not None and video is not None:
            picture.height, picture.width, picture.pix_fmt = *video.shape[1:3], "yuv420p"
            for image in video:
                container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(picture.encode(None))
        whole = av.AudioFrame.from_ndarray(data[None], format="s16", layout="mono")
        whole.sample_rate = rate
        resampler = av.AudioResampler(format=stream.codec_context.codec.audio_formats[0], frame_size=960)
        for frame in [*resampler.resample(whole), *resampler.resample(None)]:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_folder_of_every_kind(tmp_path: Path) -> None:
    write_video(str(tmp_path / "cam.mp4"), frames(), 20.0)
    write_wav(tmp_path / "mic.wav", tone(8000))
    times = np.arange(100) / 100
    rows = [f"{t:.3f},{i},{-i},left" for i, t in enumerate(times)]
    (tmp_path / "arm.csv").write_text("\n".join(["time,force [N],torque [N m],side", *rows]))
    np.save(tmp_path / "pad.npy", np.arange(50 * 4 * 4, dtype=np.float32).reshape(50, 4, 4))
    np.savetxt(tmp_path / "pad.times.txt", np.arange(50) / 50)
    (tmp_path / "notes.docx").write_text("hello")
    assert recognises(tmp_path)
    (log,) = open_logs(tmp_path)
    log = pickle.loads(pickle.dumps(log))
    assert_gives_single_samples(log)
    assert {n: (i.modality, i.rate_hz, i.shape, i.count) for n, i in log.sensors.items()} == {
        "cam": ("video", 20.0, (64, 64, 3), 20),
        "mic": ("audio", 8000.0, (), 8000),
        "arm": ("", pytest.approx(100), (2,), 100),
        "pad": ("", pytest.approx(50), (4, 4), 50),
    }
    assert log.sensors["arm"].channels == ("force", "torque")
    assert log.sensors["arm"].units == "N, N m"
    assert log.skipped == {"notes.docx": "not a kind of file read here", "arm.csv: side": "text, not numbers"}
    assert log.notes["mic"].startswith("no stamps")
    arm = log.read("arm", 0.25, 0.30)
    assert arm.data.tolist() == [[i, -i] for i in range(25, 30)]
    np.testing.assert_allclose(arm.times_s, times[25:30])
    assert log.read("pad", 0.1, 0.14).data[0, 0].tolist() == [80, 81, 82, 83]
    np.testing.assert_allclose(log.read("mic", 0.5, 0.51).data, tone(8000)[4000:4080] / 32768, atol=1e-7)
    assert log.read("cam", 0.45, 0.55).data.mean((1, 2, 3)) == pytest.approx([36, 40], abs=2)


@pytest.mark.parametrize(
    ("name", "scale"),
    [("time", 1), ("t", 1), ("timestamp_ns", 1e9), ("time [ms]", 1e3), ("stamp_us", 1e6), ("Time", 1)],
)
def test_units_of_stamps(tmp_path: Path, name: str, scale: float) -> None:
    times = np.arange(20) / 10 + 3
    np.savetxt(tmp_path / "a.csv", np.stack([times * scale, times], 1), delimiter=",", header=f"{name},x", comments="")
    log = open_folder(tmp_path)
    assert log.sensors["a"].channels == ("x",)
    np.testing.assert_allclose(log.read("a", *EVERYTHING).times_s, times)


@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9])
def test_unix_stamps_without_a_unit_begin_at_zero(tmp_path: Path, per_second: int) -> None:
    ticks = UNIX * per_second + np.arange(20) * per_second // 10 if per_second > 1 else UNIX + np.arange(20)
    np.save(tmp_path / "a.npy", np.arange(20.0))
    np.save(tmp_path / "a_timestamps.npy", ticks)
    log = open_folder(tmp_path)
    np.testing.assert_allclose(log.read("a", *EVERYTHING).times_s, np.arange(20) / (10 if per_second > 1 else 1))
    assert "1760000000.000000 s since 1970" in log.notes["a"]


def test_dates_as_stamps(tmp_path: Path) -> None:
    rows = [f"2026-01-01 00:00:0{i}.500,{i}" for i in range(5)]
    (tmp_path / "a.csv").write_text("\n".join(["timestamp;x".replace(";", ","), *rows]))
    np.testing.assert_allclose(open_folder(tmp_path).read("a", *EVERYTHING).times_s, np.arange(5.0))


def test_unix_beside_relative_is_noted_and_laid_together(tmp_path: Path) -> None:
    write_video(str(tmp_path / "cam.mp4"), frames(), 20.0)
    rows = [f"{UNIX + 0.25 + i / 100:.3f},{i}" for i in range(100)]
    (tmp_path / "arm.csv").write_text("\n".join(["time,x", *rows]))
    log = open_folder(tmp_path)
    assert log.sensors["arm"].start_s == pytest.approx(0, abs=1e-6)
    assert "assumed to count from the first unix stamp" in log.notes["cam"]
    assert "unix time" in log.notes["arm"]


def test_sensors_that_share_no_time(tmp_path: Path) -> None:
    for name, start in {"a": 0, "b": 0.5, "boot": 5000}.items():
        rows = [f"{start + i / 100:.3f},{i}" for i in range(100)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["time,x", *rows]))
    log = open_folder(tmp_path)
    assert set(log.sensors) == {"a", "b"}
    assert "shares no time" in log.skipped["boot"]
    (tmp_path / "b.csv").unlink()
    with pytest.raises(LogError, match="no two sensors at one time"):
        open_folder(tmp_path)


def test_side_stamps_of_a_video_move_its_sound(tmp_path: Path) -> None:
    write_sound(tmp_path / "cam.mp4", "aac", tone(48000, 48000), video=frames())
    stamps = UNIX + 7 + np.arange(20) / 20
    np.savetxt(tmp_path / "cam.times.csv", stamps, fmt="%.6f", header="timestamp", comments="")
    np.savetxt(tmp_path / "arm.csv", np.stack([UNIX + np.arange(1000) / 100, np.arange(1000)], 1), delimiter=",",
               fmt="%.3f", header="time,x", comments="")  # fmt: skip
    log = open_folder(tmp_path)
    assert set(log.sensors) == {"cam", "cam_sound", "arm"}
    assert log.sensors["cam"].start_s == pytest.approx(7, abs=1e-5)
    assert log.sensors["cam_sound"].start_s == pytest.approx(7, abs=1e-3)
    assert log.notes["cam_sound"].startswith("container stamps, moved")
    (tmp_path / "cam.times.csv").write_text("timestamp\n1\n2\n")
    assert "one time per sample" in open_folder(tmp_path).skipped["cam.mp4"]


@pytest.mark.parametrize(
    ("name", "codec", "exact"),
    [("a.flac", "flac", True), ("a.mp3", "libmp3lame", True), ("a.opus", "libopus", False), ("a.m4a", "aac", False)],
)
def test_ranges_of_compressed_sound(tmp_path: Path, name: str, codec: str, exact: bool) -> None:
    data = (np.cumsum(np.random.default_rng(0).normal(size=4 * BLOCK + 999)) % 400 * 60 - 12000).astype(np.int16)
    write_sound(tmp_path / name, codec, data)
    sound = open_sound(str(tmp_path / name))
    with av.open(str(tmp_path / name)) as container:
        parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    whole = np.concatenate(parts)
    whole = (whole / 2.0 ** (8 * whole.itemsize - 1) if whole.dtype.kind == "i" else whole).astype(np.float32)
    assert sound.count == len(whole)
    late = sound.read(3 * BLOCK - 500, 3 * BLOCK + 500)
    read = sound.read(0, sound.count)
    np.testing.assert_array_equal(late, read[3 * BLOCK - 500 : 3 * BLOCK + 500])
    # Opus keeps a state for ever, and AAC fills bands with random noise: there only most samples are as in one pass.
    assert np.quantile(np.abs(read - whole), 1.0 if exact else 0.9) <= (0.0 if exact else 0.01)
    if name == "a.flac":
        np.testing.assert_array_equal(read, (data / 32768).astype(np.float32))


@pytest.mark.parametrize(
    ("tag", "dtype", "full"), [(1, "<i2", 2**15), (1, "<i4", 2**31), (3, "<f4", 1.0), (3, "<f8", 1.0), (1, "u1", 2**7)]
)
def test_wav_of_every_width(tmp_path: Path, tag: int, dtype: str, full: float) -> None:
    values = np.array([[0.5, -0.5], [0.25, 0.0], [-1.0, 0.75]])
    raw = (values * full + (128 if dtype == "u1" else 0)).astype(dtype).tobytes()
    width = np.dtype(dtype).itemsize
    form = struct.pack("<HHIIHH", tag, 2, 100, 200 * width, 2 * width, 8 * width)
    body = b"WAVEJUNK\x03\0\0\0abc\0fmt \x10\0\0\0" + form + b"data" + struct.pack("<I", len(raw)) + raw
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    sound = open_sound(str(tmp_path / "a.wav"))
    assert (sound.count, sound.channels, sound.rate_hz) == (3, 2, 100)
    np.testing.assert_allclose(sound.read(1, 3), values[1:])


def test_a_wav_of_24_bits_and_cut_short(tmp_path: Path) -> None:
    numbers = np.array([2**22, -(2**22), 2**21], "<i4")
    raw = numbers.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 100, 300, 3, 24)
    body = b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", 10**6) + raw + b"\1"
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    np.testing.assert_allclose(open_sound(str(tmp_path / "a.wav")).read(0, 3), [0.5, -0.5, 0.25])


def test_where_a_sound_begins(tmp_path: Path) -> None:
    write_wav(tmp_path / "mic.wav", tone(8000))
    (tmp_path / "mic.times.txt").write_text("12.5\n")
    assert open_folder(tmp_path).sensors["mic"].start_s == 12.5
    (tmp_path / "mic.times.txt").unlink()
    (tmp_path / "mic.times.csv").write_text("sample,time\n0,5.0\n7999,6.1\n")
    np.testing.assert_allclose(open_folder(tmp_path).read("mic", *EVERYTHING).times_s[[0, -1]], [5.0, 6.1])


def test_parquet_by_row_groups(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    ticks = UNIX * 10**9 + np.arange(1000) * 10**7
    columns = {"x": np.arange(1000.0), "n": np.arange(1000), "name": ["a"] * 1000}
    stamps = pa.array(ticks, pa.timestamp("ns"))
    pq.write_table(pa.table({"timestamp": stamps, **columns}), tmp_path / "a.parquet", row_group_size=300)
    pq.write_table(pa.table({"time_ns": ticks, **columns}), tmp_path / "b.parquet", row_group_size=300)
    log = open_folder(tmp_path)
    for name in ("a", "b"):
        part = log.read(name, 2.9, 6.1)
        assert part.data[:, 0].tolist() == part.data[:, 1].tolist() == list(range(290, 610))
        np.testing.assert_array_equal(part.times_s, (np.arange(290, 610) * 10**7) / 1e9)
    assert log.skipped["a.parquet: name"] == "no single numbers"


def test_structured_npy_and_nan_cells(tmp_path: Path) -> None:
    rows = np.zeros(10, [("t", "f8"), ("x", "i4"), ("y", "f4")])
    rows["t"], rows["x"] = np.arange(10) / 10, np.arange(10)
    np.save(tmp_path / "a.npy", rows)
    (tmp_path / "b.csv").write_text("# made by hand\ntime;x;y;z\n0.0;1;;oops\n0.1;nan;2;3\n0.2;3;4;4\n")
    log = open_folder(tmp_path)
    assert log.read("a", 0.45, 0.75).data.tolist() == [[5, 0], [6, 0], [7, 0]]
    np.testing.assert_array_equal(log.read("b", *EVERYTHING).data, [[1, np.nan], [np.nan, 2], [3, 4]])
    assert "b.csv: z" in log.skipped


def test_text_far_down_drops_its_column_only(tmp_path: Path) -> None:
    rows = [f"{i / 10},{i},{'bad' if i == 900 else i}" for i in range(1000)]
    (tmp_path / "a.csv").write_text("\n".join(["t,x,y", *rows]))
    log = open_folder(tmp_path)
    assert log.sensors["a"].channels == ("x",)
    assert log.skipped == {"a.csv: y": "text such as 'bad'"}


def test_a_folder_of_folders_is_a_data_set(tmp_path: Path) -> None:
    for name in ("two", "one", "empty"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "a.csv").write_text("t,x\n0,1\n1,2\n")
    assert [log.name for log in open_logs(tmp_path)] == ["one", "two"]
    assert not recognises(tmp_path / "empty")
    assert not recognises(tmp_path / "nowhere")


BAD = {
    "no stamps": ("a.csv", b"x,y\n1,2\n3,4\n", "no time stamps"),
    "backwards": ("a.csv", b"t,x\n1,2\n0,4\n", "not increasing"),
    "twice": ("a.csv", b"t,x\n1,2\n1,4\n", "not increasing"),
    "no rows": ("a.csv", b"t,x\n", "no rows"),
    "empty": ("a.csv", b"", "no rows"),
    "bytes": ("a.csv", bytes(range(256)) * 10, "unreadable table"),
    "ragged": ("a.csv", b"t,x\n0,1\n1\n", "unreadable table"),
    "only stamps": ("a.csv", b"t\n0\n1\n", "no numbers besides"),
    "no unit": ("a.csv", b"t,x\n0,1\n33000000,2\n66000000,3\n", "without a unit"),
    "no array": ("a.npy", b"\x93NUMPY\x01\x00\xff\xff{", "unreadable array"),
    "objects": ("a.npy", b"", "unreadable array"),
    "no video": ("a.mp4", b"0" * 1000, "no readable video"),
    "no sound": ("a.mp3", b"0" * 1000, "undecodable sound"),
    "no parquet": ("a.parquet", b"PAR1" * 100, "parquet"),
    "wav header": (
        "a.wav",
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0data\x04\0\0\0abcd",
        "WAV",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_said(tmp_path: Path, case: str) -> None:
    name, content, words = BAD[case]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.csv").write_text("t,x\n0,1\n1,2\n")
    log = open_folder(tmp_path)
    assert set(log.sensors) == {"good"}
    assert words in log.skipped[name]
    (tmp_path / "good.csv").unlink()
    with pytest.raises(LogError, match="no usable sensor"):
        open_folder(tmp_path)


def test_an_absurd_array_is_refused_without_memory(tmp_path: Path) -> None:
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }"
    head = header.encode().ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    with pytest.raises(LogError, match="unreadable array"):
        open_folder(tmp_path)


def test_anchors_pass_every_point_and_are_few() -> None:
    rng = np.random.default_rng(0)
    index = np.arange(20_000.0)
    seconds = np.interp(index, [0, 7000, 7001, 19_999], [1.0, 2.0, 2.5, 4.0])
    line = AnchorLine(1e-9)
    for part in np.split(np.arange(20_000), np.sort(rng.integers(0, 20_000, 9))):
        line.add(index[part], seconds[part])
    knots = line.knots()
    assert len(knots) < 8
    np.testing.assert_allclose(np.interp(index, *knots.T), seconds, atol=1.01e-9)
    noisy = seconds + rng.uniform(0, 5e-5, 20_000)
    line = AnchorLine(2e-5)
    line.add(index, noisy)
    assert np.abs(np.interp(index, *line.knots().T) - noisy).max() <= 2.01e-5


def test_real_video_with_sound(realdata: Path) -> None:
    log = open_folder(realdata / "nasa_av")
    assert log.sensors["nasa_13013"].count > 300
    assert log.sensors["nasa_13013_sound"].rate_hz == 8000
    assert log.sensors["nasa_13013_sound"].stop_s == pytest.approx(13.05, abs=0.1)


def test_real_wearables(realdata: Path) -> None:
    log = open_folder(realdata / "imu_aeon")
    info = log.sensors["S06R02E0"]
    assert info.rate_hz == pytest.approx(64, rel=0.05)
    assert info.channels[0] == "ankle_horiz_fwd"


def test_a_folder_named_as_stamps_is_none(tmp_path: Path) -> None:
    write_video(str(tmp_path / "cam.mp4"), frames(), 20.0)
    (tmp_path / "cam.times.csv").mkdir()
    log = open_folder(tmp_path)
    assert "a folder" in log.skipped["cam.times.csv"]
    assert log.fingerprint()


@pytest.mark.parametrize("stamp", ["nan", "inf", "1e300"])
def test_stamps_that_are_no_times(tmp_path: Path, stamp: str) -> None:
    (tmp_path / "a.csv").write_text(f"time,x\n{stamp},1\n2,3\n")
    with pytest.raises(LogError, match=r"a\.csv.* found stamps (that are no finite numbers|up to 1e\+300)"):
        open_folder(tmp_path)


@pytest.mark.parametrize("name", ["arm.csv", "arm.times.csv"])
def test_whole_stamps_without_a_unit_may_be_milliseconds(tmp_path: Path, name: str) -> None:
    if name == "arm.times.csv":
        np.save(tmp_path / "arm.npy", np.zeros((100, 2)))
    (tmp_path / name).write_text("time,x\n" + "".join(f"{10 * i},{i}\n" for i in range(100)))
    with pytest.raises(LogError, match=r"stamps 10 apart, without a unit.*time_ms"):
        open_folder(tmp_path)
    (tmp_path / name).write_text("time_ms,x\n" + "".join(f"{10 * i},{i}\n" for i in range(100)))
    assert open_folder(tmp_path).sensors["arm"].rate_hz == pytest.approx(100)
    (tmp_path / name).write_text("time,x\n" + "".join(f"{i},{i}\n" for i in range(100)))  # once a second
    assert open_folder(tmp_path).sensors["arm"].rate_hz == 1
