"""What `multisense view` writes, read back by Rerun's own reader and compared with the log and the run."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log
from PIL import Image
from test_cli import run as command
from test_cli import write_body
from test_embed import make_run

from multisense.clips import collate, read_clip
from multisense.masking import draw_masks
from multisense.run import Run
from multisense.types import Label
from multisense.view.recording import record
from multisense.view.send import CLOCK, path
from multisense.view.streams import MELS, envelope, mel

rr = pytest.importorskip("rerun")
experimental = pytest.importorskip("rerun.experimental")
Read = Mapping[str, tuple[np.ndarray, list]]
"""component of an entity -> its times in nanoseconds (static: empty) and its rows"""


def read(file: Path) -> Read:
    """Every component of a recording, its rows in order of time."""
    rows: dict[str, list[tuple[int, list]]] = {}
    for chunk in experimental.RrdReader(file).stream().to_chunks():
        assert chunk.timeline_names in ([], [CLOCK])
        batch = chunk.to_record_batch()
        times = batch.column(CLOCK).cast("int64").to_pylist() if chunk.timeline_names else [-1] * chunk.num_rows
        for name in set(batch.schema.names) - {CLOCK, "rerun.controls.RowId"}:
            values = batch.column(name).to_pylist()
            rows.setdefault(f"{chunk.entity_path}|{name}", []).extend(
                (time, value) for time, value in zip(times, values, strict=True) if value is not None
            )
    ordered = {name: sorted(some, key=lambda row: row[0]) for name, some in rows.items()}
    return {name: (np.array([t for t, _ in some if t != -1]), [v for _, v in some]) for name, some in ordered.items()}


def series(found: Read, *parts: str) -> tuple[np.ndarray, np.ndarray]:
    times, values = found[f"{path(*parts)}|Scalars:scalars"]
    return times, np.array(values)


def images(found: Read, kind: str, dtype: type, *parts: str) -> tuple[np.ndarray, np.ndarray]:
    times, buffers = found[f"{path(*parts)}|{kind}:buffer"]
    forms = found[f"{path(*parts)}|{kind}:format"][1]
    pixels = [
        np.frombuffer(bytes(blob[0]), dtype).reshape(form[0]["height"], form[0]["width"])
        for blob, form in zip(buffers, forms, strict=True)
    ]
    return times, np.stack(pixels)


def nanoseconds(times_s: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(times_s) * 1e9).astype(np.int64)


def entities(found: Read) -> set[str]:
    return {name.partition("|")[0] for name in found}


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


@pytest.fixture(scope="module")
def log() -> ArrayLog:
    log = body_log(3)
    times = np.arange(60) / 20 + 0.05
    wrench = np.random.default_rng(0).normal(size=(60, 6))
    streams = {**log.streams, "/imu/data raw": ("proprio", 20.0, times, wrench)}
    contact = Label("contact", np.array([0, 1, -1, 2]), np.arange(4.0) / 2, "max", ("none", "slide", "roll"))
    labels = {**log.labels, "contact": contact, "never": Label("never", np.zeros((0, 2)), np.zeros(0), units="m")}
    return ArrayLog("body", streams, labels)


@pytest.fixture(scope="module")
def found(run, log, tmp_path_factory) -> Read:
    file = tmp_path_factory.mktemp("view") / "run.rrd"
    assert record(log, run, file, seed=5) == 3
    return read(file)


# --- streams


@pytest.mark.parametrize("name", ["arm", "/imu/data raw"])
def test_every_sample_of_a_vector_is_there_at_its_stamp(found, log, name):
    times, values = series(found, "streams", name, "values")
    np.testing.assert_array_equal(times, nanoseconds(log.streams[name][2]))
    np.testing.assert_array_equal(values, log.streams[name][3].astype(np.float64))


def test_every_frame_is_there_at_its_stamp_as_a_jpeg_of_it(found, log):
    times, blobs = found["/streams/eye/picture|EncodedImage:blob"]
    _, _, stamps, frames = log.streams["eye"]
    np.testing.assert_array_equal(times, nanoseconds(stamps))
    for blob, frame in zip(blobs, frames, strict=True):
        picture = Image.open(io.BytesIO(bytes(blob[0])))
        assert picture.format == "JPEG"
        assert (
            np.abs(np.asarray(picture, float) - frame).mean() < 12
        )  # noise on colours, halved by JPEG; levels 0 to 230


def test_a_pad_is_the_length_of_the_force_on_every_taxel(found, log):
    _, _, stamps, data = log.streams["pad"]
    times, maps = images(found, "DepthImage", np.float32, "streams", "pad", "heat")
    lengths = np.sqrt(sum(data[..., c].astype(float) ** 2 for c in range(3)))
    np.testing.assert_array_equal(times, nanoseconds(stamps))
    np.testing.assert_allclose(maps, lengths, rtol=1e-6)
    _, strength = series(found, "streams", "pad", "strength")
    np.testing.assert_allclose(strength, [[x.mean(), x.max()] for x in lengths])
    low, high = found["/streams/pad/heat|DepthImage:depth_range"][1][0][0]
    assert (low, high) == (0, pytest.approx(lengths.max()))


def test_the_envelope_holds_every_sample_of_a_sound_and_touches_some(found, log):
    _, _, stamps, sound = log.streams["ear"]
    times, ends = series(found, "streams", "ear", "envelope")
    blocks = sound.reshape(300, 80)
    np.testing.assert_array_equal(times, nanoseconds(stamps[::80]))
    np.testing.assert_allclose(ends, [[x.min(), x.max()] for x in blocks])


def test_an_envelope_of_stamps_that_jump_leaves_the_gap_empty():
    stamps = np.concatenate([np.arange(100) / 1000, 0.5 + np.arange(15) / 1000])
    times, ends = envelope(stamps, np.arange(115.0))
    np.testing.assert_allclose(times, [*np.arange(10) / 100, 0.5, 0.51])
    np.testing.assert_array_equal(ends[-2:], [[100, 109], [110, 114]])


@pytest.mark.parametrize(("rate_hz", "tone_hz"), [(8000, 400), (8000, 3000), (1000, 200), (44100, 9000)])
def test_a_tone_is_where_the_mel_scale_has_it_while_it_sounds(rate_hz, tone_hz):
    stamps = np.delete(np.arange(rate_hz) / rate_hz, slice(rate_hz // 4, rate_hz // 2))  # and not recorded for a while
    picture = mel(stamps, np.sin(2 * np.pi * tone_hz * stamps), rate_hz)
    position = np.log(1 + tone_hz / 700) / np.log(1 + rate_hz / 2 / 700) * (MELS + 1) - 1
    assert picture.shape == (MELS, 101)
    assert MELS - 1 - picture[:, 80].argmax() == pytest.approx(position, abs=1)
    assert picture[:, 80].max() > picture[:, 37].max() + 60


def test_labels_keep_their_values_and_what_is_not_known_is_no_class(found, log):
    times, values = series(found, "labels", "height")
    np.testing.assert_array_equal(times, nanoseconds(log.labels["height"].times_s))
    np.testing.assert_array_equal(values[:, 0], log.labels["height"].data.astype(float))
    np.testing.assert_array_equal(series(found, "labels", "contact")[1][:, 0], [0, 1, np.nan, 2])
    assert "/labels/never|Scalars:scalars" not in found
    text = found["/about|TextDocument:text"][1][0][0]
    assert "- contact: 0 none, 1 slide, 2 roll" in text
    assert f"- fast: {log.labels['fast'].classes[int(log.labels['fast'].data)]}" in text


def test_names_and_units_are_those_of_the_log(tmp_path, monkeypatch, capsys, body):
    assert command(monkeypatch, capsys, "view", body, "--save", tmp_path / "x.rrd")[0] == 0
    found = read(tmp_path / "x.rrd")
    assert found["/streams/arm/values|SeriesLines:names"][1] == [["left (rad)", "right (rad)"]]
    assert found["/labels/force|SeriesLines:names"][1] == [["force (N)"]]


def test_a_pad_of_bytes_a_grey_camera_and_a_fast_joint_are_shown_as_what_they_are(tmp_path):
    rng, t = np.random.default_rng(0), np.arange(40) / 20
    streams = {
        "eye": ("video", 20.0, t, rng.integers(0, 255, (40, 32, 32, 1), np.uint8)),
        "pad": ("touch", 20.0, t, rng.integers(0, 255, (40, 4, 4, 3), np.uint8)),
        "arm": ("proprio", 4000.0, t, rng.normal(size=(40, 6))),
    }
    record(ArrayLog("odd", streams), None, tmp_path / "x.rrd", seed=0)
    found = read(tmp_path / "x.rrd")
    assert {"/streams/eye/picture", "/streams/pad/heat", "/streams/arm/values"} <= entities(found)
    _, maps = images(found, "DepthImage", np.float32, "streams", "pad", "heat")
    np.testing.assert_allclose(maps, np.linalg.norm(streams["pad"][3].astype(float), axis=-1), rtol=1e-6)


# --- what a run sees


def masks(run: Run, window: int, seed: int) -> tuple[set[int], set[int]]:
    """Kept and hidden tokens of a window, by the function that training draws with."""
    config = run.config.objective.masks.model_copy(update={"masks_per_clip": 1})
    mask = draw_masks(run.model.layout, config, seed, window, [window])[0]
    return set(mask.keep[0].tolist()), set(mask.target[0].tolist())


def test_tokens_kept_and_hidden_are_all_tokens_and_those_of_training(found, run):
    kinds = set()
    for window in range(3):
        kept, hidden = masks(run, window, seed=5)
        assert not kept & hidden
        assert kept | hidden == set(range(len(run.model.layout)))
        shown = shown_tokens(found, run, window)
        assert {t for t, state in shown.items() if state == 1} == kept
        assert {t for t, state in shown.items() if state == 2} == hidden
        kinds.add(tuple(sorted(kept)))
    assert len(kinds) > 1


def shown_tokens(found: Read, run: Run, window: int) -> dict[int, int]:
    """Token -> state: of the pixel, or the cell of a raster, where the layout says that the token's centre is."""
    shown = {}
    layout = run.model.layout
    for token in range(len(layout)):
        name = layout.names[int(layout.sensor[token])]
        own = layout.time_s[layout.sensor == layout.sensor[token]]
        y, x = layout.place[token].tolist()
        if name == "eye":
            times, pixels = images(found, "SegmentationImage", np.uint8, "tokens", name, "mask")
            now = np.searchsorted(times, nanoseconds(np.array(window + float(layout.time_s[token])))) - 1
            shown[token] = int(pixels[now, int(y * 32), int(x * 32)])
        else:
            times, pixels = images(found, "SegmentationImage", np.uint8, "tokens", name, "raster")
            assert times.tolist() == [0, 10**9, 2 * 10**9]
            step = int((torch.unique(own) < layout.time_s[token] - 1e-6).sum())
            shown[token] = int(pixels[window, int((1 - y) * pixels.shape[1]), step])
    return shown


