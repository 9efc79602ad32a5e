"""LeRobot data sets: one written here by hand as v2.1 and as v3.0, a real one, and ways in which they are broken."""

import io
import json
import pickle
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import assert_gives_single_samples
from PIL import Image

from multisense.logs import LogError, open_log, open_logs, survey_logs
from multisense.logs.media import open_video, write_video

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FPS, LENGTHS, SIDE = 10, (12, 8, 15), 64
CAMERAS = ("observation.images.front", "observation.images.wrist")
TASKS = ("pick", "place")


def level(camera: int, episode: int, frame: int) -> int:
    """The brightness of a frame tells its camera, episode and number."""
    return 5 + 123 * camera + 40 * episode + 3 * frame


def frames(camera: int, episode: int) -> np.ndarray:
    levels = np.array([level(camera, episode, i) for i in range(LENGTHS[episode])], np.uint8)
    return np.zeros((len(levels), SIDE, SIDE, 3), np.uint8) + levels[:, None, None, None]


def state(episode: int, frame: int) -> list[float]:
    return [100.0 * episode + frame, -1.0 * frame]


FEATURES = {
    **{key: {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]} for key in CAMERAS},
    "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "elbow"]}},
    "observation.gripper": {"dtype": "float32", "shape": [1], "names": None},
    "observation.grid": {"dtype": "float64", "shape": [2, 3], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": {"elbow": 1, "shoulder": 0}},
    "observation.thumbnail": {"dtype": "image", "shape": [3, 8, 6], "names": ["channels", "height", "width"]},
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "note": {"dtype": "string", "shape": [1], "names": None},
    **{key: {"dtype": "int64", "shape": [1], "names": None} for key in ("frame_index", "episode_index", "task_index")},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
}


def thumbnail(episode: int, frame: int) -> np.ndarray:
    return np.full((8, 6, 3), 60 * episode + frame, np.uint8)


