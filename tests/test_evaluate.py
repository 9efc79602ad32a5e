"""Labels per window, probes, scores and their intervals, raw signals, retrieval: each against something independent."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score

from multisense.evaluate.bench import bench
from multisense.evaluate.probe import RIDGE_STRENGTHS, _RidgePath, predict
from multisense.evaluate.raw import compress, joint, raw_features
from multisense.evaluate.retrieval import galleries, ranks, skill, summary
from multisense.evaluate.scores import constant, mean_score, resamples, score
from multisense.evaluate.windows import Target, label_names, targets, window_values
from multisense.types import Batch, Label


def target(values: np.ndarray, is_class: bool = False, present: np.ndarray | None = None) -> Target:
    return Target("t", values, np.ones(len(values), bool) if present is None else present, is_class)


# --- labels per window


@pytest.mark.parametrize("reduce", ["mean", "max", "last", "unique"])
@pytest.mark.parametrize("kind", ["class", "quantity", "vector"])
def test_window_values_agree_with_a_loop_over_the_samples(reduce, kind):
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 10, 60)).round(1) + np.arange(60) * 1e-9
    data = {
        "class": rng.integers(-1, 3, 60),
        "quantity": np.where(rng.random(60) < 0.2, np.nan, rng.normal(size=60).round()),
        "vector": rng.normal(size=(60, 2)).round(),
    }[kind]
    if kind == "class" and reduce == "mean":
        with pytest.raises(ValueError, match="holds classes, which have no mean"):
            window_values(Label("l", data, times, reduce), np.zeros(1), 1.0)
        return
    starts = np.arange(-1, 11, 0.25)
    values, present = window_values(Label("l", data, times, reduce), starts, 0.5)
    for start, value, there in zip(starts, values, present, strict=True):
        known = [x for t, x in zip(times, data, strict=True) if start <= t < start + 0.5 and np.all(x >= -99)]
        known = [x for x in known if kind != "class" or x >= 0]
        same = len({tuple(np.atleast_1d(x)) for x in known}) == 1
        assert there == (same if reduce == "unique" else len(known) > 0)
        if there:
            expected = {
                "mean": sum(known) / len(known),
                "max": np.max(known, axis=0),
                "last": known[-1],
                "unique": known[0],
            }
            np.testing.assert_allclose(value, expected[reduce])


def test_windows_are_half_open():
    label = Label("l", np.array([1.0, 2.0]), np.array([0.0, 1.0]), "max")
    values, present = window_values(label, np.array([0.0, 1.0, 1.1]), 1.0)
    assert values[:2].tolist() == [1.0, 2.0]
    assert present.tolist() == [True, True, False]


def test_a_label_of_a_whole_log_is_its_value_in_every_window_and_a_negative_class_is_unknown():
    values, present = window_values(Label("l", np.array(2), classes=("a", "b", "c")), np.arange(3.0), 1.0)
    assert values.tolist() == [2, 2, 2]
    assert present.all()
    assert not window_values(Label("l", np.array(-1)), np.arange(3.0), 1.0)[1].any()


def test_targets_over_logs_are_absent_where_a_log_lacks_the_label(body_logs):
    without = body_logs[1]
    without.labels = {"fast": without.labels["fast"]}
    found = targets(body_logs[:2], [(0, 0.0), (1, 0.0), (0, 1.0)], 1.0, ["height", "fast"])
    assert found["height"].present.tolist() == [True, False, True]
    assert found["fast"].present.all()
    assert label_names(body_logs[:1], [without]) == ["fast"]


# --- probes


def test_ridge_path_is_the_closed_form_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(80, 12)) + 3, rng.normal(size=(80, 2)), rng.normal(size=(9, 12))
    path = _RidgePath(x, y)
    for strength in RIDGE_STRENGTHS[::4]:
        expected = Ridge(alpha=strength * len(x)).fit(x, y).predict(new)
        np.testing.assert_allclose(path.predict(strength, new), expected, atol=1e-9)


def test_probe_recovers_a_linear_quantity_and_ignores_constant_features():
    rng = np.random.default_rng(1)
    x, x_test = rng.normal(size=(300, 6)) * 1e-3, rng.normal(size=(100, 6)) * 1e-3
    x[:, 5] = x_test[:, 5] = 7.0
    predicted = predict(target(1e3 * x[:, :2]), x, x_test, np.repeat(np.arange(30), 10))
    assert r2_score(1e3 * x_test[:, :2], predicted) > 0.999


def test_dimensions_have_the_same_say_whatever_their_units_and_an_idle_one_has_little():
    rng = np.random.default_rng(11)
    x, x_test = rng.normal(size=(400, 4)), rng.normal(size=(200, 4))
    known = np.stack([1e6 * x[:, 0], 1e-6 * rng.normal(size=400)], axis=1)
    unknown = np.stack([1e6 * x_test[:, 0], 1e-6 * rng.normal(size=200)], axis=1)
    logs = np.arange(400) // 10, np.arange(200) // 10
    kept, _ = bench({"half": target(known)}, {"half": target(unknown)}, *logs)
    assert kept.scores(x, x_test)["half"].value == pytest.approx(0.5, abs=0.07)
    idle = unknown * [1, 1e-3] + [0, 1e-7]  # stands still in the held-out logs, a tenth of a deviation from the mean
    kept, _ = bench({"half": target(known)}, {"half": target(idle)}, *logs)
    assert kept.scores(x, x_test)["half"].value > 0.9


def test_probe_chooses_regularisation_by_whole_logs():
    """Windows of one log are copies, so folds that split logs would choose no regularisation and memorise."""
    rng = np.random.default_rng(2)
    logs, copies = 40, 20
    features = np.repeat(rng.normal(size=(logs, 60)), copies, axis=0) + 0.01 * rng.normal(size=(logs * copies, 60))
    noise = np.repeat(rng.normal(size=logs), copies)
    predicted = predict(target(noise), features, rng.normal(size=(500, 60)), np.repeat(np.arange(logs), copies))
    assert np.abs(predicted - noise.mean()).mean() < 0.5


def test_logistic_probe_separates_classes_and_weighs_rare_ones_alike():
    rng = np.random.default_rng(3)
    y, y_test = rng.choice(3, 600, p=[0.8, 0.15, 0.05]), np.repeat([0, 1, 2], 50)
    centres = 3 * np.eye(3, 8)
    x, x_test = (centres[a] + rng.normal(size=(len(a), 8)) for a in (y, y_test))
    predicted = predict(target(y, is_class=True), x, x_test, np.arange(600) // 5)
    assert balanced_accuracy_score(y_test, predicted) > 0.85


# --- scores and intervals


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(4)
    log, weights = np.repeat(np.arange(10), 7), resamples(10)
    y = rng.normal(size=(70, 3)) + 5
    guess = y + rng.normal(size=y.shape)
    present = rng.random(70) < 0.7
    got = score(target(y, present=present), guess, log, weights)
    assert got.value == pytest.approx(r2_score(y[present], guess[present], multioutput="variance_weighted"))
    kinds, guess = rng.integers(0, 4, 70), rng.integers(0, 4, 70)
    got = score(target(kinds, True, present), guess, log, weights)
    assert got.value == pytest.approx(balanced_accuracy_score(kinds[present], guess[present]))


def test_a_draw_is_the_score_of_the_resampled_logs():
    rng = np.random.default_rng(5)
    log, weights = np.repeat(np.arange(6), 4), resamples(6, draws=5)
    y, guess = rng.normal(size=24), rng.normal(size=24)
    rows = [np.concatenate([np.flatnonzero(log == i) for i in range(6) for _ in range(int(w[i]))]) for w in weights]
    expected = [r2_score(y[r], guess[r]) for r in rows]
    np.testing.assert_allclose(score(target(y), guess, log, weights).draws, expected)


def test_intervals_over_logs_cover_the_truth():
    """Windows of a log share their error, as real ones do; intervals over windows would cover far less."""
    rng = np.random.default_rng(6)
    logs, windows, truth = 40, 10, 0.7
    log, weights = np.repeat(np.arange(logs), windows), resamples(logs, draws=400)
    ones = np.ones(logs * windows, int)
    covered = 0
    for _ in range(200):
        share = rng.beta(truth * 2, (1 - truth) * 2, logs)
        right = (rng.random(logs * windows) < np.repeat(share, windows)).astype(int)
        interval = score(target(ones, is_class=True), right, log, weights).interval()
        covered += interval["low"] <= truth <= interval["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_a_paired_difference_is_narrower_than_its_parts():
    rng = np.random.default_rng(7)
    log, weights = np.repeat(np.arange(30), 5), resamples(30)
    hard = np.repeat(rng.uniform(0.2, 3, 30), 5)
    y = rng.normal(size=150)
    error = hard * rng.normal(size=150)
    one, two = (score(target(y), y + scale * error, log, weights) for scale in (0.5, 0.6))
    width = [s.draws.std() for s in (one - two, one, two)]
    assert width[0] < 0.5 * min(width[1:])
    low = (one - two).interval()["low"]
    assert low is not None
    assert low > 0


def test_the_mean_over_labels_floors_before_it_averages_and_one_log_has_no_interval():
    assert mean_score([constant(-9.0, 3).floored(0.0), constant(0.5, 3)]).value == 0.25
    y = np.arange(8.0)
    alone = score(target(y), y + 1, np.zeros(8, int), resamples(1)).interval()
    assert alone["low"] is None
    assert alone["mean"] == pytest.approx(r2_score(y, y + 1))


def test_labels_that_cannot_be_probed_are_named_with_the_reason():
    train = {"good": target(np.arange(6) % 2, True), "same": target(np.ones(6)), "gone": target(np.arange(6.0))}
    test = {
        "good": target(np.arange(4) % 2, True),
        "same": target(np.ones(4)),
        "gone": target(np.ones(4), present=np.zeros(4, bool)),
    }
    kept, skipped = bench(train, test, np.arange(6) // 2, np.arange(4) // 2)
    assert list(kept.train) == ["good"]
    assert skipped == {
        "same": "the same value in all 6 training windows",
        "gone": "known in no window of the held-out logs",
    }
    with pytest.raises(ValueError, match="no label can be probed"):
        bench({"same": train["same"]}, {"same": test["same"]}, np.arange(6) // 2, np.arange(4) // 2)


def test_features_that_know_nothing_score_at_chance():
    rng = np.random.default_rng(8)
    train_log, test_log = np.repeat(np.arange(60), 4), np.repeat(np.arange(40), 4)
    train = {"kind": target(rng.integers(0, 4, 240), True), "force": target(rng.normal(size=240))}
    test = {"kind": target(rng.integers(0, 4, 160), True), "force": target(rng.normal(size=160))}
    kept, _ = bench(train, test, train_log, test_log)
    found, chance = kept.scores(rng.normal(size=(240, 30)), rng.normal(size=(160, 30))), kept.chance()
    assert chance["kind"].value == 0.25
    assert chance["force"].value == 0.0
    assert abs(found["kind"].value - 0.25) < 0.1
    assert -0.15 < found["force"].value < 0.05


# --- raw signals


def test_raw_features_never_read_what_is_not_valid():
    rng = torch.Generator().manual_seed(0)
    values = {
        "eye": torch.randint(0, 255, (2, 20, 24, 24, 3), generator=rng, dtype=torch.uint8),
        "ear": torch.randn(2, 8000, generator=rng),
        "arm": torch.randn(2, 100, 3, generator=rng),
    }
    valid = {name: torch.ones(v.shape[:2], dtype=torch.bool) for name, v in values.items()}
    valid["arm"][0, 50:] = False
    valid["eye"][1] = False
    rates = {"eye": 20.0, "ear": 8000.0, "arm": 100.0}
    before = raw_features(Batch(values, valid), rates)
    values["arm"][0, 50:], values["eye"][1] = torch.nan, 9
    after = raw_features(Batch(values, valid), rates)
    for name in values:
        np.testing.assert_array_equal(before[name], after[name])
    assert np.isnan(after["eye"][1]).all()
    assert np.isfinite(after["ear"]).all()
    steps = after["arm"][0].reshape(20, 3)
    np.testing.assert_allclose(steps[0], values["arm"][0, :5].mean(0).numpy(), rtol=1e-5)
    assert np.isnan(steps[10:]).all()


def test_compressed_raw_features_keep_what_varies_and_fit_on_training_windows_only():
    rng = np.random.default_rng(9)
    hidden = rng.normal(size=(120, 2))
    wide = hidden @ rng.normal(size=(2, 400)) + 0.01 * rng.normal(size=(120, 400))
    train, test = compress({"a": wide[:80], "b": wide[:80]}, {"a": wide[80:], "b": 1e3 * wide[80:]}, ["a", "b"])
    assert r2_score(hidden[80:], Ridge(1e-3).fit(train["a"], hidden[:80]).predict(test["a"])) > 0.99
    np.testing.assert_array_equal(train["a"], train["b"])
    assert joint({"a": np.zeros((1, 30)), "b": np.ones((1, 20))}, ["a", "b"]).sum() == 20


# --- retrieval


def test_retrieval_finds_an_identity_and_is_at_chance_on_noise():
    rng = np.random.default_rng(10)
    gallery = rng.normal(size=(200, 30)) + 50
    log = np.arange(200)[None]
    found = summary(ranks(0.2 * (gallery - 50) + 50, gallery)[None], log)
    assert found["recall"]["1"]["mean"] == 1.0
    assert found["median_rank"] == 1.0
    noise = summary(ranks(rng.normal(size=(200, 30)), gallery)[None], log)
    assert noise["recall"]["10"]["chance"] == 0.05
    assert noise["recall"]["10"]["mean"] < 0.12
    assert abs(noise["median_rank"] - noise["chance_rank"]) < 20


def test_a_dimension_that_stands_still_is_left_out_of_the_score():
    rng = np.random.default_rng(20)
    truth = np.column_stack([rng.normal(size=40), np.full(40, 0.3)])
    guess, log = truth + rng.normal(size=truth.shape) * 0.1, np.repeat(np.arange(8), 5)
    target, alone = (Target("x", values, np.ones(40, bool), False) for values in (truth, truth[:, :1]))
    weights = resamples(8, 50)
    assert score(target, guess, log, weights).value == score(alone, guess[:, :1], log, weights).value


def test_a_constant_prediction_gains_nothing():
    gallery = np.random.default_rng(11).normal(size=(50, 8))
    assert (ranks(np.ones((50, 8)), gallery) > 1).sum() >= 49
    assert (ranks(np.full((50, 8), np.nan), gallery) == 25.5).all()


def test_ranks_ignore_unknown_tokens():
    rng = np.random.default_rng(12)
    gallery = rng.normal(size=(40, 20))
    gallery[:, 15:] = np.nan
    query = gallery.copy()
    query[:, 15:] = rng.normal(size=(40, 5)) * 100
    assert (ranks(query, gallery) == 1).all()


def test_galleries_hold_one_window_of_every_log_and_few_logs_all_windows():
    log = np.repeat(np.arange(30), 3)
    picks = galleries(log)
    assert picks.shape == (3, 30)
    assert (log[picks] == np.arange(30)).all()
    assert len(np.unique(picks)) == 90
    assert galleries(np.zeros(7, int)).tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    with pytest.raises(ValueError, match="at least 2 windows"):
        galleries(np.zeros(1, int))


def test_skill_is_one_for_the_truth_and_zero_for_the_mean():
    truth = np.random.default_rng(13).normal(size=(60, 5))
    assert skill(truth, truth) == 1.0
    assert skill(np.broadcast_to(truth.mean(0), truth.shape), truth) == pytest.approx(0.0)
