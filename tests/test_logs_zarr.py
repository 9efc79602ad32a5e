"""Replay buffers written by zarr itself, laid out as Diffusion Policy, UMI and ManiWAV publish them."""

import json
import multiprocessing
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_gives_single_samples

from multisense.logs import LogError
from multisense.logs.formats.zarr_buffer import candidates, recognises
from multisense.logs.pool import POOL

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")

ENDS = (7, 19)
RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 255, (19, 8, 6, 3), dtype=np.uint8)
POSITIONS = RNG.normal(size=(19, 3)).astype(np.float32)
SOUND = RNG.uniform(-1, 1, (19, 800))


def write(
    path: Path, arrays: dict[str, np.ndarray], ends: tuple[int, ...] = ENDS, attributes: dict | None = None
) -> Path:
    """A version 2 store, one row a chunk for images and four for the rest; a zip where the name says so."""
    kind = zarr.storage.ZipStore if path.suffix == ".zip" else zarr.storage.LocalStore
    store = kind(path, read_only=False, **({"mode": "w"} if path.suffix == ".zip" else {}))
    root = zarr.create_group(store, zarr_format=2, attributes=attributes or {})
    data, meta = root.create_group("data"), root.create_group("meta")
    for key, values in arrays.items():
        chunks = (1 if values.ndim == 4 else 4, *values.shape[1:])
        compressor = numcodecs.Blosc() if values.ndim == 4 else None
        data.create_array(key, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=compressor)[:] = (
            values
        )
    meta.create_array("episode_ends", shape=(len(ends),), dtype="int64", compressors=None)[:] = np.array(ends)
    store.close()
    return path


UMI = {
    "camera0_rgb": IMAGES,
    "mic_0": SOUND,
    "robot0_eef_pos": POSITIONS,
    "robot0_gripper_width": POSITIONS[:, :1],
    "robot0_demo_end_pose": np.ones((19, 6)),
}


@pytest.mark.parametrize("name", ["umi.zarr", "umi.zarr.zip"])
def test_an_episode_has_its_rows_of_every_array(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, UMI)
    assert recognises(path)
    openers = candidates(path)
    assert list(openers) == ["episode_000000", "episode_000001"]
    log = openers["episode_000001"]()
    assert_gives_single_samples(log)
    assert log.sensors["camera0_rgb"].modality == "video"
    assert log.sensors["camera0_rgb"].shape == (8, 6, 3)
    assert log.sensors["robot0_eef_pos"].rate_hz == 60
    frames = log.read("camera0_rgb", 2 / 60 - 1e-6, 5 / 60 - 1e-6)
    np.testing.assert_array_equal(frames.data, IMAGES[9:12])
    np.testing.assert_allclose(frames.times_s, np.arange(2, 5) / 60, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(log.read("robot0_eef_pos", 0, 1).data, POSITIONS[7:])
    assert "60 Hz assumed" in log.notes["camera0_rgb"]
    assert "no measurement" in log.skipped["robot0_demo_end_pose"]
    first = openers["episode_000000"]()
    np.testing.assert_array_equal(first.read("camera0_rgb", 0, 1).data, IMAGES[:7])
    assert first.fingerprint() != log.fingerprint()
    again = pickle.loads(pickle.dumps(log))
    np.testing.assert_array_equal(again.read("camera0_rgb", 0, 1).data, IMAGES[7:])


def test_blocks_of_sound_are_one_stream(tmp_path: Path) -> None:
    log = candidates(write(tmp_path / "umi.zarr", UMI))["episode_000001"]()
    sound = log.sensors["mic_0"]
    assert (sound.modality, sound.rate_hz, sound.shape, sound.count) == ("audio", 48000, (), 12 * 800)
    piece = log.read("mic_0", 479.5 / 48000, 2399.5 / 48000)
    np.testing.assert_array_equal(piece.data, SOUND[7:].reshape(-1)[480:2400])
    np.testing.assert_allclose(piece.times_s, np.arange(480, 2400) / 48000, rtol=0, atol=1e-12)
    assert len(log.read("mic_0", 3, 4).data) == 0


def test_the_rate_is_that_of_an_attribute(tmp_path: Path) -> None:
    log = candidates(write(tmp_path / "a.zarr", {"mic_0": SOUND, "img": IMAGES}, attributes={"fps": 30}))[
        "episode_000000"
    ]()
    assert (log.sensors["img"].rate_hz, log.sensors["mic_0"].rate_hz) == (30, 24000)
    assert "'fps'" in log.notes["img"]
    plain = candidates(write(tmp_path / "b.zarr", {"img": IMAGES}))["episode_000000"]()
    assert plain.sensors["img"].rate_hz == 10


def test_stamps_of_a_real_robot_are_taken(tmp_path: Path) -> None:
    stamps = 1.7e9 + np.arange(19) * 0.1 + RNG.uniform(0, 0.02, 19)
    path = write(tmp_path / "real.zarr", {"timestamp": stamps, "action": POSITIONS, "mic_0": SOUND})
    log = candidates(path)["episode_000001"]()
    assert set(log.sensors) == {"action", "mic_0"}
    stream = log.read("action", 0, 9)
    np.testing.assert_allclose(stream.times_s, stamps[7:] - stamps[7], rtol=0, atol=1e-9)
    sound = log.read("mic_0", -1, 9)
    np.testing.assert_array_equal(sound.data, SOUND[7:].reshape(-1))
    np.testing.assert_allclose(sound.times_s[::800], stamps[7:] - stamps[7], rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_float_images_become_bytes(tmp_path: Path, scale: float) -> None:
    path = write(tmp_path / "pusht.zarr", {"img": (IMAGES * scale).astype(np.float32), "state": POSITIONS[:, 0]})
    log = candidates(path)["episode_000001"]()
    assert log.sensors["img"].dtype == "uint8"
    np.testing.assert_array_equal(log.read("img", 0, 9).data, IMAGES[7:])
    assert f"times {1 / scale:g}" in log.notes["img"]
    assert log.read("state", 0, 9).data.shape == (12, 1)


def test_jpeg_xl_as_umi_packs_it(tmp_path: Path) -> None:
    codecs = pytest.importorskip("imagecodecs.numcodecs")
    codecs.register_codecs(["imagecodecs_jpegxl"], force=True, verbose=False)
    path = write(tmp_path / "umi.zarr", {"robot0_eef_pos": POSITIONS})
    root = zarr.open_group(path, mode="a")
    image = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 7, (1, 32, 3))
    frames = np.stack([image + k for k in range(19)]).astype(np.uint8)
    packed = root["data"].create_array(
        "camera0_rgb", shape=frames.shape, dtype="uint8", chunks=(1, 32, 32, 3), compressors=codecs.Jpegxl(level=99)
    )
    packed[:] = frames
    log = candidates(path)["episode_000001"]()
    difference = log.read("camera0_rgb", 0, 1).data.astype(int) - frames[7:]
    assert np.abs(difference).max() <= 8


def test_a_missing_codec_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "umi.zarr", {"camera0_rgb": IMAGES})
    change(path / "data/camera0_rgb/.zarray", compressor={"id": "imagecodecs_nothing"})
    with pytest.raises(LogError, match=r"imagecodecs_nothing.*pip install imagecodecs"):
        candidates(path)