def picture(episode: int, frame: int) -> dict[str, object]:
    """As the `datasets` library keeps an image: its bytes and the name it had."""
    out = io.BytesIO()
    Image.fromarray(thumbnail(episode, frame)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": f"frame_{frame:06d}.png"}


def rows(episode: int) -> dict[str, pa.Array]:
    index = range(LENGTHS[episode])
    states = [state(episode, i) for i in index]
    return {
        "observation.state": pa.array(states, pa.list_(pa.float32())),
        "observation.gripper": pa.array([float(i) for i in index], pa.float32()),
        "observation.grid": pa.array([np.full((2, 3), float(i)).tolist() for i in index]),
        "action": pa.array(states, pa.list_(pa.float32(), 2)),
        "observation.thumbnail": pa.array(
            [picture(episode, i) for i in index], pa.struct({"bytes": pa.binary(), "path": pa.string()})
        ),
        "next.reward": pa.array([0.0 for _ in index], pa.float32()),
        "timestamp": pa.array([i / FPS for i in index], pa.float32()),
        "frame_index": pa.array(list(index)),
        "episode_index": pa.array([episode for _ in index]),
        "task_index": pa.array([episode % 2 if episode < 2 else i // 8 for i in index]),
    }


def info(version: str, data_path: str, video_path: str) -> dict:
    totals = {"total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "chunks_size": 1000}
    paths = {"data_path": data_path, "video_path": video_path}
    return {"codebase_version": version, "fps": FPS, "features": FEATURES, **totals, **paths}


def write_table(path: Path, columns: dict[str, object], **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def write_frames(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(str(path), images, FPS, group=2)


def write_v3(root: Path) -> None:
    """All episodes in one parquet file; the videos of the first two in one file, the third in another."""
    video_path = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    data_path = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    tables = [pa.table(rows(e)) for e in range(3)]
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet", row_group_size=9)
    columns = {
        "episode_index": [0, 1, 2],
        "length": list(LENGTHS),
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 0],
    }
    for number, key in enumerate(CAMERAS):
        folder = root / f"videos/{key}/chunk-000"
        write_frames(folder / "file-000.mp4", np.concatenate([frames(number, 0), frames(number, 1)]))
        write_frames(folder / "file-001.mp4", frames(number, 2))
        starts = [0.0, LENGTHS[0] / FPS, 0.0]
        columns |= {
            f"videos/{key}/chunk_index": [0, 0, 0],
            f"videos/{key}/file_index": [0, 0, 1],
            f"videos/{key}/from_timestamp": starts,
            f"videos/{key}/to_timestamp": [start + length / FPS for start, length in zip(starts, LENGTHS, strict=True)],
        }
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", columns)
    write_table(root / "meta/tasks.parquet", {"task_index": [0, 1], "__index_level_0__": list(TASKS)})
    (root / "meta/info.json").write_text(json.dumps(info("v3.0", data_path, video_path)))


def write_v2(root: Path) -> None:
    """One parquet file and one video per camera and episode."""
    data_path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    for episode in range(3):
        write_table(root / f"data/chunk-000/episode_{episode:06d}.parquet", rows(episode))
        for number, key in enumerate(CAMERAS):
            write_frames(root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4", frames(number, episode))
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info("v2.1", data_path, video_path)))
    episodes = [{"episode_index": e, "tasks": [], "length": n} for e, n in enumerate(LENGTHS)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in episodes))
    tasks = [{"task_index": i, "task": task} for i, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))


@pytest.fixture(params=["v2.1", "v3.0"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def root(tmp_path: Path, version: str) -> Path:
    write_v3(tmp_path) if version == "v3.0" else write_v2(tmp_path)
    return tmp_path


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    write_v2(tmp_path)
    return tmp_path


@pytest.fixture
def v3(tmp_path: Path) -> Path:
    write_v3(tmp_path)
    return tmp_path


def test_every_episode_is_a_log_with_named_sensors(root: Path) -> None:
    logs = open_logs(root)
    assert [log.name for log in logs] == ["episode_000000", "episode_000001", "episode_000002"]
    for log, length in zip(logs, LENGTHS, strict=True):
        assert set(log.sensors) == {"front", "wrist", "thumbnail", "state", "gripper", "grid", "action"}
        assert {sensor.count for sensor in log.sensors.values()} == {length}
        assert log.sensors["state"].stop_s == pytest.approx(length / FPS)
    sensors = logs[0].sensors
    assert (sensors["front"].modality, sensors["front"].shape) == ("video", (SIDE, SIDE, 3))
    assert (sensors["thumbnail"].modality, sensors["thumbnail"].shape) == ("video", (8, 6, 3))
    assert (sensors["state"].modality, sensors["state"].rate_hz) == ("proprio", FPS)
    assert sensors["state"].channels == sensors["action"].channels == ("shoulder", "elbow")
    assert (sensors["gripper"].shape, sensors["grid"].shape, sensors["gripper"].channels) == ((1,), (2, 3), ())
    assert len({log.fingerprint() for log in logs}) == 3


def test_what_is_left_out_is_said(root: Path) -> None:
    skipped = getattr(open_logs(root)[0], "skipped", {})
    assert skipped["next.reward"] == skipped["timestamp"] == "bookkeeping"
    assert "string" in skipped["note"]


@pytest.mark.parametrize(("start", "stop"), [(0.0, 9.0), (0.25, 0.6), (0.3, 0.31), (0.7, 0.7), (5.0, 6.0)])
def test_every_sensor_reads_its_own_episode(root: Path, start: float, stop: float) -> None:
    for episode, log in enumerate(open_logs(root)):
        wanted = [i for i in range(LENGTHS[episode]) if start <= float(np.float32(i / FPS)) < stop]
        for number, camera in enumerate(("front", "wrist")):
            stream = log.read(camera, start, stop)
            levels = stream.data.mean(axis=(1, 2, 3))
            np.testing.assert_allclose(levels, [level(number, episode, i) for i in wanted], atol=1.4)
        values = log.read("state", start, stop)
        assert values.data.tolist() == log.read("action", start, stop).data.tolist()
        assert values.data.tolist() == [state(episode, i) for i in wanted]
        np.testing.assert_allclose(values.times_s, [i / FPS for i in wanted], atol=1e-6)
        assert log.read("gripper", start, stop).data.tolist() == [[i] for i in wanted]
        pictures = log.read("thumbnail", start, stop)
        np.testing.assert_array_equal(
            pictures.data, np.array([thumbnail(episode, i) for i in wanted]).reshape(-1, 8, 6, 3)
        )
        np.testing.assert_array_equal(pictures.times_s, values.times_s)
        assert log.read("grid", start, stop).data.tolist() == [np.full((2, 3), i).tolist() for i in wanted]


def test_single_samples_are_those_of_a_range(root: Path) -> None:
    for log in open_logs(root):
        assert_gives_single_samples(log)


def test_tasks_are_labels(root: Path) -> None:
    one, two, both = (log.labels["task"] for log in open_logs(root))
    assert (int(one.data), one.times_s, one.classes, one.is_class) == (0, None, TASKS, True)
    assert (int(two.data), two.reduce) == (1, "unique")
    assert both.data.tolist() == [0] * 8 + [1] * 7
    assert both.times_s is not None
    assert len(both.times_s) == 15


def test_logs_pickle_and_read_after(root: Path) -> None:
    log = open_logs(root)[1]
    copy = pickle.loads(pickle.dumps(log))
    np.testing.assert_array_equal(copy.read("wrist", 0, 1).data, log.read("wrist", 0, 1).data)


def test_clashing_names_keep_all_their_parts(v2: Path) -> None:
    keys = {"observation.left.force": "observation.state", "observation.right.force": "action"}
    for path in sorted((v2 / "data").glob("*/*.parquet")):
        table = pq.read_table(path)
        pq.write_table(
            table.rename_columns([{v: k for k, v in keys.items()}.get(n, n) for n in table.column_names]), path
        )
    edit_info(v2, lambda i: i["features"].update({new: i["features"].pop(old) for new, old in keys.items()}))
    assert {"observation_left_force", "observation_right_force"} < set(open_logs(v2)[0].sensors)


# Sound

SOUND, SOUND_HZ = "observation.audio.desk", 8000


def tone(episode: int) -> np.ndarray:
    """(N, 2) int16: the number of the sample, and that of the episode."""
    index = np.arange(LENGTHS[episode] * SOUND_HZ // FPS)
    return np.stack([index, np.full_like(index, 1000 * episode)], 1).astype(np.int16)


def write_sound(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, SOUND_HZ, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


def add_sound(root: Path, version: str) -> None:
    """As pull request 967 of LeRobot lays it out, but as WAV, so that every sample is known."""
    detail = {"audio.sample_rate": SOUND_HZ, "audio.channels": 2}
    feature = {"dtype": "audio", "shape": [2], "names": ["channels"], "info": detail}
    if version == "v2.1":
        template = "audio/chunk-{episode_chunk:03d}/{audio_key}/episode_{episode_index:06d}.wav"
        for episode in range(3):
            write_sound(root / f"audio/chunk-000/{SOUND}/episode_{episode:06d}.wav", tone(episode))
    else:
        template = "audio/{audio_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.wav"
        write_sound(root / f"audio/{SOUND}/chunk-000/file-000.wav", np.concatenate([tone(e) for e in range(3)]))
        stops = np.cumsum(LENGTHS) / FPS
        columns = {"chunk_index": [0] * 3, "file_index": [0] * 3, "from_timestamp": [0.0, *stops[:2]]}
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        table = pq.read_table(path)
        for name, column in (columns | {"to_timestamp": stops}).items():
            table = table.append_column(f"audio/{SOUND}/{name}", pa.array(column))
        pq.write_table(table, path)
    edit_info(root, lambda i: i.update(audio_path=template))
    edit_info(root, lambda i: i["features"].update({SOUND: feature}))


@pytest.mark.parametrize(("start", "stop"), [(0.0, 9.0), (0.25, 0.6), (0.3, 0.3001), (5.0, 6.0)])
def test_sound_keeps_its_own_rate(root: Path, version: str, start: float, stop: float) -> None:
    add_sound(root, version)
    for episode, log in enumerate(open_logs(root)):
        sensor, wanted = log.sensors["desk"], tone(episode)
        assert (sensor.modality, sensor.rate_hz, sensor.shape, sensor.count) == ("audio", 8000, (2,), len(wanted))
        times = np.arange(len(wanted)) / SOUND_HZ
        inside = (times >= start) & (times < stop)
        stream = pickle.loads(pickle.dumps(log)).read("desk", start, stop)
        np.testing.assert_array_equal(np.round(stream.data * 32768), wanted[inside])
        np.testing.assert_allclose(stream.times_s, times[inside], atol=1e-9)
    assert len({log.fingerprint() for log in open_logs(root)}) == 3


def test_sound_encoded_as_lerobot_does(v2: Path) -> None:
    """Without `audio_path`, AAC in .m4a where LeRobot has it: the length and the rate are checked, not the samples."""
    add_sound(v2, "v2.1")
    for path in sorted(v2.glob("audio/*/*/*.wav")):
        with av.open(str(path)) as source, av.open(str(path.with_suffix(".m4a")), "w") as out:
            stream = out.add_stream("aac", rate=SOUND_HZ, layout="stereo")
            for frame in source.decode(audio=0):
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    edit_info(v2, lambda i: i.pop("audio_path"))
    log = open_logs(v2)[0]
    assert (log.sensors["desk"].rate_hz, log.sensors["desk"].start_s) == (8000, 0.0)
    assert len(log.read("desk", 0.5, 0.75).data) == 2000


def test_missing_or_broken_sound(v2: Path) -> None:
    add_sound(v2, "v2.1")
    first, second, _ = sorted(v2.glob("audio/*/*/*.wav"))
    first.unlink()
    second.write_bytes(b"no sound")
    errors = survey_logs(v2)[1]
    assert "found no such file; expected a file of episode_000000" in str(errors["episode_000000"])
    assert "found undecodable sound" in str(errors["episode_000001"])


def test_an_episode_table_without_sound(v3: Path) -> None:
    add_sound(v3, "v3.0")
    path = v3 / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns([f"audio/{SOUND}/to_timestamp"]), path)
    with pytest.raises(LogError, match=r"file-000\.parquet: found no columns \['audio/observation.audio.desk/to_time"):
        open_logs(v3)


def test_a_part_of_the_sound_that_is_not_there(v3: Path) -> None:
    add_sound(v3, "v3.0")
    write_sound(v3 / f"audio/{SOUND}/chunk-000/file-000.wav", tone(0))
    errors = survey_logs(v3)[1]
    assert sorted(errors) == ["episode_000001", "episode_000002"]
    assert "found no sample between 1.2 and 2 s" in str(errors["episode_000001"])


# Broken data sets


def change_pictures(root: Path, change: Callable[[list], object]) -> None:
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    pictures = table["observation.thumbnail"].to_pylist()
    change(pictures)
    column = pa.array(pictures, table.schema.field("observation.thumbnail").type)
    pq.write_table(
        table.set_column(table.column_names.index("observation.thumbnail"), "observation.thumbnail", column), path
    )


def test_images_that_are_none(v2: Path) -> None:
    change_pictures(v2, lambda p: p[3].update(bytes=None))
    log = open_logs(v2)[0]
    assert len(log.read("thumbnail", 0, 0.3).data) == 3
    with pytest.raises(
        LogError, match=r"episode_000000\.parquet: observation\.thumbnail, row 3: found .*expected the byt"
    ):
        log.read("thumbnail", 0, 0.4)
    change_pictures(v2, lambda p: p[3].update(bytes=p[2]["bytes"][:40]))
    with pytest.raises(LogError, match=r"thumbnail of episode_000000, image 3: found undecodable image bytes"):
        open_logs(v2)[0].read("thumbnail", 0, 0.4)
    edit_info(v2, lambda i: i["features"]["observation.thumbnail"].update(shape=[3, 9, 9]))
    with pytest.raises(LogError, match=r"image 0: found shape \(8, 6, 3\); expected \(9, 9, 3\)"):
        open_logs(v2)[0].read("thumbnail", 0, 0.4)
    edit_info(v2, lambda i: i["features"]["observation.thumbnail"].update(shape=[3, 10**9, 10**9]))
    assert "frames of shape" in getattr(open_logs(v2)[0], "skipped", {})["observation.thumbnail"]


def test_images_that_are_not_there(v2: Path) -> None:
    path = v2 / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["observation.thumbnail"]), path)
    with pytest.raises(LogError, match=r"episode_000001\.parquet: found no columns \['observation\.thumbnail'\]"):
        open_logs(v2)


def test_damaged_pages_of_a_parquet_file(v2: Path) -> None:
    path = v2 / "data/chunk-000/episode_000000.parquet"
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"episode_000000\.parquet"):
        open_logs(v2)[0].read("thumbnail", 0, 9)


@pytest.mark.parametrize("text", ['{"episode_index": "x"}', '{"episode_index": null}', "[" * 200_000])
def test_an_absurd_episode_list(v2: Path, text: str) -> None:
    (v2 / "meta/episodes.jsonl").write_text(text)
    with pytest.raises(LogError, match=r"episodes\.jsonl"):
        open_logs(v2)


def test_lists_that_are_no_text(v2: Path) -> None:
    (v2 / "meta/tasks.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(LogError, match=r"tasks\.jsonl: found no readable text"):
        open_logs(v2)


@pytest.mark.parametrize("values", [["x"] * 12, [None] * 12, [[1.0]] * 12, [{"a": 1}] * 12])
@pytest.mark.parametrize("column", ["timestamp", "task_index"])
def test_columns_of_another_kind(v2: Path, column: str, values: list) -> None:
    path = v2 / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values)), path)
    assert r"episode_000000.parquet" in str(survey_logs(v2)[1]["episode_000000"])


