"""Bare MCAP files written by mcap's own Writer: JSON, protobuf, ROS 1 and ROS 2, and ways in which they are broken."""

import base64
import io
import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_gives_single_samples
from PIL import Image

from multisense.logs import LogError
from multisense.logs.foreign import ForeignLog
from multisense.logs.formats import mcap, ros

writer_module = pytest.importorskip("mcap.writer")
pytest.importorskip("mcap_protobuf")
typesys = pytest.importorskip("rosbags.typesys")
descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
message_factory = pytest.importorskip("google.protobuf.message_factory")

START = 1_700_000_000_000_000_000
LATE = 3_000_000
COUNT = 20


def stamp(i: int) -> int:
    return START + i * 50_000_000


def picture(i: int) -> np.ndarray:
    return np.full((4, 6, 3), (12 * i, 255 - i, i), np.uint8)


def png(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(i)).save(buffer, "PNG")
    return buffer.getvalue()


def proto_classes() -> tuple[bytes, dict[str, Any]]:
    """The descriptors of three messages, made here, and their classes."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="foxglove", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, str, bool]) -> None:
        added = file.message_type.add(name=name)
        for number, (field, kind, of, repeated) in enumerate(fields, 1):
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            added.field.add(name=field, number=number, type=kind, label=label, **({"type_name": of} if of else {}))

    message("Time", ("seconds", kinds.TYPE_INT64, "", False), ("nanos", kinds.TYPE_INT32, "", False))
    message("Pad", ("timestamp", kinds.TYPE_MESSAGE, ".foxglove.Time", False), ("force", kinds.TYPE_FLOAT, "", True),
            ("name", kinds.TYPE_STRING, "", False), ("inner", kinds.TYPE_MESSAGE, ".foxglove.Pad", False),
            ("level", kinds.TYPE_DOUBLE, "", False))  # fmt: skip
    message("CompressedImage", ("timestamp", kinds.TYPE_MESSAGE, ".foxglove.Time", False),
            ("data", kinds.TYPE_BYTES, "", False), ("format", kinds.TYPE_STRING, "", False))  # fmt: skip
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString(), message_factory.GetMessages([file])


class Recorder:
    """mcap's Writer, with a channel for every topic."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path, self._writer, self._channels = path, writer_module.Writer(str(path), **options), {}
        self._writer.start()

    def add(self, topic: str, schema: tuple[str, str, bytes], encoding: str, time: int, data: bytes) -> None:
        if topic not in self._channels:
            schema_id = self._writer.register_schema(*schema)
            self._channels[topic] = self._writer.register_channel(topic, encoding, schema_id)
        self._writer.add_message(self._channels[topic], time, data, time)

    def finish(self) -> Path:
        self._writer.finish()
        return self.path


def json_message(recorder: Recorder, topic: str, name: str, i: int, fields: dict[str, Any]) -> None:
    recorder.add(topic, (name, "jsonschema", b"{}"), "json", stamp(i) + LATE, json.dumps(fields).encode())


