"""A configuration from data: what is guessed and why, and that it trains as it is."""

import os
import shutil
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ArrayLog, body_log
from typer.testing import CliRunner

from multisense.cli import app
from multisense.clips import read_clip
from multisense.config import ConfigError
from multisense.embed import embed_path
from multisense.logs import LogError, Recording, open_logs, write_log
from multisense.logs.media import write_video
from multisense.run import RunConfig, build_model, load_config, make_grids
from multisense.suggest import suggest, write_config
from multisense.suggest.configuration import hold_out
from multisense.suggest.kinds import guess_kind
from multisense.suggest.text import scalar
from multisense.train import train
from multisense.types import SensorInfo


def info(name: str = "x", modality: str = "", rate: float = 100.0, shape: tuple[int, ...] = (6,), **more) -> SensorInfo:
    form = {"dtype": "float32", "start_s": 0.0, "stop_s": 10.0, "count": round(10 * rate), **more}
    return SensorInfo(name, modality, rate, shape, **form)


@pytest.mark.parametrize(
    ("sensor", "kind", "is_doubtful"),
    [
        (info("anything", "touch"), "touch", False),
        (info("left_tactile", "proprio"), "touch", True),
        (info("digit_left", "video", 30.0, (320, 240, 3), dtype="uint8"), "touch", True),
        (info("digital_out", "proprio"), "proprio", False),
        (info("front", "", 30.0, (480, 640, 3), dtype="uint8"), "video", False),
        (info("front", "", 30.0, (480, 640, 1), dtype="uint8"), "video", True),
        (info("gelsight", "", 30.0, (240, 320, 3), dtype="uint8"), "touch", True),
        (info("mic", "", 16000.0, (2,)), "audio", False),
        (info("ch1", "", 44100.0, ()), "audio", True),
        (info("ch1", "", 44100.0, (), units="full scale"), "audio", False),
        (info("imu", "", 8000.0, (6,)), "proprio", False),
        (info("mic", "", 100.0, (2,)), "proprio", True),
        (info("leftFingerTip"), "touch", False),
        (info("force_pad"), "touch", False),
        (info("palm", "", 100.0, (4, 4, 3)), "touch", True),
        (info("palm", "", 100.0, (24,), units="kPa"), "touch", True),
        (info("wrist_force", "", 100.0, (6,), units="N"), "proprio", False),
        (info("observation.state"), "proprio", False),
        (info("a", units="rad, rad/s"), "proprio", False),
        (info("a"), "proprio", True),
        (info("scan", "", 10.0, (1081,)), "proprio", True),
        (info("depth", "video", 30.0, (480, 640, 1), dtype="uint16"), "", False),
        (info("words", "", 1.0, (1,), dtype="object"), "", False),
        (info("heat", "thermal"), "proprio", True),
    ],
    ids=lambda value: value.name if isinstance(value, SensorInfo) else str(value),
)
def test_kinds_are_guessed(sensor: SensorInfo, kind: str, is_doubtful: bool) -> None:
    guess = guess_kind(sensor)
    assert (guess.kind, guess.is_doubtful) == (kind, is_doubtful)
    assert guess.why


def read(text: str, path: Path) -> RunConfig:
    path.write_text(text)
    return load_config(path)


@dataclass
class Body:
    """Six logs of a body, in which a test changes sensors before it asks for a configuration."""

    logs: list[ArrayLog] = field(default_factory=lambda: [body_log(n) for n in range(6)])

    def put(self, name: str, make: Callable[[int], tuple], which: range = range(6)) -> None:
        for number in which:
            self.logs[number].streams = {**self.logs[number].streams, name: make(number)}


def signal(rate: float, seconds: float = 3.0, start: float = 0.0, columns: int = 2, modality: str = "") -> tuple:
    times = start + np.arange(round(seconds * rate)) / rate
    data = np.random.default_rng(0).normal(size=(len(times), columns)).astype(np.float32)
    return modality, rate, times, data