def test_a_kind_of_number_that_there_is_not(v2: Path) -> None:
    edit_info(v2, lambda i: i["features"]["action"].update(dtype="float99"))
    assert "float99" in str(survey_logs(v2)[1]["episode_000000"])


def test_an_absurd_task_list(v2: Path) -> None:
    (v2 / "meta/tasks.jsonl").write_text('{"task_index": 1000000000000, "task": "x"}')
    with pytest.raises(LogError, match="found task_index 1000000000000"):
        open_logs(v2)


def edit_info(root: Path, change: Callable[[dict], object]) -> None:
    path = root / "meta/info.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


BAD_INFO: dict[str, tuple[Callable[[dict], object], str]] = {
    "version": (
        lambda i: i.update(codebase_version="v1.6"),
        r"found codebase_version='v1\.6'; expected one of .*v3\.0",
    ),
    "no version": (lambda i: i.pop("codebase_version"), "found codebase_version=None"),
    "no fps": (lambda i: i.pop("fps"), "found fps=None; expected int or float"),
    "fps 0": (lambda i: i.update(fps=0), "found fps=0; expected a positive number"),
    "no features": (lambda i: i.pop("features"), "found features=None"),
    "no shape": (lambda i: i["features"]["action"].pop("shape"), r"features\.action: found .*expected dtype and shape"),
    "episodes": (
        lambda i: i.update(total_episodes=7),
        "found total_episodes=7; expected 3, as the episode list has it",
    ),
    "frames": (lambda i: i.update(total_frames=7), "found total_frames=7; expected 35"),
    "template": (lambda i: i.update(data_path="data/{nothing}.parquet"), "data_path: found 'data/{nothing}.parquet'"),
    "escape": (lambda i: i.update(data_path="../{episode_index}"), "data_path: found '../[0-2]' outside the data set"),
    "video": (lambda i: i.pop("video_path"), "video_path: found None; expected a template"),
    "fps 1e300": (lambda i: i.update(fps=1e300), "fps: found rate_hz=1e"),
    "shape 5": (
        lambda i: i["features"]["action"].update(shape=5),
        r"features\.action: found .*expected dtype and shape",
    ),
    "side -1": (lambda i: i["features"]["action"].update(shape=[-1, -2]), r"features\.action: found"),
    "width": (
        lambda i: i.update(data_path="{episode_index:999999999d}"),
        r"data_path: found '{episode_index:9.*expected a template",
    ),
    "name": (lambda i: i.update(data_path="n" * 2000), "data_path: found"),
}