def test_frames_under_the_mask_are_those_that_the_model_is_given(found, run, log):
    times, blobs = found["/tokens/eye/frame|EncodedImage:blob"]
    assert times.tolist() == [round(i * 1e8) for i in range(30)]
    clip = read_clip(log, 2.0, run.grids, 1.0)
    last = np.asarray(Image.open(io.BytesIO(bytes(blobs[-1][0]))), float)
    assert np.abs(last - clip.values["eye"][-1].numpy()).mean() < 12


def test_the_masks_depend_on_the_seed_alone(run, log, tmp_path, found):
    for seed in (5, 6):
        record(log, run, tmp_path / f"{seed}.rrd", seed)
    same, other = read(tmp_path / "5.rrd"), read(tmp_path / "6.rrd")
    key = "/tokens/eye/mask|SegmentationImage:buffer"
    assert same[key][1] == found[key][1] != other[key][1]


@pytest.mark.parametrize("context", [("ear",), ("eye", "ear", "arm")])
def test_the_error_of_a_direction_is_that_of_the_objective_on_that_window(found, run, log, context):
    batch = collate([read_clip(log, 1.0, run.grids, 1.0)])
    prediction, truth, valid = run.objective.predict_sensor(batch, context, "pad")
    assert valid.all()
    times, values = series(found, "prediction", "pad", "+".join(context))
    inside = (times >= 10**9) & (times < 2 * 10**9)
    np.testing.assert_allclose(times[inside], 10**9 + np.array([1, 3, 5, 7, 9]) * 10**8)  # five tokens of 0.2 s
    by_hand = np.abs((prediction - truth).numpy()[0]).mean(1)
    np.testing.assert_allclose(values[inside, 0], by_hand, rtol=1e-4)
    _, mean = series(found, "prediction", "pad", "mean of training")
    np.testing.assert_allclose(mean[inside, 0], np.abs(truth.numpy()[0]).mean(1), rtol=1e-4)
    loss = torch.nn.functional.l1_loss(prediction, truth).item()
    assert 1 - values[inside].mean() / mean[inside].mean() == pytest.approx(
        1 - loss / truth.abs().mean().item(), rel=1e-4
    )


