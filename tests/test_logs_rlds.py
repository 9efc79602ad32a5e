"""RLDS: a data set whose records google.protobuf has written, a real one read by google.protobuf too, and broken ones."""

import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_gives_single_samples
from PIL import Image

from multisense.logs import LogError
from multisense.logs.formats.crc32c import BLOCK, crc32c, masked
from multisense.logs.formats.rlds import candidates, recognises
from multisense.logs.formats.rlds_features import read_json

pytest.importorskip("google.protobuf")
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FOLDER = "bridge_rlds_octo/bridge_dataset/1.0.0"
STEPS = (6, 4, 5)
TEXTS = ("close the drawer", "open the drawer")


def example_class() -> Any:
    """`tf.train.Example`, from its published description."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, kind in (
        ("BytesList", kinds.TYPE_BYTES),
        ("FloatList", kinds.TYPE_FLOAT),
        ("Int64List", kinds.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, label=3, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes", "float", "int64"), start=1):
        field = feature.field.add(name=f"{name}_list", number=number, label=1, type=kinds.TYPE_MESSAGE, oneof_index=0)
        field.type_name = f".t.{name.capitalize()}List"
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=kinds.TYPE_STRING)
    entry.field.add(name="value", number=2, label=1, type=kinds.TYPE_MESSAGE, type_name=".t.Feature")
    features.field.add(name="feature", number=1, label=3, type=kinds.TYPE_MESSAGE, type_name=".t.Features.FeatureEntry")
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, label=1, type=kinds.TYPE_MESSAGE, type_name=".t.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = example_class()


def plain_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(plain_crc(length))) + data + struct.pack("<I", masked(plain_crc(data)))


def tensor(dtype: str, *sides: int) -> dict:
    return {"tensor": {"shape": {"dimensions": [str(s) for s in sides]}, "dtype": dtype, "encoding": "none"}}


def dictionary(**features: dict) -> dict:
    return {"featuresDict": {"features": features}}


def description() -> dict:
    image = {"image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8", "encodingFormat": "png"}}
    depth = {"image": {"shape": {"dimensions": ["8", "8", "1"]}, "dtype": "uint16", "encodingFormat": "png"}}
    sensed = dictionary(cam=image, depth=depth, state=tensor("float32", 3), grid=tensor("float64", 2, 2))
    sensed["featuresDict"]["features"] |= {"ticks": tensor("int32", 2), "grip": tensor("float32")}
    steps = dictionary(
        observation=sensed,
        action=dictionary(arm=tensor("float32", 2)),
        language_instruction={"text": {}},
        is_first=tensor("bool"),
        reward=tensor("float32"),
        language_embedding=tensor("float32", 4),
    )
    return dictionary(steps={"sequence": {"feature": steps, "length": "-1"}}, episode_metadata=dictionary(fps={}))


def png(episode: int, step: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), 50 * episode + step, np.uint8)).save(out, "PNG")
    return out.getvalue()


def state(episode: int, step: int) -> list[float]:
    return [episode + 0.5, step * 0.1, -step]


def example(episode: int) -> Any:
    message, steps = EXAMPLE(), range(STEPS[episode])
    put = message.features.feature
    put["steps/observation/cam"].bytes_list.value.extend(png(episode, i) for i in steps)
    put["steps/observation/depth"].bytes_list.value.extend(b"?" for _ in steps)
    put["steps/observation/state"].float_list.value.extend(x for i in steps for x in state(episode, i))
    put["steps/observation/grid"].float_list.value.extend(np.arange(4.0 * len(steps)))
    put["steps/observation/ticks"].int64_list.value.extend(x for i in steps for x in (i * 1000, -i))
    put["steps/observation/grip"].float_list.value.extend(i / 4 for i in steps)
    put["steps/action/arm"].float_list.value.extend(x for i in steps for x in (i, episode))
    put["steps/is_first"].int64_list.value.extend(int(i == 0) for i in steps)
    put["steps/language_instruction"].bytes_list.value.extend(
        TEXTS[(episode if episode < 2 else i // 3)].encode() for i in steps
    )
    return message


def write(folder: Path, shards: dict[str, list[bytes]], content: dict | None = None) -> Path:
    (folder / "features.json").write_text(json.dumps(content or description()))
    for name, examples in shards.items():
        (folder / name).write_bytes(b"".join(record(data) for data in examples))
    return folder


SHARDS = ("robot-train.tfrecord-00000-of-00002", "robot-train.tfrecord-00001-of-00002")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = [example(e).SerializeToString() for e in range(3)]
    return write(tmp_path, {SHARDS[0]: data[:2], SHARDS[1]: data[2:]})


def test_the_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    rng = np.random.default_rng(0)
    for size in (0, 1, 3, 8, 63, 64, 1000):
        data = rng.bytes(size)
        assert crc32c(data) == plain_crc(data)
        assert crc32c(data[size // 3 :], crc32c(data[: size // 3])) == plain_crc(data)
    data = rng.bytes(BLOCK)
    assert crc32c(data) == crc32c(data[100:], crc32c(data[:100]))


def test_every_record_is_a_log(folder: Path) -> None:
    assert recognises(folder)
    found = candidates(folder)
    assert list(found) == ["train_000000", "train_000001", "train_000002"]
    logs = [open_one() for open_one in found.values()]
    assert len({log.fingerprint() for log in logs}) == 3
    for log, steps in zip(logs, STEPS, strict=True):
        assert set(log.sensors) == {"cam", "state", "grid", "ticks", "grip", "action_arm"}
        assert {sensor.count for sensor in log.sensors.values()} == {steps}
        assert {sensor.rate_hz for sensor in log.sensors.values()} == {5.0}
    sensors = logs[0].sensors
    assert (sensors["cam"].modality, sensors["cam"].shape) == ("video", (8, 12, 3))
    assert (sensors["state"].modality, sensors["grip"].shape, sensors["grid"].modality) == ("proprio", (1,), "")
    assert "5 steps per second assumed" in getattr(logs[0], "notes", {})["cam"]
    skipped = getattr(logs[0], "skipped", {})
    assert skipped["steps/is_first"] == "bookkeeping"
    assert "uint16" in skipped["steps/observation/depth"]
    assert "neither" in skipped["steps/language_embedding"]


@pytest.mark.parametrize(("start", "stop"), [(0.0, 9.0), (0.2, 0.6), (0.5, 0.5), (5.0, 6.0)])
def test_values_and_times(folder: Path, start: float, stop: float) -> None:
    for episode, open_one in enumerate(candidates(folder).values()):
        log = pickle.loads(pickle.dumps(open_one()))
        wanted = [i for i in range(STEPS[episode]) if start <= i / 5 < stop]
        stream = log.read("state", start, stop)
        np.testing.assert_array_equal(stream.data, np.array([state(episode, i) for i in wanted], "f4").reshape(-1, 3))
        np.testing.assert_allclose(stream.times_s, [i / 5 for i in wanted])
        assert log.read("cam", start, stop).data[:, 0, 0, 1].tolist() == [50 * episode + i for i in wanted]
        assert log.read("ticks", start, stop).data.tolist() == [[1000 * i, -i] for i in wanted]
        assert log.read("grid", start, stop).data.reshape(-1, 4).tolist() == [
            [*range(4 * i, 4 * i + 4)] for i in wanted
        ]
        assert log.read("action_arm", start, stop).data.tolist() == [[i, episode] for i in wanted]


def test_single_samples_are_those_of_a_range(folder: Path) -> None:
    for open_one in candidates(folder).values():
        assert_gives_single_samples(open_one())


def test_instructions_are_labels_over_the_whole_data_set(folder: Path) -> None:
    one, two, both = (o().labels["language_instruction"] for o in candidates(folder).values())
    assert (int(one.data), one.times_s, one.classes, one.is_class) == (0, None, TEXTS, True)
    assert int(two.data) == 1
    assert both.data.tolist() == [0, 0, 0, 1, 1]
    assert both.times_s is not None


def test_a_shard_alone_keeps_the_names(folder: Path) -> None:
    assert recognises(folder / SHARDS[1])
    assert list(candidates(folder / SHARDS[1])) == ["train_000002"]


def test_a_rate_that_the_metadata_states(folder: Path) -> None:
    (folder / "metadata.json").write_text('{"fps": 12.5}')
    log = candidates(folder)["train_000000"]()
    assert log.sensors["state"].rate_hz == 12.5
    assert getattr(log, "notes", {})["state"] == "no time stamps: 12.5 steps per second by fps in metadata.json"


def test_a_rate_that_the_episode_states(tmp_path: Path) -> None:
    message = example(0)
    message.features.feature["episode_metadata/control_frequency"].int64_list.value.append(15)
    write(tmp_path, {SHARDS[0]: [message.SerializeToString()]})
    assert candidates(tmp_path)["train_000000"]().sensors["state"].rate_hz == 15


def test_unpacked_lists(tmp_path: Path) -> None:
    """Legal, though TensorFlow never writes them: every number a field of its own."""

    def delimited(number: int, data: bytes) -> bytes:
        assert len(data) < 16384
        return bytes([number << 3 | 2, len(data) & 0x7F | 0x80, len(data) >> 7]) + data

    def feature(key: str, number: int, values: bytes) -> bytes:
        return delimited(1, delimited(1, key.encode()) + delimited(2, delimited(number, values)))

    floats = b"".join(b"\x0d" + struct.pack("<f", x) for i in range(4) for x in state(1, i))
    ints = b"".join(bytes([8, i]) for i in (1, 0, 0, 0))
    data = feature("steps/observation/state", 2, floats) + feature("steps/is_first", 3, ints)
    write(tmp_path, {SHARDS[0]: [delimited(1, data)]})
    log = candidates(tmp_path)["train_000000"]()
    np.testing.assert_array_equal(log.read("state", 0.2, 9).data, np.array([state(1, i) for i in (1, 2, 3)], "f4"))
    assert getattr(log, "skipped", {})["steps/observation/cam"] == "not in this episode"


# Broken data sets


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").write_bytes(b"not a record at all")
    (tmp_path / "empty").touch()
    assert not any(
        recognises(path) for path in (tmp_path, tmp_path / "a.tfrecord", tmp_path / "empty", tmp_path / "no")
    )


def damage(change: Callable[[bytearray], object], path: Path) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def test_a_flipped_bit_in_an_image_is_found_when_it_is_read(folder: Path) -> None:
    path = folder / SHARDS[1]
    at = path.read_bytes().index(b"IDAT") + 6
    damage(lambda content: content.__setitem__(at, content[at] ^ 1), path)
    log = candidates(folder)["train_000002"]()
    with pytest.raises(LogError, match=r"00001-of-00002: record at byte 0: found a wrong checksum; expected undamaged"):
        log.read("state", 0, 1)


def test_a_damaged_length_spoils_what_follows_it(folder: Path) -> None:
    path = folder / SHARDS[0]
    second = 16 + len(example(0).SerializeToString())
    damage(lambda content: content.__setitem__(second + 5, 0x7F), path)
    found = candidates(folder)
    assert found["train_000000"]().sensors["cam"].count == 6
    with pytest.raises(LogError, match=rf"byte {second}: found a wrong checksum; expected the head of a TFRecord"):
        found["train_000001"]()


def test_a_shard_cut_short(folder: Path) -> None:
    damage(lambda content: content.__delitem__(slice(-40, None)), folder / SHARDS[1])
    with pytest.raises(LogError, match=r"found a record of \d+ bytes in a file of \d+; expected a whole record"):
        candidates(folder)["train_000002"]()
    (folder / SHARDS[1]).write_bytes(b"")
    assert len(candidates(folder)) == 2


NONSENSE: dict[str, bytes] = {
    "past its end": b"\x0a\xff\xff\xff\x7f",
    "no end": b"\x0a" + b"\xff" * 20,
    "a group": b"\x0b\x0b\x0b",
    "huge key": b"\x0a\xd8\x0f\x0a\xd5\x0f\x0a\xd2\x0f" + b"k" * 2002,
    "text": b"plain text, no protobuf",
    "nothing": b"",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_record_that_is_no_example(tmp_path: Path, name: str) -> None:
    write(tmp_path, {SHARDS[0]: [NONSENSE[name], example(1).SerializeToString()]})
    found = candidates(tmp_path)
    with pytest.raises(LogError, match=r"tfrecord|usable sensor"):
        found["train_000000"]()
    assert found["train_000001"]().labels == {}  # one text is no label


def test_a_million_empty_fields_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multisense.logs.formats.tfrecord.MAX_FIELDS", 1000)
    write(tmp_path, {SHARDS[0]: [b"\x12\x00" * 2000]})
    with pytest.raises(LogError, match="found more than 1000 fields"):
        candidates(tmp_path)["train_000000"]()


def test_a_feature_that_disagrees_with_its_description_is_left_out(tmp_path: Path) -> None:
    message = example(0)
    message.features.feature["steps/observation/state"].float_list.value.append(1)
    message.features.feature["steps/action/arm"].int64_list.value.append(1)
    del message.features.feature["steps/observation/ticks"].int64_list.value[-2:]
    write(tmp_path, {SHARDS[0]: [message.SerializeToString()]})
    skipped = getattr(candidates(tmp_path)["train_000000"](), "skipped", {})
    assert skipped["steps/observation/state"] == "19 values in 6 steps of 3"
    assert skipped["steps/action/arm"] == "1 values in 6 steps of 2"
    assert skipped["steps/observation/ticks"] == "10 values in 6 steps of 2"


def test_images_of_another_size_or_kind(tmp_path: Path) -> None:
    content = description()
    steps = content["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    image = steps["observation"]["featuresDict"]["features"]["cam"]["image"]
    image["shape"]["dimensions"] = ["1000000", "12", "3"]
    write(tmp_path, {SHARDS[0]: [example(0).SerializeToString()]}, content)
    skipped = getattr(candidates(tmp_path)["train_000000"](), "skipped", {})
    assert skipped["steps/observation/cam"] == "no JPEG or PNG of shape (1000000, 12, 3), but (8, 12, 3)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "invalid JSON"),
        ("[1]", "a list; expected a JSON object"),
        ("[" * 200_000, "invalid JSON"),
        ('{"featuresDict": {"features": {"x": {"text": {}}}}}', "expected steps/observation or steps/action"),
        ('{"featuresDict": {"features": {"steps": {"sequence": 3}}}}', "expected steps/observation or steps/action"),
    ],
)
def test_a_bad_description(folder: Path, text: str, message: str) -> None:
    (folder / "features.json").write_text(text)
    with pytest.raises(LogError, match=rf"features\.json: found .*{message}"):
        candidates(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_description(folder: Path) -> None:
    (folder / "features.json").unlink()
    os.mkfifo(folder / "features.json")
    with pytest.raises(LogError, match=r"features\.json: found no readable file"):
        read_json(folder / "features.json")


def test_no_description(folder: Path) -> None:
    (folder / "features.json").unlink()
    assert not recognises(folder)
    with pytest.raises(LogError, match=r"features\.json: found no readable file; expected it, beside the TFRecord"):
        candidates(folder / SHARDS[0])


# A real robot


def test_real_bridge_episodes(realdata: Path) -> None:
    path = next((realdata / FOLDER).glob("*.tfrecord*"))
    content, at, number = path.read_bytes(), 0, 0
    found = candidates(realdata / FOLDER)
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        expected = EXAMPLE.FromString(content[at + 12 : at + 12 + length]).features.feature
        log = found[f"train_{number:06d}"]()
        for key in ("observation/state", "action"):
            data = log.read(key.removeprefix("observation/"), 0, 99).data
            np.testing.assert_array_equal(data.ravel(), np.float32(expected[f"steps/{key}"].float_list.value))
        images = expected["steps/observation/image_0"].bytes_list.value
        stream = log.read("image_0", 0.6, 0.9)
        np.testing.assert_allclose(stream.times_s, [0.6, 0.8])
        for frame, data in zip(stream.data, images[3:5], strict=True):
            np.testing.assert_array_equal(frame, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        label = log.labels["language_instruction"]
        assert label.classes[int(label.data)].encode() == expected["steps/language_instruction"].bytes_list.value[0]
        at, number = at + length + 16, number + 1
    assert number == len(found) == 25