@pytest.mark.parametrize("name", BAD_INFO)
def test_bad_info_is_refused(v2: Path, name: str) -> None:
    change, message = BAD_INFO[name]
    edit_info(v2, change)
    with pytest.raises(LogError, match=rf"info\.json.*{message}"):
        open_logs(v2)


BAD_EPISODES: dict[str, tuple[Callable[[dict], object], str]] = {
    "fps": (
        lambda i: i.update(fps=30),
        r"\.parquet: found time stamps 0\.1 s apart; expected .*info\.json says fps=30",
    ),
    "width": (
        lambda i: i["features"]["action"].update(shape=[3]),
        r"\.parquet: found \d+ values \(float\) in 1 rows of action; expected float32 of shape \(3,\)",
    ),
    "column": (
        lambda i: i["features"].update({"observation.nose": {"dtype": "float32", "shape": [2]}}),
        r"\.parquet: found no columns \['observation\.nose'\]; expected them, as info\.json says",
    ),
}


@pytest.mark.parametrize("name", BAD_EPISODES)
def test_info_that_disagrees_with_the_rows_is_refused(root: Path, name: str) -> None:
    change, message = BAD_EPISODES[name]
    edit_info(root, change)
    with pytest.raises(LogError, match=message):
        open_logs(root)


def test_missing_or_broken_meta(v2: Path) -> None:
    (v2 / "meta/info.json").write_text("{")
    with pytest.raises(LogError, match=r"info\.json: found invalid JSON"):
        open_logs(v2)
    (v2 / "meta/info.json").unlink()
    with pytest.raises(LogError, match=r"info\.json: found no such file; expected the info\.json of a LeRobot root"):
        open_logs(v2)


