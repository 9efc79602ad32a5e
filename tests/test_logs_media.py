"""Video files: each frame of the test videos carries its index as brightness, so that a wrong frame shows."""

import io
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multisense.logs.base import LogError
from multisense.logs.media import DecordVideo, PyavVideo, open_video, write_video
from multisense.logs.sound import open_sound

COUNT = 60
BACKENDS = ("pyav", "decord")


def numbered_frames(count: int = COUNT, side: int = 64) -> np.ndarray:
    """Frame i is grey of level 4 i."""
    levels = (4 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, side, side, 3)).copy()


def numbers(frames: np.ndarray) -> np.ndarray:
    """The indices that the frames carry."""
    return np.round(frames.mean(axis=(1, 2, 3)) / 4).astype(int)


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("media") / "movie.mp4")
    write_video(path, numbered_frames(), 20)
    return path


def write_reordered(path: Path, codec: str, options: dict[str, str]) -> None:
    """A video as other programs write it: frames that refer forwards, long groups, another container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(20), options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for image in numbered_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_written_video_has_its_times_and_shape(movie: str, backend: str) -> None:
    video = open_video(movie, backend)
    assert video.shape == (64, 64, 3)
    np.testing.assert_allclose(video.times_s, np.arange(COUNT) / 20, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(indices=st.lists(st.integers(0, COUNT - 1), max_size=20).map(sorted), backend=st.sampled_from(BACKENDS))
def test_any_frames_asked_for_are_the_ones_returned(movie: str, backend: str, indices: list[int]) -> None:
    frames = open_video(movie, backend).frames(indices)
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), 64, 64, 3)
    assert numbers(frames).tolist() == indices if indices else True


OPEN_GROUPS = {"bf": "3", "g": "12", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}


@pytest.mark.parametrize(
    ("name", "options", "backends"),
    [
        ("closed.mp4", {"bf": "3", "g": "12"}, BACKENDS),
        ("long.mkv", {"bf": "2", "g": "60"}, BACKENDS),
        ("open.mp4", OPEN_GROUPS, ["pyav", "auto"]),
        ("open.mkv", OPEN_GROUPS, ["pyav", "auto"]),
    ],
)
def test_reordered_frames_come_out_in_presentation_order(
    tmp_path: Path, name: str, options: dict[str, str], backends: list[str]
) -> None:
    write_reordered(tmp_path / name, "libx264", options)
    for backend in backends:
        video = open_video(str(tmp_path / name), backend)
        for indices in ([0], [COUNT - 1], [10, 11, 12, 13, 14], [3, 22, 23, 40], range(0, COUNT, 7), [11, 25]):
            assert numbers(video.frames(indices)).tolist() == list(indices)


def test_decord_refuses_open_groups_which_it_would_miscount(tmp_path: Path) -> None:
    write_reordered(tmp_path / "open.mp4", "libx264", OPEN_GROUPS)
    with pytest.raises(LogError, match=r"open\.mp4: found frames before their keyframe \(h264.*Use the pyav backend"):
        open_video(str(tmp_path / "open.mp4"), "decord")


def test_both_backends_give_the_same_pixels(movie: str) -> None:
    indices = np.arange(5, 50, 3)
    np.testing.assert_array_equal(
        open_video(movie, "pyav").frames(indices), open_video(movie, "decord").frames(indices)
    )


def test_auto_takes_pyav_for_short_groups_and_decord_for_long_ones(movie: str, tmp_path: Path) -> None:
    write_video(str(tmp_path / "long.mp4"), numbered_frames(), 20, group=60)
    assert isinstance(open_video(movie), PyavVideo)
    assert isinstance(open_video(str(tmp_path / "long.mp4")), DecordVideo)


def test_auto_reads_long_groups_without_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(str(tmp_path / "long.mp4"), numbered_frames(), 20, group=60)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(open_video(str(tmp_path / "long.mp4")), PyavVideo)


def test_frames_too_narrow_for_decord_are_read_by_pyav(tmp_path: Path) -> None:
    path = str(tmp_path / "narrow.mp4")
    # How rows are padded is the processor's: 32 pixels are narrow only where it has AVX-512.
    write_video(path, numbered_frames(side=16), 20, group=60)
    with pytest.raises(LogError, match=r"narrow\.mp4: found decord frames of shape .*Use the pyav backend"):
        open_video(path, "decord")
    assert numbers(open_video(path).frames([7, 59])).tolist() == [7, 59]


def test_the_same_frames_give_the_same_bytes(movie: str, tmp_path: Path) -> None:
    write_video(str(tmp_path / "again.mp4"), numbered_frames(), 20)
    assert (tmp_path / "again.mp4").read_bytes() == Path(movie).read_bytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frame_that_is_not_there_is_named(movie: str, backend: str) -> None:
    with pytest.raises(LogError, match=r"movie\.mp4: found frames 3 to 60; expected sorted indices of its 60 frames"):
        open_video(movie, backend).frames([3, 60])
    with pytest.raises(LogError, match="sorted"):
        open_video(movie, backend).frames([3, 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_video_is_an_error_with_the_file_name(tmp_path: Path, backend: str) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(LogError, match=r"noise\.mp4: found no readable video .*; expected a whole video file"):
        open_video(str(tmp_path / "noise.mp4"), backend)
    with pytest.raises(LogError, match=r"absent\.mp4: found no readable video"):
        open_video(str(tmp_path / "absent.mp4"), backend)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_truncated_mp4_is_an_error_with_the_file_name(movie: str, tmp_path: Path, backend: str, share: float) -> None:
    whole = Path(movie).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LogError, match=r"cut\.mp4"):
        open_video(str(tmp_path / "cut.mp4"), backend).frames(range(COUNT))


def test_damaged_packets_are_an_error_with_codec_and_frame(movie: str, tmp_path: Path) -> None:
    data = bytearray(Path(movie).read_bytes())
    middle = (data.index(b"mdat") + data.index(b"moov")) // 2
    data[middle : middle + 400] = bytes(400)
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(LogError, match=r"damaged\.mp4: found .*h264"):
        open_video(str(tmp_path / "damaged.mp4"), "pyav").frames(range(COUNT))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((3, 32, 32, 3), np.float32), "float32 frames"),
        (np.zeros((3, 32, 32), np.uint8), r"shape \(3, 32, 32\)"),
        (np.zeros((3, 31, 32, 3), np.uint8), "31 x 32 pixels; expected even sides"),
    ],
)
def test_frames_that_cannot_be_encoded_are_refused(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with pytest.raises(LogError, match=message):
        write_video(str(tmp_path / "x.mp4"), frames, 20)


@pytest.mark.parametrize("backend", BACKENDS)
def test_real_video_whose_first_stamp_is_not_zero(realdata: Path, backend: str) -> None:
    video = open_video(str(realdata / "nasa_av" / "test_non_zero_start.mp4"), backend)
    assert len(video.times_s) == 12
    np.testing.assert_allclose(video.times_s[[0, -1]], [8.333008, 8.699674], atol=1e-5)  # ffprobe's pts_time


def test_real_video_of_several_tracks_reads_alike_in_both_backends(realdata: Path) -> None:
    one, other = (open_video(str(realdata / "nasa_av" / "nasa_13013.mp4"), backend) for backend in BACKENDS)
    assert one.shape == other.shape == (270, 480, 3)
    np.testing.assert_array_equal(one.frames([0, 100, 101, 389]), other.frames([0, 100, 101, 389]))


def test_the_first_real_sound_track_is_the_one_read(realdata: Path) -> None:
    sound = open_sound(str(realdata / "nasa_av" / "nasa_13013.mp4"))
    assert (sound.rate_hz, sound.channels) == (8000, 2)
    assert sound.count / sound.rate_hz == pytest.approx(13.0, abs=0.15)
    assert sound.anchors[0].tolist() == [0, 0]
    samples = sound.read(0, sound.count)
    assert samples.shape == (sound.count, 2)
    assert 0.001 < np.abs(samples).max() <= 1.5


def test_a_missing_sound_track_is_named(movie: str) -> None:
    with pytest.raises(LogError, match=r"movie\.mp4: found no sound; expected a sound track"):
        open_sound(movie)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {}\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_lists_of_other_files_are_not_followed(movie: str, tmp_path: Path, kind: str) -> None:
    """FFmpeg would open whatever they name, wherever it is."""
    (tmp_path / "x.mp4").write_bytes(Path(movie).read_bytes())
    path = tmp_path / "list.mp4"
    path.write_text(PLAYLISTS[kind].format("x.mp4"))
    for read in (lambda: open_video(str(path)), lambda: open_sound(str(path))):
        with pytest.raises(LogError, match=r"list\.mp4: found"):
            read()


def wav(samples: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * samples))
    return out.getvalue()


@pytest.mark.parametrize("data", [b"", wav(0), wav(100)[:40], b"ID3\x04" * 500], ids=["none", "empty", "cut", "junk"])
def test_broken_sound_is_an_error_with_the_file_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mic.wav").write_bytes(data)
    with pytest.raises(LogError, match=r"mic\.wav: found"):
        open_sound(str(tmp_path / "mic.wav"))


def test_a_frame_of_absurd_size_is_refused(movie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multisense.logs.media.MOST_BYTES", 1000)
    with pytest.raises(LogError, match=r"movie\.mp4: found frames of shape .*; expected pictures"):
        open_video(movie)