def test_a_body_gets_a_configuration(tmp_path: Path) -> None:
    logs = Body().logs
    text = suggest(logs, "some/logs")
    config = read(text, tmp_path / "my.yaml")
    assert config.data.train == "some/logs"
    assert {name: sensor.kind for name, sensor in config.sensors.items()} == {
        "eye": "video", "ear": "audio", "pad": "touch", "arm": "proprio"
    }  # fmt: skip
    assert config.data.clip_seconds == 2.0
    assert config.data.hold_out == ["body-005"]
    assert config.data.in_memory
    model = build_model(config, make_grids(config, logs), seed=0)
    assert 60 <= len(model.layout) <= 150
    written = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    bare = [line for line in written if "#" not in line]
    assert {line.split(":")[0].strip() for line in bare} <= {"data", "sensors", "objective", "train", "- body-005"}


def test_tokens_said_are_those_of_the_model(tmp_path: Path) -> None:
    logs = Body().logs
    text = suggest(logs, "logs")
    config = read(text, tmp_path / "my.yaml")
    model = build_model(config, make_grids(config, logs), seed=0)
    said = [int(line.split(" tokens a clip")[0].split()[-1]) for line in text.splitlines() if " tokens a clip" in line]
    assert said == [len(model.tokenizer(name)) for name in model.names]


def test_a_command_is_no_sense_and_is_said_to_be_doubtful() -> None:
    body = Body()
    for name in ("action", "jointTargets", "reaction_wheel"):
        body.put(name, lambda n: signal(50.0, modality="proprio"))
    text = suggest(body.logs, "logs")
    marked = [line.split(":")[0].strip() for line in text.splitlines() if "doubtful: by its name a command" in line]
    assert marked == ["action", "jointTargets"]


def test_what_cannot_be_used_is_listed_with_the_reason(tmp_path: Path) -> None:
    body = Body()
    body.put("still", lambda n: ("proprio", 50.0, np.arange(150) / 50, np.full((150, 3), 0.5)))
    body.put("rare", lambda n: signal(50.0), range(1))
    body.put("gps", lambda n: signal(0.5))
    body.put("torn", lambda n: ("", 50.0, np.arange(150) / 50, np.full((150, 2), np.nan)))
    body.put("late", lambda n: signal(50.0, seconds=0.1, start=2.9))
    body.put("grown", lambda n: signal(50.0, columns=2 + n))
    body.put("depth", lambda n: ("video", 10.0, np.arange(30) / 10, np.zeros((30, 32, 32, 1), np.uint16)))
    body.put("deep", lambda n: ("proprio", 50.0, np.arange(150) / 50, np.arange(600.0).reshape(150, 2, 2)))
    text = suggest(body.logs, "logs")
    config = read(text, tmp_path / "my.yaml")
    assert list(config.sensors) == ["eye", "ear", "pad", "arm"]
    notes = text.split("# sensors not used:")[1]
    for name, why in {
        "still": "constant", "rare": "in 1 of 5 logs only", "gps": "0.5 Hz is too slow", "torn": "NaN",
        "late": "together", "grown": "differ between logs: 2 and 3", "depth": "uint16", "deep": "expects vectors",
    }.items():  # fmt: skip
        (line,) = [line for line in notes.splitlines() if line.startswith(f"#   {name}: ")]
        assert why in line


def test_nothing_usable_is_an_error() -> None:
    still = ("proprio", 50.0, np.arange(150) / 50, np.zeros((150, 3)))
    with pytest.raises(LogError, match=r"no sensor that can be learnt from.*arm: constant"):
        suggest([ArrayLog("a", {"arm": still})], "logs")
    with pytest.raises(LogError, match="too slow"):
        suggest([ArrayLog("a", {"arm": signal(0.5, 7.0)})], "logs")


def test_logs_of_another_body_are_an_error() -> None:
    logs = [*Body().logs, ArrayLog("other", {"leg": signal(50.0)})]
    with pytest.raises(LogError, match="1 of 7 logs have none of the sensors"):
        suggest(logs, "logs")


@pytest.mark.parametrize(("seconds", "clip"), [(3.0, 2.0), (2.0, 2.0), (1.2, 0.9), (0.8, 0.6), (0.1, 0.07)])
def test_clips_are_as_long_as_most_logs_allow(seconds: float, clip: float, tmp_path: Path) -> None:
    logs = [ArrayLog(str(n), {"arm": signal(100.0, seconds)}) for n in range(5)]
    assert read(suggest(logs, "logs"), tmp_path / "my.yaml").data.clip_seconds == pytest.approx(clip)