def test_the_error_of_a_picture_is_the_mean_over_its_patches(found, run, log):
    prediction, truth, _ = run.objective.predict_sensor(collate([read_clip(log, 0.0, run.grids, 1.0)]), ["arm"], "eye")
    token = (prediction - truth).abs().mean(-1)[0]
    when = run.model.time_s[run.model.sensor == 0]
    _, values = series(found, "prediction", "eye", "arm")
    by_hand = [float(token[when == moment].mean()) for moment in torch.unique(when)]
    np.testing.assert_allclose(values[: len(by_hand), 0], by_hand, rtol=1e-4)


def test_the_embedding_is_the_first_principal_components_of_the_vectors_over_time(found, run, log):
    clips = [run.model.embed(collate([read_clip(log, float(s), run.grids, 1.0)])) for s in range(3)]
    vectors = torch.cat([clip.per_time[0] for clip in clips]).double().numpy()
    times, points = series(found, "embedding", "components")
    np.testing.assert_allclose(times, [1e9 * (s + t) for s in range(3) for t in clips[0].times_s.tolist()], rtol=1e-6)
    centred = vectors - vectors.mean(0)
    squares, places = np.linalg.eigh(centred @ centred.T)  # of the Gram matrix: another way to the same numbers
    expected = (places * np.sqrt(squares.clip(0)))[:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-3 * np.abs(points).max())
    now = np.array(found["/embedding/now|Points3D:positions"][1][: len(points)])
    np.testing.assert_allclose(now[:, 0], points, rtol=1e-5, atol=1e-5)
    assert len(found["/embedding/path|LineStrips3D:strips"][1][0]) == len(points) - 1