def write(path: Path, **options: Any) -> Path:
    recorder = Recorder(path, **options)
    descriptors, classes = proto_classes()
    for i in range(COUNT):
        time = {"sec": stamp(i) // 10**9, "nsec": stamp(i) % 10**9}
        json_message(recorder, "/arm", "lab.Arm", i, {"timestamp": time, "q": [i, -i], "grip": {"width": 0.5 * i}})
        json_message(recorder, "/plain", "lab.Plain", i, {"value": i, "name": "x"})
        json_message(recorder, "/words", "lab.Words", i, {"text": "hello"})
        data = base64.b64encode(png(i)).decode()
        json_message(
            recorder, "/eye", "foxglove.CompressedImage", i, {"timestamp": time, "data": data, "format": "png"}
        )
        sound = base64.b64encode((np.arange(400) + i).astype("<i2").tobytes()).decode()
        fields = {"data": sound, "format": "pcm-s16", "sample_rate": 4000, "number_of_channels": 2, "timestamp": time}
        json_message(recorder, "/ear", "foxglove.RawAudio", i, fields)
        when = classes["foxglove.Time"](seconds=stamp(i) // 10**9, nanos=stamp(i) % 10**9)
        pad = classes["foxglove.Pad"](timestamp=when, force=[i, 2, 3], name="pad", level=0.25 * i)
        image = classes["foxglove.CompressedImage"](timestamp=when, data=png(i), format="png")
        for topic, message in (("/pad", pad), ("/cam", image)):
            schema = (message.DESCRIPTOR.full_name, "protobuf", descriptors)
            recorder.add(topic, schema, "protobuf", stamp(i) + LATE, message.SerializeToString())
        for is_ros1 in (True, False):
            recorder.add(*ros_pose(is_ros1, i))
        recorder.add("/odd", ("a/B", "flatbuffer", b""), "flatbuffer", stamp(i), b"")
    return recorder.finish()


@cache
def typestore(is_ros1: bool) -> Any:
    return typesys.get_typestore(typesys.Stores.ROS1_NOETIC if is_ros1 else typesys.Stores.ROS2_JAZZY)


def ros_pose(is_ros1: bool, i: int) -> tuple[str, tuple[str, str, bytes], str, int, bytes]:
    store = typestore(is_ros1)
    name, types = "geometry_msgs/msg/PoseStamped", store.types
    seq = {"seq": i} if is_ros1 else {}
    time = types["builtin_interfaces/msg/Time"](sec=stamp(i) // 10**9, nanosec=stamp(i) % 10**9)
    pose = types[name](
        header=types["std_msgs/msg/Header"](stamp=time, frame_id="base", **seq),
        pose=types["geometry_msgs/msg/Pose"](
            position=types["geometry_msgs/msg/Point"](x=float(i), y=2.0, z=3.0),
            orientation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
        ),
    )
    text = store.generate_msgdef(name, ros_version=1 if is_ros1 else 2)[0].encode()
    raw = bytes(store.serialize_ros1(pose, name) if is_ros1 else store.serialize_cdr(pose, name))
    if is_ros1:
        return "/pose1", ("geometry_msgs/PoseStamped", "ros1msg", text), "ros1", stamp(i) + LATE, raw
    return "/pose2", (name, "ros2msg", text), "cdr", stamp(i) + LATE, raw


def open_one(path: Path) -> ForeignLog:
    (opener,) = mcap.candidates(path).values()
    log = opener()
    assert isinstance(log, ForeignLog)
    return log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> ForeignLog:
    path = write(tmp_path_factory.mktemp("mcap") / "robot.mcap", chunk_size=2000)
    assert mcap.recognises(path)
    return pickle.loads(pickle.dumps(open_one(path)))


def test_sensors_stamps_and_what_is_skipped(log: ForeignLog) -> None:
    assert set(log.sensors) == {"arm", "plain", "eye", "ear", "pad", "cam", "pose1", "pose2"}
    assert set(log.skipped) == {"/words", "/odd"}
    assert "no numbers" in log.skipped["/words"]
    assert "flatbuffer" in log.skipped["/odd"]
    for name in ("arm", "eye", "pad", "cam", "pose1", "pose2", "plain"):
        shift = LATE / 1e9 if name == "plain" else 0
        times = log.read(name, -1, 99).times_s
        np.testing.assert_allclose(times, np.arange(COUNT) * 0.05 + shift, atol=2e-9, err_msg=name)
    assert log.notes["plain"].startswith("bag time")
    assert log.notes["pose1"] == log.notes["cam"] == "header.stamp"


def test_values(log: ForeignLog) -> None:
    i = np.arange(float(COUNT))
    assert log.sensors["arm"].channels == ("q[0]", "q[1]", "grip.width")
    np.testing.assert_array_equal(log.read("arm", -1, 99).data, np.stack([i, -i, i / 2], 1))
    assert log.sensors["pad"].channels == ("force[0]", "force[1]", "force[2]", "level")
    np.testing.assert_array_equal(log.read("pad", 0.1, 0.2).data, [[2, 2, 3, 0.5], [3, 2, 3, 0.75]])
    for name in ("pose1", "pose2"):
        np.testing.assert_array_equal(log.read(name, 0.05, 0.1).data, [[1, 2, 3, 0, 0, 0, 1]])


def test_pictures_of_json_and_of_protobuf(log: ForeignLog) -> None:
    for name in ("eye", "cam"):
        assert log.sensors[name].modality == "video"
        np.testing.assert_array_equal(log.read(name, 0.25, 0.35).data, [picture(5), picture(6)])


def test_single_samples_are_those_of_a_range(log: ForeignLog) -> None:
    assert_gives_single_samples(log)


def test_sound(log: ForeignLog) -> None:
    info = log.sensors["ear"]
    assert (info.rate_hz, info.shape, info.count) == (4000, (2,), 200 * COUNT)
    expected = np.concatenate([np.arange(400) + i for i in range(COUNT)]).astype(np.float32).reshape(-1, 2) / 32768
    stream = log.read("ear", 0.04, 0.11)
    np.testing.assert_allclose(stream.times_s, np.arange(160, 440) / 4000, atol=1e-8)
    np.testing.assert_array_equal(stream.data, expected[160:440])


def test_a_folder_of_files_is_many_logs(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / f"{name}.mcap")
    (tmp_path / "other.mcap").write_text("not one")
    assert mcap.recognises(tmp_path)
    assert not ros.recognises(tmp_path)
    assert list(mcap.candidates(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("part", [0.01, 0.3, 0.7, 0.999])
def test_truncated_files_are_log_errors(tmp_path: Path, part: float) -> None:
    path = write(tmp_path / "cut.mcap")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(LogError, match=r"cut\.mcap"):
        mcap.open_mcap(path)


def test_a_file_without_an_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="mcap recover"):
        mcap.open_mcap(write(tmp_path / "flat.mcap", use_chunking=False))


def test_deep_and_strange_json_leaves_the_topic_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "deep.mcap")
    for topic, data in (("/deep", b"[" * 10**5), ("/huge", b'{"a": 1' + b"0" * 400 + b"}"), ("/nan", b"\xff")):
        recorder.add(topic, ("lab.X", "jsonschema", b"{}"), "json", START, data)
    json_message(recorder, "/changes", "lab.X", 0, {"a": 1})
    json_message(recorder, "/changes", "lab.X", 1, {"b": 1})
    json_message(recorder, "/../../good", "lab.X", 0, {"a": 1})
    log = open_one(recorder.finish())
    assert set(log.sensors) == {"good"}
    assert set(log.skipped) == {"/deep", "/huge", "/nan", "/changes"}


def test_backward_stamps_give_the_time_of_the_log(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "back.mcap")
    for i, seconds in enumerate((5, 4)):
        json_message(recorder, "/a", "lab.X", i, {"timestamp": {"sec": seconds, "nsec": 0}, "v": 1})
    log = mcap.open_mcap(recorder.finish())
    assert log.notes["a"] == "bag time: header.stamp of message 1 runs backward"
    np.testing.assert_allclose(np.diff(log.read("a", -1, 9).times_s), 0.05)


def test_flipped_bytes_give_data_or_a_log_error(tmp_path: Path) -> None:
    path = write(tmp_path / "robot.mcap", chunk_size=4000)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(12):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 10):
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            log = mcap.open_mcap(path)
            for name in log.sensors:
                log.read(name, -1, 99)
        except LogError:
            pass


def test_real_files_of_strings(realdata: Path) -> None:
    folder = realdata / "ros2_bags" / "rosbag2_cpp" / "test" / "rosbag2_cpp" / "bags"
    for path in folder.glob("*.mcap"):
        assert mcap.recognises(path)
        with pytest.raises(LogError, match="a type that is not read"):
            mcap.open_mcap(path)
