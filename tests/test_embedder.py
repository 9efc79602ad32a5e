"""The scikit-learn transformer: the rows of `multisense embed`, clones, pipelines."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log, body_tree
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from multisense.config import ConfigError
from multisense.embed import embed_logs
from multisense.embedder import MultiSenseEmbedder
from multisense.logs import Recording, write_log
from multisense.logs.base import LogError
from multisense.run import build_objective, create_run, make_grids, open_run, parse_config, provenance
from multisense.weights import save_tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    config, logs = parse_config(body_tree()), [body_log(0)]
    grids = make_grids(config, logs)
    create_run(path, config, grids, provenance(config, logs))
    objective = build_objective(config, grids)
    save_tensors(objective.teacher.state_dict(), path / "model.safetensors")
    save_tensors(objective.predictor.state_dict(), path / "predictor.safetensors")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for number in range(3):
        log = body_log(number)
        streams = {n: Recording(m, r, d, times_s=t) for n, (m, r, t, d) in log.streams.items()}
        write_log(folder / f"{log.name}.h5", streams, log.labels.values(), source="a test")
    return folder


def test_windows_are_the_rows_of_multisense_embed(run, body_logs, tmp_path):
    embed_logs(open_run(run), body_logs, tmp_path / "out.h5", stride_s=0.3)
    rows = MultiSenseEmbedder(run, rows="window", stride_s=0.3).fit_transform(body_logs)
    means = MultiSenseEmbedder(run, stride_s=0.3).fit_transform(body_logs)
    with h5py.File(tmp_path / "out.h5") as file:
        expected = [np.asarray(file[f"{log.name}/fused"]) for log in body_logs]
    np.testing.assert_array_equal(rows, np.concatenate(expected))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(means, [e.mean(0) for e in expected], rtol=1e-5, atol=1e-6)


def test_a_published_model_gives_the_rows_of_its_run(run, body_logs, tmp_path):
    open_run(run).model.save_pretrained(tmp_path / "published")
    ours, theirs = (MultiSenseEmbedder(x).fit_transform(body_logs) for x in (run, tmp_path / "published"))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, MultiSenseEmbedder(open_run(run)).fit_transform(body_logs))
    np.testing.assert_array_equal(ours, MultiSenseEmbedder(open_run(run).model).fit_transform(body_logs))


def test_paths_of_folders_and_of_logs(run, folder):
    embedder = MultiSenseEmbedder(str(run))
    whole = embedder.transform(folder)
    assert whole.shape == (3, 4 * 64)
    np.testing.assert_array_equal(whole, embedder.transform(sorted(folder.glob("*.h5"))))
    np.testing.assert_array_equal(whole[1:2], embedder.transform([str(folder / "body-001.h5")]))
    assert embedder.transform([]).shape == (0, 256)


def test_features_are_named_and_sensors_left_out_are_zero(run, body_logs):
    embedder = MultiSenseEmbedder(run, sensors=["arm", "eye"])
    names, rows = embedder.get_feature_names_out(), embedder.transform(body_logs[:2])
    assert (names[0], names[32], names[-1]) == ("eye_mean_0", "eye_max_0", "arm_max_31")
    for name in ("eye", "ear", "pad", "arm"):
        here = rows[:, [n.startswith(f"{name}_") for n in names]]
        assert here.shape == (2, 64)
        assert here.any() == (name in ("eye", "arm"))
    pandas = pytest.importorskip("pandas")
    table = embedder.set_output(transform="pandas").fit_transform(body_logs[:2])
    assert isinstance(table, pandas.DataFrame)


def test_clone_and_pickle_hold_the_settings_and_no_weights(run, body_logs):
    embedder = MultiSenseEmbedder(run, rows="window", stride_s=0.25, sensors=["arm"], batch_size=3).fit()
    for other in (clone(embedder), pickle.loads(pickle.dumps(embedder))):
        assert other.get_params() == embedder.get_params()
        assert "_model" not in vars(other)
        np.testing.assert_array_equal(other.fit_transform(body_logs[:2]), embedder.transform(body_logs[:2]))
    assert len(pickle.dumps(embedder)) < 2000


def test_a_pipeline_with_one_target_per_log(run, folder, tmp_path, monkeypatch):
    logs = [folder / f"body-{i:03d}.h5" for i in (0, 1, 2)] * 4
    targets = [0, 1, 1] * 4
    steps = [("embed", MultiSenseEmbedder(run)), ("scale", StandardScaler()), ("probe", LogisticRegression())]
    pipeline = Pipeline(steps, memory=str(tmp_path / "cache"))
    assert pipeline.fit(logs, targets).score(logs, targets) == 1.0
    assert cross_val_score(pipeline, logs, targets, cv=2).tolist() == [1.0, 1.0]
    seen = []
    monkeypatch.setattr(MultiSenseEmbedder, "transform", lambda *args: seen.append(args))
    clone(pipeline).fit(logs, targets)
    assert not seen  # the training logs' rows were kept


def test_a_pipeline_does_not_keep_rows_of_older_weights(run, folder, tmp_path):
    logs, targets = [folder / f"body-{i:03d}.h5" for i in (0, 1, 2)], [0, 1, 1]
    place = shutil.copytree(run, tmp_path / "run")
    pipeline = Pipeline(
        [("embed", MultiSenseEmbedder(place)), ("probe", LogisticRegression())], memory=str(tmp_path / "cache")
    )
    before = pipeline.fit(logs, targets)["probe"].coef_
    model = open_run(place).model
    with torch.no_grad():
        model.sensor_embedding.mul_(-3)
    save_tensors(model.state_dict(), place / "model.safetensors")
    after = clone(pipeline).fit(logs, targets)["probe"].coef_
    fresh = LogisticRegression().fit(MultiSenseEmbedder(place).transform(logs), targets).coef_
    np.testing.assert_allclose(after, fresh, atol=1e-6)
    assert np.abs(after - before).max() > 1e-3


def test_windows_without_a_chosen_sensor_have_no_row(run):
    """Of the arm, 1.5 s of 3 s and the last sample are there: of five windows the last two hold none of its tokens."""
    log = body_log(0)
    kind, rate, times, data = log.streams["arm"]
    late = {**log.streams, "arm": (kind, rate, np.append(times[:150], times[-1]), np.append(data[:150], data[-1:], 0))}
    half = replace(log, streams=late)
    rows = MultiSenseEmbedder(run, rows="window", sensors=["arm"]).transform([half])
    known = MultiSenseEmbedder(run, rows="window", sensors=["arm"]).transform([log])
    assert np.isnan(rows).all(1).tolist() == [False, False, False, True, True]
    np.testing.assert_allclose(rows[:2], known[:2], atol=1e-5)
    mean = MultiSenseEmbedder(run, sensors=["arm"]).transform([half])
    np.testing.assert_allclose(mean[0], rows[:3].mean(0), atol=1e-6)
    deaf = replace(log, streams={name: stream for name, stream in log.streams.items() if name != "ear"})
    with pytest.raises(LogError, match=r"memory:body-000: none of \['ear'\] is there in any of 5 windows"):
        MultiSenseEmbedder(run, sensors=["ear"]).transform([deaf])
    assert np.isnan(MultiSenseEmbedder(run, rows="window", sensors=["ear"]).transform([deaf])).all()
    assert np.isfinite(MultiSenseEmbedder(run).transform([deaf])).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sensors": []}, r"sensors=\[\]: expected some of \['eye', 'ear', 'pad', 'arm'\], or None for all"),
        ({"rows": "frames"}, "rows='frames': expected 'log' or 'window'"),
        ({"stride_s": 0}, "stride_s=0: expected a positive number of seconds"),
        ({"sensors": ["nose"]}, r"sensors: no \['nose'\] in the model; it was trained on \['eye'"),
    ],
)
def test_settings_that_do_not_fit(run, given, message):
    with pytest.raises(ValueError, match=message):
        MultiSenseEmbedder(run, **given).fit()


def test_what_is_no_model_and_logs_that_do_not_fit(run, tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json"):
        MultiSenseEmbedder(tmp_path).fit()
    short = body_log(0, seconds=0.9)
    with pytest.raises(LogError, match=r"memory:body-000: shorter than one clip of 1\.0 s"):
        MultiSenseEmbedder(run).transform([short])
    assert MultiSenseEmbedder(run, rows="window").transform([short]).shape == (0, 256)
    other = ArrayLog("other", {"nose": body_log(0).streams["arm"]})
    with pytest.raises(LogError, match="expected some of the sensors"):
        MultiSenseEmbedder(run).transform([other])


def test_a_model_stays_where_it_is_and_learns_nothing(run, body_logs):
    model = open_run(run).model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    MultiSenseEmbedder(model).fit(body_logs, [0] * 6).transform(body_logs)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
