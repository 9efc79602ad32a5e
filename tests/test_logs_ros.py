"""ROS bags written by rosbags itself, ROS 1 and ROS 2, real ones, and ways in which they are broken."""

import io
import os
import pickle
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import assert_gives_single_samples
from PIL import Image

from multisense.logs import LogError
from multisense.logs.foreign import ForeignLog
from multisense.logs.formats import ros

rosbags = pytest.importorskip("rosbags")
rosbag1 = pytest.importorskip("rosbags.rosbag1")
rosbag2 = pytest.importorskip("rosbags.rosbag2")
typesys = pytest.importorskip("rosbags.typesys")

START = 1_700_000_000_000_000_000
LATE = 7_000_000  # nanoseconds from a header's stamp to the bag's time
EXTRA = {
    "foxglove_msgs/msg/CompressedVideo": "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format",
    "audio_common_msgs/msg/AudioData": "uint8[] data",
    "audio_common_msgs/msg/AudioDataStamped": "std_msgs/Header header\nuint8[] data",
    "audio_common_msgs/msg/AudioInfo": "uint8 channels\nuint32 sample_rate\nstring sample_format\nuint32 bitrate\n"
    "string coding_format",
}  # fmt: skip


class Maker:
    """Messages of one typestore."""

    def __init__(self, is_ros1: bool) -> None:
        self.is_ros1 = is_ros1
        self.store = typesys.get_typestore(typesys.Stores.ROS1_NOETIC if is_ros1 else typesys.Stores.ROS2_JAZZY)
        definitions = dict(EXTRA)
        if is_ros1:
            definitions["tf2_msgs/msg/TFMessage"] = "geometry_msgs/TransformStamped[] transforms"
        for name, text in definitions.items():
            self.store.register(typesys.get_types_from_msg(text, name))

    def __call__(self, name: str, /, **fields: Any) -> Any:
        package, kind = name.split("/")
        return self.store.types[f"{package}/msg/{kind}"](**fields)

    def header(self, stamp: int) -> Any:
        seq = {"seq": 0} if self.is_ros1 else {}
        return self("std_msgs/Header", stamp=self.time(stamp), frame_id="base", **seq)

    def time(self, stamp: int) -> Any:
        return self("builtin_interfaces/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)

    def xyz(self, *values: float) -> Any:
        return self("geometry_msgs/Vector3", x=values[0], y=values[1], z=values[2])

    def quaternion(self, *values: float) -> Any:
        return self("geometry_msgs/Quaternion", **dict(zip("xyzw", values, strict=True)))


Written = Sequence[tuple[str, int, Any]]  # (topic, bag time, message)


def write_bag(path: Path, kind: str, make: Maker, messages: Written) -> Path:
    storage = {"sqlite3": rosbag2.StoragePlugin.SQLITE3, "mcap": rosbag2.StoragePlugin.MCAP}
    path = path.with_suffix(".bag") if kind == "bag" else path
    writer = rosbag1.Writer(path) if kind == "bag" else rosbag2.Writer(path, version=9, storage_plugin=storage[kind])
    with writer:
        connections = {}
        for topic, time, message in messages:
            name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=make.store)
            serialise = make.store.serialize_ros1 if make.is_ros1 else make.store.serialize_cdr
            writer.write(connections[topic], time, serialise(message, name))
    return path


def picture(i: int) -> np.ndarray:
    return np.full((6, 8, 3), (10 * i, 5 * i + 1, 255 - i), np.uint8)