def test_slow_sensors_alone_get_longer_clips(tmp_path: Path) -> None:
    logs = [ArrayLog(str(n), {"arm": signal(1.0, 100.0), "leg": signal(0.5, 100.0)}) for n in range(5)]
    config = read(suggest(logs, "logs"), tmp_path / "my.yaml")
    assert config.data.clip_seconds == 10.0
    assert list(config.sensors) == ["arm", "leg"]


def test_measured_rates_are_brought_together(tmp_path: Path) -> None:
    logs = [ArrayLog(str(n), {"arm": signal(99.8 + n / 10, 5.0), "imu": signal(2003.0, 5.0)}) for n in range(5)]
    config = read(suggest(logs, "logs"), tmp_path / "my.yaml")
    assert (config.sensors["arm"].rate_hz, config.sensors["imu"].rate_hz) == (100.0, 1000.0)


def test_sound_of_several_clocks_is_brought_together(tmp_path: Path) -> None:
    def mic(rate: float) -> tuple:
        noise = np.random.default_rng(0).normal(size=48000).astype(np.float32)
        return "audio", rate, np.arange(48000) / rate, noise

    logs = [ArrayLog(str(n), {"mic": mic(16000.0 - n)}) for n in range(3)]
    config = read(suggest(logs, "logs"), tmp_path / "my.yaml")
    grids = make_grids(config, logs)
    for log in logs:
        assert read_clip(log, 0.5, grids, config.data.clip_seconds).valid["mic"].all()


def test_a_sensor_of_holes_is_left_out() -> None:
    def holes(n: int) -> tuple:
        modality, rate, times, data = signal(50.0)
        data[::3, 0] = np.nan
        return modality, rate, times, data

    body = Body()
    body.put("torn", holes)
    assert "#   torn: gaps or NaN in every token" in suggest(body.logs, "logs")


def test_irregular_stamps_are_marked(tmp_path: Path) -> None:
    times = np.sort(np.concatenate([np.arange(0, 10, 0.1) + k / 1000 for k in range(3)]))  # bursts of three
    logs = [ArrayLog("a", {"arm": ("proprio", 1000.0, times, np.stack([times, -times], 1))})]
    text = suggest(logs, "logs")
    assert read(text, tmp_path / "my.yaml").sensors["arm"].rate_hz == pytest.approx(10, rel=0.05)
    assert "doubtful: its stamps are irregular, at a nominal 1000 Hz" in text


def test_touch_in_silence_is_compressed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def pad(peak: float) -> tuple:
        data = 0.01 * rng.normal(size=(1000, 4)).astype(np.float32)
        data[400:420] += peak
        return "touch", 100.0, np.arange(1000) / 100, data

    text = suggest([ArrayLog("a", {"pad": pad(5.0), "soft": pad(0.1)})], "logs")
    tree = yaml.safe_load(text)["sensors"]
    assert tree["pad"]["log_scale"] == pytest.approx(0.2)
    assert "log_scale" not in tree["soft"]


def test_pictures_of_several_sizes_get_one(tmp_path: Path) -> None:
    def camera(height: int, width: int) -> tuple:
        frames = np.random.default_rng(0).integers(0, 255, (90, height, width, 3), dtype=np.uint8)
        return "video", 30.0, np.arange(90) / 30, frames

    logs = [ArrayLog("a", {"eye": camera(48, 100)}), ArrayLog("b", {"eye": camera(60, 100)})]
    text = suggest(logs, "logs")
    config = read(text, tmp_path / "my.yaml")
    assert yaml.safe_load(text)["sensors"]["eye"]["size"] == [32, 64]
    assert "recorded as 48 x 100 and 60 x 100" in text
    make_grids(config, logs)


def test_many_sensors_get_fewer_tokens_each(tmp_path: Path) -> None:
    logs = [ArrayLog("a", {f"joint_{k}": signal(100.0, 5.0) for k in range(20)})]
    config = read(suggest(logs, "logs"), tmp_path / "my.yaml")
    assert len(build_model(config, make_grids(config, logs), 0).layout) <= 150


def test_sensors_that_start_late_share_their_time(tmp_path: Path) -> None:
    logs = [ArrayLog(str(n), {"arm": signal(100.0, 6.0), "leg": signal(100.0, 5.0, start=1.0)}) for n in range(5)]
    config = read(suggest(logs, "logs"), tmp_path / "my.yaml")
    assert list(config.sensors) == ["arm", "leg"]


