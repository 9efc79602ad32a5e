"""A run says where it came from, and loads only weights that are its own."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log, body_tree
from safetensors.torch import load_file, save_file

from multisense.checkpoint import load_weights
from multisense.clips import TrainingClips, read_clip
from multisense.config import ConfigError
from multisense.logs.base import LogError
from multisense.run import (
    RunConfig,
    build_model,
    build_objective,
    check_logs,
    code_fingerprint,
    create_run,
    data_fingerprint,
    flat,
    make_grids,
    open_run,
    parse_config,
    provenance,
    read_lines,
    resume_differs,
    shareable,
    untrained_model,
    write_atomically,
)
from multisense.statistics import fit_statistics
from multisense.train.guard import make_guard
from multisense.weights import save_tensors


@pytest.fixture
def run(tmp_path: Path, body_config: RunConfig, body_logs: list[ArrayLog]) -> Path:
    """A run folder with the weights of a model that was never trained, but has statistics."""
    path = tmp_path / "run"
    grids = make_grids(body_config, body_logs)
    create_run(path, body_config, grids, provenance(body_config, body_logs))
    objective = build_objective(body_config, grids)
    with torch.no_grad():
        objective.teacher.tokenizer("arm").mean.fill_(0.25)
        objective.teacher.sensor_embedding.add_(1)
    save_tensors(objective.teacher.state_dict(), path / "model.safetensors")
    save_tensors(objective.predictor.state_dict(), path / "predictor.safetensors")
    return path


def edit(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def test_a_run_is_opened_as_it_was_saved(run: Path, body_config: RunConfig):
    opened = open_run(run)
    saved = load_file(run / "model.safetensors")
    assert opened.config == body_config
    assert all(torch.equal(v, saved[k]) for k, v in opened.model.state_dict().items())
    assert all(torch.equal(v, saved[k]) for k, v in opened.objective.student.state_dict().items())
    assert not opened.model.training


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: w.pop("sensor_embedding"), "missing sensor_embedding"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda w: w.update(sensor_embedding=torch.zeros(4, 16)),
            r"sensor_embedding is \(4, 16\), expected \(4, 32\)",
        ),
        (lambda w: [w.pop(k) for k in list(w)[:8]], "and 2 more"),
    ],
    ids=["missing", "unexpected", "mis-shaped", "many"],
)
def test_weights_that_are_not_the_runs_are_named(run: Path, change: Callable, text: str):
    edit(run / "model.safetensors", change)
    with pytest.raises(ConfigError, match=rf"model.safetensors: these weights are of another model .*{text}"):
        open_run(run)


def test_a_checkpoint_of_another_shape_is_told(run: Path):
    text = (run / "config.yaml").read_text().replace("width: 32", "width: 48")
    (run / "config.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=r"another model than the run's configuration: .*is \(.*32.*\), expected \(.*48"
    ):
        open_run(run)


@pytest.mark.parametrize("file", ["model.safetensors", "predictor.safetensors"])
def test_weights_that_are_cut_short_are_told(run: Path, file: str):
    whole = (run / file).read_bytes()
    (run / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=rf"{file}: not readable as safetensors .* cut short"):
        open_run(run)
    (run / file).write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(ConfigError, match=rf"{file}: not readable as safetensors"):
        open_run(run)
    (run / file).unlink()
    with pytest.raises(ConfigError, match=rf"{file}: no weights; the run has not saved a checkpoint yet"):
        open_run(run)


def test_what_is_no_run_is_told(tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"not a run: it has no run.json; make one with `multisense train CONFIG --out"
    ):
        open_run(tmp_path)
    with pytest.raises(ConfigError, match="not a run: there is no such folder"):
        open_run(tmp_path / "gone")


def test_a_folder_that_holds_a_run_is_refused(run: Path, body_config: RunConfig, body_logs: list[ArrayLog]):
    with pytest.raises(ConfigError, match="already holds a run; continue it with --resume, or choose another --out"):
        create_run(run, body_config, make_grids(body_config, body_logs), provenance(body_config, body_logs))


def test_provenance_says_config_code_seed_and_data(run: Path, body_logs: list[ArrayLog]):
    origin = json.loads((run / "run.json").read_text())["provenance"]
    assert origin["config"] == json.loads(json.dumps(parse_config(body_tree()).tree()))
    assert origin["seed"] == 0
    assert origin["code"] == code_fingerprint()
    assert origin["data"] == data_fingerprint(body_logs)
    assert origin["logs"] == 6
    assert origin["torch"] == torch.__version__
    assert open_run(run).provenance == origin


def test_the_data_fingerprint_follows_the_data_and_not_their_order(body_config: RunConfig, body_logs: list[ArrayLog]):
    assert data_fingerprint(body_logs) == data_fingerprint(body_logs[::-1])
    assert data_fingerprint(body_logs) != data_fingerprint(body_logs[:-1])
    config = parse_config(body_tree(seed=3))
    assert provenance(config, body_logs)["seed"] == 3


def test_the_code_fingerprint_follows_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = code_fingerprint()
    package = Path(code_fingerprint.__code__.co_filename).parent
    copy = tmp_path / "multisense"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("multisense.run.__file__", str(copy / "run.py"))
    assert code_fingerprint() == before
    with (copy / "clips.py").open("a") as file:
        file.write("# changed\n")
    assert code_fingerprint() != before


def test_resuming_names_what_differs(run: Path, body_config: RunConfig, body_logs: list[ArrayLog]):
    assert resume_differs(run, body_config, body_logs) == []
    assert resume_differs(run, parse_config(body_tree(save_every=7, log_every=3)), body_logs) == []
    longer = parse_config(body_tree(steps=9))
    with pytest.raises(ConfigError, match=r"cannot go on with .* without --allow-changes: train.steps was 4, is 9"):
        resume_differs(run, longer, body_logs)
    assert resume_differs(run, longer, body_logs, allow=True) == ["train.steps was 4, is 9"]
    tree = body_tree()
    tree["sensors"]["arm"]["patch_s"] = 0.1
    with pytest.raises(ConfigError, match=r"sensors.arm.patch_s was 0.2, is 0.1"):
        resume_differs(run, parse_config(tree), body_logs)
    with pytest.raises(ConfigError, match=r"the fingerprint of the logs was .*, is "):
        resume_differs(run, body_config, body_logs[1:])


def test_nothing_to_resume_from_is_told(run: Path, body_config: RunConfig, body_logs: list[ArrayLog]):
    objective = build_objective(body_config, make_grids(body_config, body_logs))
    with pytest.raises(ConfigError, match=r"no checkpoint to resume from; it saves one every train.save_every steps"):
        load_weights(run, objective, make_guard(body_config.train), is_main=True)


def test_statistics_are_those_of_the_data(body_config: RunConfig, body_logs: list[ArrayLog]):
    grids = make_grids(body_config, body_logs)
    clips = TrainingClips(body_logs, grids, 1.0, 0, 100)
    model = build_model(body_config, grids, 0)
    fit_statistics(model, clips, count=32)
    seen = [clips[i] for i in range(32)]
    arm = np.concatenate([c.values["arm"].numpy()[c.valid["arm"].numpy()] for c in seen]).astype(np.float64)
    np.testing.assert_allclose(model.tokenizer("arm").mean.flatten(), arm.mean(0), atol=1e-5)
    np.testing.assert_allclose(model.tokenizer("arm").std.flatten(), arm.std(0), rtol=1e-4)
    # A camera may stand still: its mean is an image; its deviation is one number per channel.
    eye = np.concatenate([c.values["eye"].numpy() for c in seen]).astype(np.float64)
    np.testing.assert_allclose(model.tokenizer("eye").mean, eye.mean(0), rtol=1e-5)
    apart = eye - eye.mean(0)
    bursts = np.quantile(np.abs(apart), 0.999, axis=(0, 1, 2)) / 5
    np.testing.assert_allclose(
        model.tokenizer("eye").std.flatten(), np.maximum(apart.std((0, 1, 2)), bursts), rtol=0.05
    )
    # Mel bands are different things: one mean and deviation each.
    assert model.tokenizer("ear").mean.shape == (32, 1, 1)
    normal = torch.cat([model.tokenizer("ear").patches(c.values["ear"][None]) for c in seen])
    bands = normal.transpose(0, 3).flatten(1)
    torch.testing.assert_close(bands.mean(1), torch.zeros(32), atol=1e-3, rtol=0)
    assert bands.std(1).min() > 0.8
    assert bands.std(1).max() < 1.01


def test_a_sensor_that_is_mostly_silent_is_scaled_by_its_bursts(body_config: RunConfig, body_logs: list[ArrayLog]):
    def spoken(data: np.ndarray) -> np.ndarray:
        burst = np.arange(len(data))[:, None] % 50 == 0  # in 2 % of the samples
        return np.where(burst, 10.0, 0.01) * np.random.default_rng(0).choice((-1.0, 1.0), data.shape)

    logs = [changed(log, "arm", spoken) for log in body_logs]
    model = build_model(body_config, make_grids(body_config, logs), 0)
    fit_statistics(model, TrainingClips(logs, make_grids(body_config, logs), 1.0, 0, 100), count=16)
    # The deviation is 10 sqrt(.02) = 1.4; bursts would lie 7 deviations off.
    np.testing.assert_allclose(model.tokenizer("arm").std.flatten(), 2.0, rtol=0.05)


def changed(log: ArrayLog, sensor: str, change: Callable[[np.ndarray], np.ndarray]) -> ArrayLog:
    modality, rate, times, data = log.streams[sensor]
    return replace(log, streams={**log.streams, sensor: (modality, rate, times, change(data))})


def fit(config: RunConfig, logs: list[ArrayLog]) -> None:
    grids = make_grids(config, logs)
    fit_statistics(build_model(config, grids, 0), TrainingClips(logs, grids, 1.0, 0, 100), count=16)


def test_what_is_not_valid_does_not_count(body_config: RunConfig, body_logs: list[ArrayLog]):
    def spoil(data: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(data))[:, None] % 50 == 0, np.nan, 1.0 + 0 * data) + np.arange(3)

    logs = [changed(log, "arm", lambda d: spoil(d) + np.arange(len(d))[:, None] % 2) for log in body_logs]
    grids = make_grids(body_config, logs)
    model = build_model(body_config, grids, 0)
    fit_statistics(model, TrainingClips(logs, grids, 1.0, 0, 100), count=16)
    np.testing.assert_allclose(model.tokenizer("arm").mean.flatten(), [1.5, 2.5, 3.5], atol=0.05)


def test_a_constant_sensor_is_told(body_config: RunConfig, body_logs: list[ArrayLog]):
    logs = [changed(log, "pad", lambda d: np.full_like(d, 2.5)) for log in body_logs]
    with pytest.raises(LogError, match=r"sensors.pad: constant \(every channel stays at 2.5\) over 16 training clips"):
        fit(body_config, logs)


def test_a_frozen_camera_is_told(body_config: RunConfig, body_logs: list[ArrayLog]):
    picture = body_logs[0].streams["eye"][3][:1]
    logs = [changed(log, "eye", lambda d: np.repeat(picture, len(d), 0)) for log in body_logs]
    with pytest.raises(LogError, match=r"sensors.eye: constant .* over 16 training clips"):
        fit(body_config, logs)


def test_a_sensor_that_is_all_nan_is_told(body_config: RunConfig, body_logs: list[ArrayLog]):
    logs = [changed(log, "pad", lambda d: np.full_like(d, np.nan)) for log in body_logs]
    with pytest.raises(LogError, match=r"sensors.pad: no valid sample in 16 training clips \(all NaN"):
        fit(body_config, logs)


def test_one_constant_channel_is_left_as_it_is(body_config: RunConfig, body_logs: list[ArrayLog]):
    logs = [changed(log, "arm", lambda d: d * np.float32([1, 1, 0]) + np.float32([0, 0, 7])) for log in body_logs]
    grids = make_grids(body_config, logs)
    model = build_model(body_config, grids, 0)
    fit_statistics(model, TrainingClips(logs, grids, 1.0, 0, 100), count=16)
    assert model.tokenizer("arm").std.flatten()[2] == 1
    assert torch.isfinite(model.patches(batch_of(logs[0], model))["arm"]).all()


def batch_of(log: ArrayLog, model: torch.nn.Module):
    from multisense.clips import collate

    return collate([read_clip(log, 0.0, {n: model.tokenizer(n).grid for n in model.names}, 1.0)])


def test_a_sensor_that_no_log_has_is_told(body_logs: list[ArrayLog]):
    tree = body_tree()
    tree["sensors"]["nose"] = {"kind": "proprio"}
    with pytest.raises(
        LogError, match=r"sensors.nose: in none of the 6 logs of memory; they hold \['arm', 'ear', 'eye', 'pad'\]"
    ):
        make_grids(parse_config(tree), body_logs)


def test_logs_that_do_not_match_the_run_are_told(body_config: RunConfig, body_logs: list[ArrayLog]):
    grids = make_grids(body_config, body_logs)
    check_logs(body_config, grids, body_logs)
    two = changed(body_log(0), "arm", lambda d: d[:, :2])
    with pytest.raises(LogError, match=r"memory:body-000: sensor 'arm' has shape \(2,\), the run was made for \(3,\)"):
        check_logs(body_config, grids, [two])
    slow = body_log(0)
    slow.streams["arm"] = ("proprio", 50.0, *slow.streams["arm"][2:])
    with pytest.raises(
        LogError, match=r"'arm' has rate_hz 50.0, the run was made for 100.0; train with sensors.arm.rate_hz"
    ):
        check_logs(body_config, grids, [slow])
    with pytest.raises(LogError, match=r"'eye' has dtype float32, the run was made for uint8"):
        check_logs(body_config, grids, [changed(body_log(0), "eye", lambda d: d.astype(np.float32))])
    bare = replace(body_log(0), streams={"nose": body_log(0).streams["arm"]})
    with pytest.raises(LogError, match=r"memory:body-000: expected some of the sensors .* found \['nose'\]"):
        check_logs(body_config, grids, [bare])


def test_the_untrained_model_has_fresh_weights_and_the_runs_statistics(run: Path):
    opened = open_run(run)
    fresh = untrained_model(opened, 1)
    assert torch.equal(fresh.tokenizer("arm").mean, opened.model.tokenizer("arm").mean)
    assert (fresh.tokenizer("arm").mean == 0.25).all()
    assert not torch.equal(fresh.sensor_embedding, opened.model.sensor_embedding)


def test_a_file_is_whole_or_not_there(tmp_path: Path):
    write_atomically(tmp_path / "a.json", "first")
    write_atomically(tmp_path / "a.json", "second")
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "second"


def test_flat_key_paths():
    assert flat({"a": {"b": 1, "c": [2]}, "d": None}) == {"a.b": 1, "a.c": [2], "d": None}


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path):
    assert read_lines(tmp_path / "metrics.jsonl") == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2}\n{"st')
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None}, {"step": 2}]


def test_what_is_passed_on_holds_no_folder_of_the_machine(body_config: RunConfig, body_logs: list[ArrayLog]):
    made = provenance(body_config, body_logs)
    assert shareable(made) == made, "nothing else is changed"
    data = {"train": "/srv/a/kitchen", "test": "../a/cellar.h5", "cache": None, "hold_out": ["one", "two"]}
    first = {"train": {"count": 3, "first": "a/b/x.h5"}, "test": {"count": 1, "first": "hf://datasets/a/b"}}
    before = {
        "config": {"data": data, "train": {"steps": 3}},
        "parts": ["/srv/a/x", "b/c"],
        "ablation": {"logs": first},
    }
    assert shareable({"seed": 0, "before": before}) == {
        "seed": 0,
        "before": {
            "config": {
                "data": {"train": "kitchen", "test": "cellar.h5", "cache": None, "hold_out": ["one", "two"]},
                "train": {"steps": 3},
            },
            "parts": ["x", "b/c"],
            "ablation": {
                "logs": {
                    "train": {"count": 3, "first": "x.h5"},
                    "test": {"count": 1, "first": "hf://datasets/a/b"},
                }
            },
        },
    }