def png(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def h264(count: int) -> list[bytes]:
    """Frame i is grey of level 10 i; a keyframe every five."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt, context.framerate = 64, 48, "yuv420p", 30
    context.options = {"g": "5", "bf": "0", "tune": "zerolatency", "x264-params": "scenecut=0:threads=1"}
    frames = (av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * i, np.uint8), format="rgb24") for i in range(count))
    packets = [bytes(packet) for frame in frames for packet in context.encode(frame)]
    return packets + [bytes(packet) for packet in context.encode(None)]


def sound(i: int) -> np.ndarray:
    return (np.arange(160 + i % 2) + 1000 * i).astype("<i2")


def stamp(i: int, rate: float) -> int:
    return START + round(i / rate * 1e9)


def scene(make: Maker) -> Written:
    """A robot's every message, at its own rate; most are stamped LATE before they are recorded."""
    out = []
    for i, packet in enumerate(h264(12)):
        video = make("foxglove_msgs/CompressedVideo", timestamp=make.time(stamp(i, 30)), frame_id="", format="h264",
                     data=np.frombuffer(packet, np.uint8))  # fmt: skip
        out.append(("/video", stamp(i, 30) + LATE, video))
    for i in range(12):
        t, image = stamp(i, 30), np.zeros((6, 30), np.uint8)
        image[:, :24] = picture(i)[..., ::-1].reshape(6, 24)
        raw = make("sensor_msgs/Image", header=make.header(t), height=6, width=8, encoding="bgr8", is_bigendian=0,
                   step=30, data=image.reshape(-1))  # fmt: skip
        small = make("sensor_msgs/CompressedImage", header=make.header(t), format="png", data=png(picture(i)))
        pose = make("geometry_msgs/Pose", position=make("geometry_msgs/Point", x=float(i), y=1.0, z=2.0),
                    orientation=make.quaternion(0.0, 0.0, 0.0, 1.0))  # fmt: skip
        moves = [
            make("geometry_msgs/TransformStamped", header=make.header(t + k), child_frame_id=f"link{k}",
                 transform=make("geometry_msgs/Transform", translation=make.xyz(float(i), float(k), 0.5),
                                rotation=make.quaternion(0.0, 0.0, 1.0, 0.0)))
            for k in range(2 if i % 2 else 1)
        ]  # fmt: skip
        heard = {"header": make.header(stamp(i, 100)), "data": sound(i).view(np.uint8)}
        info = make("audio_common_msgs/AudioInfo", channels=1, sample_rate=16000, sample_format="S16LE", bitrate=0,
                    coding_format="wave")  # fmt: skip
        out += [
            ("/camera/image_raw", t + LATE, raw),
            ("/camera_image/raw", t + LATE, small),
            ("/pose", t + LATE, make("geometry_msgs/PoseStamped", header=make.header(t), pose=pose)),
            ("/tf", t + LATE, make("tf2_msgs/TFMessage", transforms=moves)),
            ("/audio/audio", t + LATE, make("audio_common_msgs/AudioDataStamped", **heard)),
            ("/audio/info", t + LATE, info),
            ("/chatter", t + LATE, make("std_msgs/String", data="hello")),
        ]
    covariance = np.zeros(9)
    for i in range(40):
        t = stamp(i, 100)
        joints = make("sensor_msgs/JointState", header=make.header(t), name=["elbow", "wrist"], velocity=np.array([]),
                      position=np.array([i, -i], float), effort=np.array([0.5, i]))  # fmt: skip
        imu = make("sensor_msgs/Imu", header=make.header(t), orientation=make.quaternion(0.0, 0.0, 0.0, 1.0),
                   orientation_covariance=covariance - np.eye(9)[0], angular_velocity=make.xyz(i, 1.0, 2.0),
                   angular_velocity_covariance=covariance, linear_acceleration=make.xyz(3.0, 4.0, 9.81),
                   linear_acceleration_covariance=covariance)  # fmt: skip
        force = make("geometry_msgs/Wrench", force=make.xyz(i, 2.0, 3.0), torque=make.xyz(4.0, 5.0, 6.0))
        dims = [make("std_msgs/MultiArrayDimension", label="", size=size, stride=0) for size in (2, 3)]
        layout = make("std_msgs/MultiArrayLayout", dim=dims, data_offset=0)
        taxels = make("std_msgs/Float32MultiArray", layout=layout, data=np.arange(6, dtype=np.float32) + i)
        out += [
            ("/joint_states", t + LATE, joints),
            ("/imu", t + LATE, imu),
            ("/wrench", t + LATE, make("geometry_msgs/WrenchStamped", header=make.header(t), wrench=force)),
            ("/taxels", t + LATE, taxels),
        ]
    return sorted(out, key=lambda item: item[1])


KINDS = ("bag", "sqlite3", "mcap")


def open_one(path: Path) -> ForeignLog:
    assert ros.recognises(path)
    (opener,) = ros.candidates(path).values()
    log = opener()
    assert isinstance(log, ForeignLog)
    return log


@pytest.fixture(scope="module", params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ForeignLog:
    make = Maker(request.param == "bag")
    path = write_bag(tmp_path_factory.mktemp(request.param) / "robot", request.param, make, scene(make))
    return pickle.loads(pickle.dumps(open_one(path)))


def test_topics_are_sensors_on_their_own_stamps(log: ForeignLog) -> None:
    assert log.name == "robot"
    assert set(log.sensors) == {
        "video", "camera_image_raw", "camera_image_raw_2", "pose", "tf_link0", "tf_link1", "audio_audio", "joint_states",
        "imu", "wrench", "taxels",
    }  # fmt: skip
    assert log.skipped == {"/chatter": "std_msgs/String: a type that is not read"}
    assert log.notes["imu"] == "header.stamp"
    assert log.notes["taxels"].startswith("bag time")
    for name, rate, shift in (("imu", 100, 0.0), ("taxels", 100, LATE / 1e9), ("video", 30, 0.0), ("pose", 30, 0.0)):
        times = log.read(name, -1, 99).times_s
        np.testing.assert_allclose(times, np.arange(len(times)) / rate + shift, atol=2e-9)
    assert log.sensors["camera_image_raw"].rate_hz == pytest.approx(30, rel=1e-6)


def test_vectors(log: ForeignLog) -> None:
    i = np.arange(40.0)
    joints = log.read("joint_states", -1, 99).data
    assert log.sensors["joint_states"].channels == ("elbow.position", "wrist.position", "elbow.effort", "wrist.effort")
    np.testing.assert_array_equal(joints, np.stack([i, -i, i * 0 + 0.5, i], 1))
    assert log.sensors["imu"].shape == (6,)
    np.testing.assert_array_equal(log.read("imu", 0.1, 0.105).data, [[10, 1, 2, 3, 4, 9.81]])
    np.testing.assert_array_equal(log.read("wrench", 0.1, 0.115).data, [[10, 2, 3, 4, 5, 6], [11, 2, 3, 4, 5, 6]])
    assert log.sensors["wrench"].modality == "touch"
    taxels = log.read("taxels", -1, 99).data
    assert taxels.shape == (40, 2, 3, 1)
    np.testing.assert_array_equal(taxels[:, 1, 2, 0], i + 5)
    np.testing.assert_array_equal(log.read("pose", -1, 0.04).data, [[0, 1, 2, 0, 0, 0, 1], [1, 1, 2, 0, 0, 0, 1]])


def test_transforms_are_a_sensor_per_child_frame(log: ForeignLog) -> None:
    np.testing.assert_array_equal(log.read("tf_link0", -1, 99).data[:, 0], np.arange(12))
    np.testing.assert_array_equal(log.read("tf_link1", -1, 99).data[:, :3], [[i, 1, 0.5] for i in range(1, 12, 2)])
    assert log.read("tf_link1", 0.05, 0.15).data[:, 0].tolist() == [3]


def test_pictures(log: ForeignLog) -> None:
    for name in ("camera_image_raw", "camera_image_raw_2"):
        stream = log.read(name, 0.09, 0.21)
        np.testing.assert_array_equal(stream.data, [picture(i) for i in (3, 4, 5, 6)])
        assert log.sensors[name].modality == "video"


def test_video_is_decoded_from_the_keyframe_before(log: ForeignLog) -> None:
    assert log.sensors["video"].shape == (48, 64, 3)
    whole = log.read("video", -1, 99).data
    assert np.abs(whole.mean((1, 2, 3)) - 10 * np.arange(12)).max() < 3
    np.testing.assert_array_equal(log.read("video", 0.25, 0.32).data, whole[8:10])
    assert log.read("video", 5, 6).data.shape == (0, 48, 64, 3)


def test_single_samples_are_those_of_a_range(log: ForeignLog) -> None:
    assert_gives_single_samples(log)


def test_sound_has_an_anchor_per_message(log: ForeignLog) -> None:
    info = log.sensors["audio_audio"]
    assert (info.rate_hz, info.shape, info.dtype) == (16000, (), "float32")
    whole = log.read("audio_audio", -1, 99)
    np.testing.assert_array_equal(whole.data, np.concatenate([sound(i) for i in range(12)]).astype(np.float32) / 32768)
    np.testing.assert_allclose(whole.times_s[[0, 160, 321]], [0, 0.01, 0.02], atol=1e-9)
    part = log.read("audio_audio", 0.013, 0.031)
    first = int(np.searchsorted(whole.times_s, 0.013))
    np.testing.assert_array_equal(part.data, whole.data[first : first + len(part.data)])


def strings(make: Maker, count: int = 3) -> Written:
    return [("/chatter", START + i, make("std_msgs/String", data="x" * 99)) for i in range(count)]


def arrays(make: Maker, times: Sequence[int], lengths: Sequence[int]) -> Written:
    layout = make("std_msgs/MultiArrayLayout", dim=[], data_offset=0)
    return [("/a", t, make("std_msgs/Float64MultiArray", layout=layout, data=np.zeros(n)))
            for t, n in zip(times, lengths, strict=True)]  # fmt: skip


def poses(make: Maker, stamps: Sequence[int], bag_times: Sequence[int]) -> Written:
    pose = make("geometry_msgs/Pose", position=make("geometry_msgs/Point", x=0.0, y=1.0, z=2.0),
                orientation=make.quaternion(0.0, 0.0, 0.0, 1.0))  # fmt: skip
    return [("/pose", bag, make("geometry_msgs/PoseStamped", header=make.header(own), pose=pose))
            for own, bag in zip(stamps, bag_times, strict=True)]  # fmt: skip


def opened(tmp_path: Path, messages: Written, make: Maker) -> ForeignLog:
    return open_one(write_bag(tmp_path / "bag", "mcap", make, messages))


def test_changing_channels_leave_the_sensor_out(tmp_path: Path) -> None:
    make = Maker(False)
    with pytest.raises(LogError, match="channels that change"):
        opened(tmp_path, arrays(make, [START, START + 1], [2, 3]), make)


def test_depth_and_short_pictures_are_refused(tmp_path: Path) -> None:
    make = Maker(False)
    fields = {"height": 2, "width": 2, "is_bigendian": 0, "step": 6, "header": make.header(START)}
    depth = make("sensor_msgs/Image", encoding="16UC1", data=np.zeros(12, np.uint8), **fields)
    short = make("sensor_msgs/Image", encoding="rgb8", data=np.zeros(11, np.uint8), **fields)
    with pytest.raises(LogError, match=r"encoding '16UC1'.*11 bytes for 2 rows"):
        opened(tmp_path, [("/depth", START, depth), ("/short", START, short)], make)


@pytest.mark.parametrize(("size", "found"), [(320, None), (333, "rate unknown"), (321, "whole number")])
def test_sound_without_info(tmp_path: Path, size: int, found: str | None) -> None:
    make = Maker(False)
    data = np.arange(size, dtype=np.uint32).astype(np.uint8)
    messages = [(("/mic"), stamp(i, 100), make("audio_common_msgs/AudioData", data=data)) for i in range(20)]
    if found:
        with pytest.raises(LogError, match=found):
            opened(tmp_path, messages, make)
    else:
        log = opened(tmp_path, messages, make)
        assert log.sensors["mic"].rate_hz == 16000
        assert "measured" in log.notes["mic"]


def test_a_folder_of_bags_is_many_logs(tmp_path: Path) -> None:
    for name, kind in (("b", "bag"), ("a", "mcap"), ("c", "sqlite3")):
        make = Maker(kind == "bag")
        write_bag(tmp_path / name, kind, make, arrays(make, [START], [2]))
    (tmp_path / "notes.txt").write_text("no bag")
    assert list(ros.candidates(tmp_path)) == ["a", "b", "c"]
    assert [opener().name for opener in ros.candidates(tmp_path).values()] == ["a", "b", "c"]


def test_a_definition_that_nothing_parses_costs_its_own_topic_alone(tmp_path: Path) -> None:
    make = Maker(False)
    path = write_bag(tmp_path / "bag", "sqlite3", make, [*arrays(make, [START], [2]), *strings(make)])
    with sqlite3.connect(path / "bag.db3") as database:
        database.execute("UPDATE message_definitions SET encoded_message_definition='int64 a\n---\n' WHERE id = 2")
    database.close()
    log = open_one(path)
    assert set(log.sensors) == {"a"}
    assert set(log.skipped) == {"/chatter"}


def test_a_bag_of_strings_names_them(tmp_path: Path) -> None:
    make = Maker(False)
    with pytest.raises(LogError, match=r"/chatter.*std_msgs/String: a type that is not read"):
        opened(tmp_path, strings(make), make)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncated_bags_are_log_errors(tmp_path: Path, kind: str, part: float) -> None:
    make = Maker(kind == "bag")
    path = write_bag(tmp_path / "bag", kind, make, scene(make))
    data = path if kind == "bag" else next(file for file in path.iterdir() if file.suffix != ".yaml")
    data.write_bytes(data.read_bytes()[: int(data.stat().st_size * part)])
    with pytest.raises(LogError):
        ros.open_ros(path)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_give_data_or_a_log_error(tmp_path: Path, kind: str) -> None:
    make = Maker(kind == "bag")
    path = write_bag(tmp_path / "bag", kind, make, scene(make))
    file = path if kind == "bag" else next(file for file in path.iterdir() if file.suffix != ".yaml")
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(12):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 20):
            damaged[at] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        try:
            log = ros.open_ros(path)
            for name in log.sensors:
                log.read(name, -1, 99)
        except LogError:
            pass


@pytest.mark.parametrize(
    ("old", "new"),
    [("relative_file_paths", "no_paths"), ("bag.mcap", "gone.mcap"), ("storage_identifier: mcap", "storage_identifier: 1"),
     ("compression_mode: ''", "compression_mode: FILE"), ("version: 9", "version: [[[[")],
)  # fmt: skip
def test_broken_metadata_is_a_log_error(tmp_path: Path, old: str, new: str) -> None:
    make = Maker(False)
    path = write_bag(tmp_path / "bag", "mcap", make, arrays(make, [START], [2]))
    text = (path / "metadata.yaml").read_text()
    assert old in text
    (path / "metadata.yaml").write_text(text.replace(old, new))
    with pytest.raises(LogError):
        ros.open_ros(path)
    (path / "metadata.yaml").unlink()
    assert not ros.recognises(path)


def test_real_bags_of_strings(realdata: Path) -> None:
    bags = [path.parent for path in (realdata / "ros2_bags").rglob("metadata.yaml")]
    assert bags
    for bag in bags:
        assert ros.recognises(bag)
        with pytest.raises(LogError, match="std_msgs/String"):
            ros.open_ros(bag)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_bag_is_not_waited_for(tmp_path: Path) -> None:
    make = Maker(False)
    path = write_bag(tmp_path / "robot", "sqlite3", make, scene(make)[:20])
    (path / "robot.db3").unlink()
    os.mkfifo(path / "robot.db3")
    with pytest.raises(LogError, match=r"found \['robot\.db3'\], no files"):
        ros.candidates(path)["robot"]()


def test_metadata_that_would_take_minutes_is_refused(tmp_path: Path) -> None:
    make = Maker(False)
    path = write_bag(tmp_path / "robot", "sqlite3", make, scene(make)[:20])
    (path / "metadata.yaml").write_text((path / "metadata.yaml").read_text() + f"x: [{'1,' * 400_000}]")
    with pytest.raises(LogError, match="more than 65536 values"):
        ros.candidates(path)["robot"]()