# --- what may be missing


def without(log: ArrayLog, *names: str) -> ArrayLog:
    return ArrayLog(log.name, {n: s for n, s in log.streams.items() if n not in names}, log.labels)


def test_an_absent_camera_is_nowhere_and_nothing_is_said_of_it(run, log, tmp_path):
    assert record(without(log, "eye", "pad"), run, tmp_path / "x.rrd", 5) == 3
    found = read(tmp_path / "x.rrd")
    assert not {e for e in entities(found) if e.startswith("/streams/eye")}
    assert (images(found, "SegmentationImage", np.uint8, "tokens", "eye", "mask")[1] == 0).all()
    assert (images(found, "SegmentationImage", np.uint8, "tokens", "pad", "raster")[1] == 0).all()
    assert "/tokens/eye/frame|EncodedImage:blob" not in found
    told = {name.partition("|")[0] for name in found if name.endswith("Scalars:scalars")}
    assert {e for e in told if e.startswith("/prediction/")} == {
        *(f"{path('prediction', 'arm', c)}" for c in ("ear", "eye+ear+pad", "mean of training")),
        *(f"{path('prediction', 'ear', c)}" for c in ("arm", "eye+pad+arm", "mean of training")),
    }  # fmt: skip


def test_a_gap_is_absent_for_as_long_as_it_lasts(run, log, tmp_path):
    kind, rate, times, data = log.streams["arm"]
    there = (times < 1.2) | (times >= 1.6)
    gappy = ArrayLog("gap", {**log.streams, "arm": (kind, rate, times[there], data[there])})
    record(gappy, run, tmp_path / "x.rrd", 5)
    _, rasters = images(read(tmp_path / "x.rrd"), "SegmentationImage", np.uint8, "tokens", "arm", "raster")
    assert (rasters == 0).all(1).tolist() == [[False] * 5, [False, True, True, False, False], [False] * 5]


def test_a_log_shorter_than_a_clip_shows_its_streams_alone(run, tmp_path):
    assert record(body_log(1, seconds=0.6), run, tmp_path / "x.rrd", 0) == 0
    found = read(tmp_path / "x.rrd")
    assert len(series(found, "streams", "arm", "values")[0]) == 60
    assert not {e for e in entities(found) if e.startswith(("/tokens", "/prediction", "/embedding"))}