def test_names_are_keys_whatever_they_hold(tmp_path: Path) -> None:
    names = ["/arm/joint states", "yes", "1", 'a"b', "${HOME}", "tab\tnew\nline: #x", "Gelenk ä"]
    logs = [ArrayLog(name, {name: signal(100.0, 5.0) for name in names}) for name in names]
    config = read(suggest(logs, "logs"), tmp_path / "my.yaml")
    assert set(config.sensors) == set(names)
    assert config.data.hold_out == [sorted(names)[-1]]


@pytest.mark.parametrize("text", ["on", "observation.state", "a: b", "- x", "~", "", "1e3", "null", "x\n#", "ä"])
def test_a_text_stays_what_it_is(text: str) -> None:
    assert yaml.safe_load(f"{scalar(text)}: {scalar(text)}") == {text: text}


def test_a_share_is_held_out_at_even_steps() -> None:
    names = [f"log_{n:02d}" for n in range(20)]
    assert hold_out(names[::-1]) == ["log_05", "log_12", "log_19"]
    assert hold_out(names[:3]) == []


def write_arms(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        arm = Recording("proprio", 50.0, rng.normal(size=(200, 3)), np.arange(200) / 50)
        write_log(folder / f"{folder.name}_{number}.h5", {"arm": arm}, [], "made by a test")
    return folder


@pytest.mark.parametrize("given", ["", "train"])
def test_a_test_folder_beside_is_used(given: str, tmp_path: Path) -> None:
    write_arms(tmp_path / "logs" / "train")
    write_arms(tmp_path / "logs" / "test")
    write_config(str(tmp_path / "logs" / given), tmp_path / "my.yaml")
    data = load_config(tmp_path / "my.yaml").data
    assert (data.train, data.test) == (str(tmp_path / "logs" / "train"), str(tmp_path / "logs" / "test"))
    assert data.hold_out == []


def test_init_writes_once_and_from_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arms(tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "logs", "-o", "deep/my.yaml"])
    assert done.exit_code == 0, done.output
    config = load_config("deep/my.yaml")
    assert config.data.train == "logs"
    assert len(open_logs(config.data.train)) == 4
    with pytest.raises(ConfigError, match="exists already"):
        write_config("logs", Path("deep/my.yaml"))


SMALL = [
    "train.steps=50", "train.batch_size=4", "train.log_with=[]", "train.log_every=50", "model.width=32", "model.depth=2",
    "model.heads=1", "objective.predictor_width=16", "objective.predictor_depth=1", "objective.predictor_heads=1",
]  # fmt: skip


def runs_unedited(logs: str, folder: Path) -> RunConfig:
    """init + train for 50 steps + embed; every log has windows."""
    write_config(logs, folder / "my.yaml")
    config = load_config(folder / "my.yaml")
    run = train(load_config(folder / "my.yaml", SMALL), folder / "run")
    report = embed_path(run, config.data.train, folder / "out.h5", None, 2.0, None)
    assert not report.quarantined
    assert sum(report.windows.values()) > 0
    return config


def test_odd_names_and_bare_shapes_train_unedited(tmp_path: Path) -> None:
    """A point in a name, one number a sample, a grid without a last axis."""
    rng, times = np.random.default_rng(0), np.arange(300) / 100
    for number in range(4):
        recordings = {
            "robot.arm": Recording("proprio", 100.0, rng.normal(size=(300, 3)), times),
            "robot.grip": Recording("proprio", 100.0, rng.normal(size=300), times),
            "pad.left": Recording("touch", 100.0, rng.normal(size=(300, 4, 4)), times),
        }
        write_log(tmp_path / "logs" / f"{number}.h5", recordings)
    config = runs_unedited(str(tmp_path / "logs"), tmp_path)
    assert set(config.sensors) == {"robot.arm", "robot.grip", "pad.left"}