def test_a_missing_or_broken_episode_list(v2: Path) -> None:
    (v2 / "meta/episodes.jsonl").write_text('{"episode_index": 0}\nnonsense\n')
    with pytest.raises(LogError, match=r"episodes\.jsonl: line 2: found invalid JSON"):
        open_logs(v2)
    (v2 / "meta/episodes.jsonl").unlink()
    with pytest.raises(LogError, match=r"episodes\.jsonl: found no such file"):
        open_logs(v2)


def test_a_missing_episode_table_of_v3(v3: Path) -> None:
    (v3 / "meta/episodes/chunk-000/file-000.parquet").unlink()
    with pytest.raises(LogError, match="found no parquet file; expected the list of episodes"):
        open_logs(v3)


def test_an_episode_table_of_v3_without_videos(v3: Path) -> None:
    path = v3 / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns([f"videos/{CAMERAS[0]}/from_timestamp"]), path)
    with pytest.raises(LogError, match=r"file-000\.parquet: found no columns \['videos/.*front/from_timestamp'\]"):
        open_logs(v3)


def test_one_missing_parquet_file_spoils_one_episode(v2: Path) -> None:
    (v2 / "data/chunk-000/episode_000001.parquet").unlink()
    logs, errors = survey_logs(v2)
    assert [log.name for log in logs] == ["episode_000000", "episode_000002"]
    assert "episode_000001.parquet: found no such file; expected a file of episode_000001, as meta/ says" in str(
        errors["episode_000001"]
    )