def test_a_run_of_one_sense_predicts_nothing_and_says_the_rest(log, tmp_path):
    record(log, make_run(["arm"]), tmp_path / "x.rrd", 0)
    found = read(tmp_path / "x.rrd")
    assert not {e for e in entities(found) if e.startswith("/prediction")}
    assert len(series(found, "embedding", "components")[0]) == 15


# --- layout and command


@pytest.mark.parametrize("missing", [(), ("eye",), ("eye", "ear", "pad")])
def test_every_view_of_the_layout_has_something_to_show(run, log, tmp_path, missing):
    for model in (None, run):
        record(without(log, *missing), model, tmp_path / "x.rrd", 0)
        reader = experimental.RrdReader(tmp_path / "x.rrd")
        shown = entities(read(tmp_path / "x.rrd"))
        blueprint = [chunk.to_record_batch() for chunk in reader.stream(store=reader.blueprints()[0]).to_chunks()]
        column = "ViewBlueprint:space_origin"
        origins = [
            o for b in blueprint if column in b.schema.names for row in b.column(column).to_pylist() for o in row
        ]
        assert len(origins) >= 2
        assert all(any(f"{entity}/".startswith(f"/{origin.strip('/')}/") for entity in shown) for origin in origins)


def test_of_several_logs_the_first_is_shown_and_said_so_or_the_one_named(tmp_path, monkeypatch, capsys):
    logs = write_body(tmp_path / "logs", range(2))
    words = "view", logs, "--save", tmp_path / "x.rrd"
    status, said, _ = command(monkeypatch, capsys, *words)
    assert status == 0
    assert "body-000: the first of 2 logs; --log NAME" in said
    assert (tmp_path / "x.rrd").stat().st_size > 1000
    status, said, _ = command(monkeypatch, capsys, *words, "--log", "body-001")
    assert "the first of" not in said
    _, values = series(read(tmp_path / "x.rrd"), "streams", "arm", "values")
    np.testing.assert_array_equal(values, body_log(1).streams["arm"][3].astype(float))
    status, _, said = command(monkeypatch, capsys, *words, "--log", "body-002")
    assert status == 1
    assert "no log 'body-002' among 2; did you mean 'body-00" in said
    status, _, said = command(monkeypatch, capsys, "view", logs, "--save", tmp_path / "nowhere" / "x.rrd")
    assert status == 1
    assert "nowhere" in said


def test_a_log_is_not_written_over(tmp_path, monkeypatch, capsys):
    logs = write_body(tmp_path / "logs", range(1))
    file = next(logs.glob("*.h5"))
    before = file.read_bytes()
    status, _, said = command(monkeypatch, capsys, "view", file, "--save", file)
    assert status == 1
    assert f"{file}: expected a name that ends in .rrd" in said.replace("\n", "")
    assert file.read_bytes() == before


def test_without_rerun_the_fix_is_named(tmp_path, monkeypatch, capsys, body):
    monkeypatch.setattr("multisense.view.show.find_spec", lambda name: None)
    status, _, said = command(monkeypatch, capsys, "view", body)
    assert status == 1
    assert "Install multisense's extra `rerun`: pip install -e '.[rerun]'" in said


def test_without_a_file_the_viewer_is_opened_and_gets_everything(monkeypatch, capsys, tmp_path, body):
    """A viewer needs a screen: what it would be sent goes into a file instead."""
    opened = []

    def spawn(*, recording: rr.RecordingStream, default_blueprint: object, executable_path: str | None) -> None:
        opened.append(executable_path)
        recording.save(tmp_path / "sent.rrd", default_blueprint=default_blueprint)

    monkeypatch.setattr(rr, "spawn", spawn)
    status, said, _ = command(monkeypatch, capsys, "view", body)
    assert status == 0
    assert "body is in the viewer" in said
    assert [Path(viewer).name for viewer in opened] == ["rerun"]
    assert command(monkeypatch, capsys, "view", body, "--save", tmp_path / "saved.rrd")[0] == 0
    sent, saved = read(tmp_path / "sent.rrd"), read(tmp_path / "saved.rrd")
    assert sent.keys() == saved.keys()
    assert sent["/streams/mic/envelope|Scalars:scalars"][1] == saved["/streams/mic/envelope|Scalars:scalars"][1]