def write_bag(path: Path) -> Path:
    """Eight seconds of a camera, joints and an IMU, each from its own moment, in a ROS 2 bag."""
    pytest.importorskip("rosbags")
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store, rng, start = get_typestore(Stores.ROS2_JAZZY), np.random.default_rng(0), 1_700_000_000_000_000_000
    make = {name.split("/")[-1]: kind for name, kind in store.types.items()}

    def xyz(values: np.ndarray) -> object:
        return make["Vector3"](*map(float, values))

    def image(header: object, k: int) -> object:
        frame = rng.integers(0, 40, (48, 64, 3), dtype=np.uint8)
        frame[10:20, k % 50 : k % 50 + 10] = 220
        return make["Image"](header, 48, 64, "rgb8", 0, 192, frame.reshape(-1))

    def joints(header: object, k: int) -> object:
        q = np.sin(k / 20 + np.arange(6)) + 0.01 * rng.normal(size=6)
        return make["JointState"](header, [f"joint_{i}" for i in range(6)], q, np.cos(q), np.zeros(6))

    def imu(header: object, k: int) -> object:
        still, none = make["Quaternion"](0.0, 0.0, 0.0, 1.0), np.zeros(9)
        return make["Imu"](header, still, none, xyz(rng.normal(size=3)), none, xyz(rng.normal(size=3)), none)

    topics = {"/camera/image_raw": (image, 15.0, 0.6), "/joint_states": (joints, 100.0, 0.0), "/imu": (imu, 200.0, 0.2)}
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for topic, (message, rate, late) in topics.items():
            connection = None
            for k in range(round(8 * rate)):
                jitter = rng.uniform(-1e-4, 1e-4)
                stamp = start + round((late + k / rate + jitter) * 1e9)
                header = make["Header"](make["Time"](stamp // 10**9, stamp % 10**9), "base")
                said = message(header, k)
                kind = said.__msgtype__
                connection = connection or writer.add_connection(topic, kind, typestore=store)
                writer.write(connection, stamp, store.serialize_cdr(said, kind))
    return path


def write_folder(path: Path) -> Path:
    """Six seconds of MP4, CSV and WAV."""
    path.mkdir()
    rng = np.random.default_rng(0)
    frames = np.zeros((120, 48, 64, 3), np.uint8) + rng.integers(0, 40, (120, 1, 1, 3), dtype=np.uint8)
    for k, frame in enumerate(frames):
        frame[10:30, k % 40 : k % 40 + 20] = 220
    write_video(str(path / "cam.mp4"), frames, 20.0)
    with wave.open(str(path / "mic.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 96000, "NONE", ""))
        file.writeframes((3000 * rng.normal(size=96000)).astype("<i2").tobytes())
    rows = [f"{k / 100 + 1e-4 * rng.normal():.6f},{np.sin(k / 30):.4f},{np.cos(k / 30):.4f}" for k in range(600)]
    (path / "arm.csv").write_text("\n".join(["time,shoulder [rad],elbow [rad]", *rows]))
    return path


@pytest.mark.slow
def test_a_ros2_bag_trains_unedited(tmp_path: Path) -> None:
    config = runs_unedited(str(write_bag(tmp_path / "bag")), tmp_path)
    kinds = {name: (sensor.kind, sensor.rate_hz) for name, sensor in config.sensors.items()}
    assert kinds == {
        "camera_image_raw": ("video", 10), "joint_states": ("proprio", 100), "imu": ("proprio", 200)
    }  # fmt: skip


@pytest.mark.slow
def test_a_plain_folder_trains_unedited(tmp_path: Path) -> None:
    config = runs_unedited(str(write_folder(tmp_path / "session")), tmp_path)
    kinds = {name: (sensor.kind, sensor.rate_hz) for name, sensor in config.sensors.items()}
    assert kinds == {"cam": ("video", 10), "mic": ("audio", 16000), "arm": ("proprio", 100)}


@pytest.mark.slow
def test_real_g1_trains_unedited(realdata: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    config = runs_unedited(str(realdata / "g1_lerobot_v21"), tmp_path)
    assert {name: sensor.kind for name, sensor in config.sensors.items()} == {
        "cam_high": "video", "state": "proprio", "action": "proprio"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icub_grasp/train", "tabletop/test"])
def test_logs_made_by_the_recipes_train_unedited(name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("MULTISENSE_LOGS", Path(__file__).parents[1] / "logs")) / name
    if not folder.is_dir():
        pytest.skip(f"no logs at {folder}; make them as datasets/ says, or set MULTISENSE_LOGS")
    some = tmp_path / "some"
    some.mkdir()
    for log in sorted(folder.glob("*.h5"))[:12]:
        for file in folder.glob(f"{log.stem}.*"):
            shutil.copy(file, some)
    config = runs_unedited(str(some), tmp_path)
    assert {sensor.kind for sensor in config.sensors.values()} >= {"touch", "proprio"}