def test_one_missing_video_spoils_the_episodes_in_it(root: Path, version: str) -> None:
    name = "chunk-000/file-000.mp4" if version == "v3.0" else "episode_000001.mp4"
    (victim,) = (path for path in root.rglob("*.mp4") if str(path).endswith(name) and "wrist" in str(path))
    victim.unlink()
    errors = survey_logs(root)[1]
    assert sorted(errors) == (["episode_000000", "episode_000001"] if version == "v3.0" else ["episode_000001"])
    assert f"{victim}: found no such file; expected a file of episode_000001" in str(errors["episode_000001"])


def test_a_video_shorter_than_the_rows(v2: Path) -> None:
    write_frames(v2 / f"videos/chunk-000/{CAMERAS[0]}/episode_000000.mp4", frames(0, 0)[:9])
    with pytest.raises(LogError, match=r"episode_000000\.mp4: found 9 frames for the 12 rows of episode_000000"):
        open_logs(v2)[0].read("front", 0, 0.2)


def test_a_shared_video_shorter_than_its_second_episode(v3: Path) -> None:
    path = v3 / f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4"
    write_frames(path, np.concatenate([frames(0, 0), frames(0, 1)])[:15])
    first, second, _ = open_logs(v3)
    assert len(first.read("front", 0, 9).data) == 12
    with pytest.raises(LogError, match=r"file-000\.mp4: found 3 frames for the 8 rows of episode_000001"):
        second.read("front", 0, 0.2)


def test_a_video_of_another_size(v2: Path) -> None:
    write_frames(v2 / f"videos/chunk-000/{CAMERAS[0]}/episode_000000.mp4", np.zeros((12, 32, 32, 3), np.uint8))
    with pytest.raises(LogError, match=r"found frames of shape \(32, 32, 3\); expected \(64, 64, 3\), as info"):
        open_logs(v2)[0].read("front", 0, 0.2)