def test_what_is_no_row_of_numbers_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", {"action": POSITIONS, "short": POSITIONS[:10], "name": np.array([b"x"] * 19)})
    log = candidates(path)["episode_000000"]()
    assert set(log.skipped) == {"short", "name"}
    assert "row 19" in log.skipped["short"]


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_absurd_sizes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", {"action": POSITIONS})
    meta = path / "data/action/.zarray"
    change(meta, shape=[10**12, 3])
    with pytest.raises(LogError, match="claimed by shape"):
        candidates(path)
    change(meta, shape=[19, 3], chunks=[10**12, 3])
    POOL.close()
    with pytest.raises(LogError, match="chunks of"):
        candidates(path)
    change(path / "meta/episode_ends/.zarray", shape=[10**9], chunks=[10**6])
    POOL.close()
    with pytest.raises(LogError, match="episode_ends"):
        candidates(path)


def test_ends_that_do_not_increase_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="increasing row numbers"):
        candidates(write(tmp_path / "a.zarr", {"action": POSITIONS}, ends=(10, 7)))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", {"action": POSITIONS})
    (path / "data/action/0.0").unlink()
    (path / "data/action/0.0").symlink_to("/dev/zero")
    with pytest.raises(LogError, match="a link"):
        candidates(path)


def test_damaged_chunks_and_zips_are_log_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", {"img": IMAGES})
    (path / "data/img/8.0.0.0").write_bytes(b"\x02\x01\x01\x01" + b"\xff" * 12)
    log = candidates(path)["episode_000001"]()
    with pytest.raises(LogError, match="data/img"):
        log.read("img", 0, 9)
    whole = write(tmp_path / "b.zarr.zip", {"img": IMAGES}).read_bytes()
    for n in range(60):
        data = bytearray(whole)
        for _ in range(3):
            data[RNG.integers(len(data))] ^= 1 << RNG.integers(8)
        file = tmp_path / f"flip{n}.zarr.zip"
        file.write_bytes(data if n % 3 else data[: RNG.integers(len(data))])
        read_all(file)


def read_all(path: Path) -> None:
    """Data or a LogError, nothing else."""
    if not recognises(path):
        return
    try:
        for opener in candidates(path).values():
            log = opener()
            for sensor in log.sensors:
                log.read(sensor, 0, 10)
    except LogError:
        pass


def test_what_is_no_buffer_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("data/x", b"")
    for path in (tmp_path, tmp_path / "a.zip", tmp_path / "missing"):
        assert not recognises(path)


def test_a_forked_worker_reads_too(tmp_path: Path) -> None:
    log = candidates(write(tmp_path / "a.zarr", {"img": IMAGES}))["episode_000000"]()
    log.read("img", 0, 9)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=lambda: queue.put(log.read("img", 0, 9).data))
    worker.start()
    np.testing.assert_array_equal(queue.get(timeout=20), IMAGES[:7])
    worker.join(20)


@pytest.mark.parametrize(("shape", "chunks"), [([], []), ([0, 3], [0, 3]), ([19, 0], [4, 0])])
def test_arrays_without_chunks_are_skipped(tmp_path: Path, shape: list[int], chunks: list[int]) -> None:
    path = write(tmp_path / "a.zarr", {"img": IMAGES})
    form = {"compressor": None, "dtype": "<f8", "fill_value": 0, "filters": None, "order": "C", "zarr_format": 2}
    (path / "data/odd").mkdir()
    (path / "data/odd/.zarray").write_text(json.dumps({"shape": shape, "chunks": chunks, **form}))
    log = candidates(path)["episode_000000"]()
    assert "odd" in log.skipped
    assert log.fingerprint()