def test_a_video_with_a_gap(v2: Path) -> None:
    """Frames enough, but none between 0.35 and 0.8 s."""
    path = v2 / f"videos/chunk-000/{CAMERAS[0]}/episode_000000.mp4"
    stamps = [*range(0, 40, 5), *range(80, 115, 5)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"bf": "0"})
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 100)
        for stamp in stamps:
            image = av.VideoFrame.from_ndarray(np.zeros((SIDE, SIDE, 3), np.uint8), format="rgb24")
            image.pts, image.time_base = stamp, Fraction(1, 100)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    log = open_logs(v2)[0]
    assert len(log.read("front", 0.0, 0.35).data) == 4
    with pytest.raises(LogError, match=r"episode_000000\.mp4: found no frame within 0\.05 s of 0\.6000 s"):
        log.read("front", 0.0, 0.7)


def test_rows_that_disagree_with_the_episode_list(v2: Path) -> None:
    path = v2 / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 5), path)
    message = r"episode_000001\.parquet: found 5 rows of episode 1; expected 8, as meta/ says"
    with pytest.raises(LogError, match=message):
        open_logs(v2)


def test_rows_of_two_episodes_mixed(v3: Path) -> None:
    path = v3 / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    order = [*range(6), *range(12, 20), *range(6, 12), *range(20, 35)]
    pq.write_table(table.take(order), path)
    with pytest.raises(LogError, match="found rows of episode 0 between those of others"):
        open_logs(v3)


def test_a_truncated_parquet_file(v2: Path) -> None:
    path = v2 / "data/chunk-000/episode_000000.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(LogError, match=r"episode_000000\.parquet: found an unreadable parquet file"):
        open_logs(v2)


def test_times_that_run_backwards(v2: Path) -> None:
    path = v2 / "data/chunk-000/episode_000002.parquet"
    table = pq.read_table(path)
    times = np.arange(15, dtype=np.float32) / FPS
    times[[3, 4]] = times[[4, 3]]
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", pa.array(times)), path)
    with pytest.raises(LogError, match=r"timestamp of episode 2: found times not increasing: 0\.4\d* at 3, then 0\.3"):
        open_logs(v2)


def test_an_unknown_task(v2: Path) -> None:
    path = v2 / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    column = pa.array([9] * LENGTHS[0])
    pq.write_table(table.set_column(table.column_names.index("task_index"), "task_index", column), path)
    with pytest.raises(LogError, match="found task_index 9 to 9; expected one of the 2 tasks"):
        open_logs(v2)


def test_an_unknown_sensor(v2: Path) -> None:
    with pytest.raises(LogError, match=r"episode_000000: found no sensor 'nose'; expected one of \['action', 'front'"):
        open_logs(v2)[0].read("nose", 0, 1)


# A real robot


def test_real_g1_episodes(realdata: Path) -> None:
    root = realdata / "g1_lerobot_v21"
    logs = open_logs(root)
    assert len(logs) == 16
    assert sum(log.sensors["state"].count for log in logs) == 4920
    for log in logs:
        assert set(log.sensors) == {"state", "action", "cam_high"}
        assert len(log.sensors["state"].channels) == 26
        assert log.labels == {}
    stream = logs[3].read("cam_high", 1.0, 1.5)
    assert stream.data.shape == (15, 480, 640, 3)
    state_ = logs[3].read("state", 1.0, 1.5)
    np.testing.assert_array_equal(stream.times_s, state_.times_s)
    table = pq.read_table(root / "data/chunk-000/episode_000003.parquet")
    np.testing.assert_array_equal(state_.data, np.array(table["observation.state"].to_pylist(), np.float32)[30:45])


def test_real_av1_frames_are_the_same_from_both_backends(realdata: Path) -> None:
    path = str(next((realdata / "g1_lerobot_v21").rglob("episode_000000.mp4")))
    one, other = open_video(path, "pyav"), open_video(path, "decord")
    np.testing.assert_array_equal(one.frames([0, 1, 37]), other.frames([0, 1, 37]))


def test_one_episode_opens_as_one_log(realdata: Path) -> None:
    with pytest.raises(LogError, match="found 16 logs; expected one"):
        open_log(realdata / "g1_lerobot_v21")
