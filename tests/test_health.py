"""Each measure against a closed form or brute force; alarms on histories made up for them."""

import json
import math
import random
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log, body_tree
from rich.console import Console
from safetensors.torch import save_file
from sklearn.linear_model import Ridge
from torch import Tensor

from multisense.clips import Grid, read_clip
from multisense.evaluate.probe import _RidgePath
from multisense.evaluate.windows import Target
from multisense.health import Alarm, alarms, held_out, measure
from multisense.health.across import between_sensors, from_all_others, predict, shuffle
from multisense.health.alarms import Row
from multisense.health.latents import rank_over_clips, rank_over_time, signal_spread, spread
from multisense.health.probes import probes
from multisense.health.report import read_history, show_health
from multisense.health.table import print_health
from multisense.logs import Recording, open_logs, write_log
from multisense.masking import draw_masks
from multisense.objectives.latent import LatentPrediction
from multisense.run import build_objective, create_run, make_grids, parse_config, provenance
from multisense.statistics import copy_statistics, fit_statistics
from multisense.types import Batch, TokenBatch, TokenLayout

LOGS = 8


Body = tuple[LatentPrediction, list[ArrayLog], dict[str, Grid]]


def body() -> Body:
    """An objective of random weights with fitted statistics, its logs and grids."""
    logs = [body_log(n) for n in range(LOGS)]
    config = parse_config(body_tree())
    grids = make_grids(config, logs)
    objective = build_objective(config, grids)
    fit_statistics(objective.student, [read_clip(log, 0.5, grids, 1.0) for log in logs], count=LOGS, chunk=LOGS)
    copy_statistics(objective.student, objective.teacher)
    return objective, logs, grids


# --- spread and rank


def orthogonal(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Orthonormal columns (rows, columns) that sum to zero: all their singular values are 1, also when centred."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(rows, columns, generator=generator)
    return torch.linalg.qr(made - made.mean(0)).Q


def test_rank_over_clips_counts_the_directions_in_which_clips_differ():
    position = torch.randn(1, 6, 16)
    for k in (1, 3, 8):
        clips = orthogonal(20, k) @ orthogonal(16, k, 1).T
        latents = position + clips[:, None]
        valid = torch.ones(20, 6, dtype=torch.bool)
        assert rank_over_clips(latents, valid).item() == pytest.approx(k, rel=1e-3)
        # Every clip is the same at all times but for the position's own mean: nothing happens in it.
        assert rank_over_time(latents, valid).item() == 1


def test_rank_over_time_counts_the_directions_in_which_clips_change():
    k, clips, tokens = 3, 20, 6
    own = 5 * torch.randn(clips, 1, 16)
    what = torch.einsum("nk,tk,kd->ntd", orthogonal(clips, k), orthogonal(tokens, k, 1), orthogonal(16, k, 2).T)
    valid = torch.ones(clips, tokens, dtype=torch.bool)
    assert rank_over_time(torch.randn(1, tokens, 16) + own + what, valid).item() == pytest.approx(k, rel=1e-3)


def test_what_only_the_position_tells_apart_is_collapsed():
    latents, valid = torch.randn(1, 6, 16).expand(20, 6, 16), torch.ones(20, 6, dtype=torch.bool)
    assert spread(latents, valid) < 1e-6
    assert rank_over_clips(latents, valid) == 1
    assert rank_over_time(latents, valid) == 1


def test_spread_is_the_deviation_over_the_clips_that_are_there():
    rng = np.random.default_rng(0)
    latents, valid = rng.normal(size=(9, 5, 4)), rng.random((9, 5)) < 0.7
    valid[:, 2], valid[1:, 3], valid[0, 3] = False, False, True  # a token of no clip, and one of a single clip
    known = [latents[valid[:, t], t].var(axis=0, ddof=1) for t in (0, 1, 4)]
    latents[~valid] = 1e6
    found = spread(torch.from_numpy(latents), torch.from_numpy(valid))
    assert found.item() == pytest.approx(math.sqrt(np.mean(known)))


def test_signal_spread_is_that_over_clips_and_time_at_one_place():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(4, 3 * 6, 2, 5, 5, 1)) * 0.3  # three steps of six places, two samples a patch
    rows = patches.reshape(4, 3, 6, 2, 25).transpose(0, 1, 3, 2, 4).reshape(24, 150)
    valid = torch.ones(4, 18, dtype=torch.bool)
    found = signal_spread(torch.from_numpy(patches), valid, 3)
    assert found.item() == pytest.approx(math.sqrt(rows.var(axis=0, ddof=1).mean()))
    still = torch.randn(1, 1, 6, 1, 5, 5, 1).expand(4, 3, 6, 2, 5, 5, 1).reshape(4, 18, 2, 5, 5, 1)
    assert signal_spread(still, valid, 3) < 1e-6  # a picture that stands still varies over its pixels alone


# --- skill, retrieval, importance

NAMES = ("a", "b", "c")
LAYOUT = TokenLayout(torch.zeros(6), torch.zeros(6, 2), torch.tensor([0, 0, 1, 1, 2, 2]), NAMES)


class Stub:
    """Predicts the target's tokens by the mean of those context sensors it listens to."""

    def __init__(self, *listens: str):
        self.listens = listens

    def predict_tokens(self, tokens: TokenBatch, context: Sequence[str], target: str) -> tuple[Tensor, Tensor, Tensor]:
        def own(name: str) -> Tensor:
            return tokens.tokens[:, LAYOUT.sensor == NAMES.index(name)]

        heard = [own(name) for name in context if name in self.listens]
        prediction = torch.stack(heard).mean(0) if heard else torch.zeros_like(own(target))
        return prediction, own(target), tokens.valid[:, LAYOUT.sensor == NAMES.index(target)]


def same_everywhere(clips: int = 8, seed: int = 0) -> TokenBatch:
    """Every sensor of a clip says the same, of mean zero over clips."""
    said = torch.randn(clips, 2, 4, generator=torch.Generator().manual_seed(seed))
    return TokenBatch((said - said.mean(0)).repeat(1, 3, 1), torch.ones(clips, 6, dtype=torch.bool), LAYOUT)


def test_a_perfect_predictor_has_skill_1_and_finds_every_clip():
    values = between_sensors(Stub(*NAMES), [same_everywhere(), same_everywhere(seed=1)], NAMES)
    assert len(values) == 6 * 5
    for key, value in values.items():
        expected = {"chance@1": 1 / 16, "chance@5": 5 / 16}.get(key.split("/")[0], 1.0)
        assert value == pytest.approx(expected), key


def test_a_predictor_that_says_the_mean_has_no_skill_and_finds_by_chance():
    values = between_sensors(Stub(), [same_everywhere()], NAMES)
    assert values["skill/a->b"] == pytest.approx(0, abs=1e-6)
    assert values["recall@1/a->b"] <= 2 / 8
    assert from_all_others(Stub(), [same_everywhere()], NAMES)["prediction_spread/b"] == 0


def test_clips_without_the_sensor_are_not_counted():
    batch = same_everywhere()
    batch.valid[:3, 2:4] = False  # b is missing in three of eight clips
    batch.tokens[:3, 2:4] = 1e3
    values = between_sensors(Stub(*NAMES), [batch], NAMES)
    assert values["chance@1/a->b"] == pytest.approx(1 / 5)
    assert values["skill/a->b"] == pytest.approx(1)
    batch.valid[:, 2:4] = False
    assert not any(key.endswith("->b") for key in between_sensors(Stub(*NAMES), [batch], NAMES))


def test_a_sensor_that_is_ignored_has_no_importance():
    batch = same_everywhere()
    noisy = TokenBatch(batch.tokens + 0.1 * torch.randn(8, 6, 4), batch.valid, LAYOUT)
    values = from_all_others(Stub("a", "b"), [noisy], NAMES)
    assert values["importance/c"] == 0
    assert values["importance/a"] > 1
    # By hand: how much worse b (from a) and c (from a and b) get when a is that of the clip four places on.
    own = {name: noisy.tokens[:, 2 * i : 2 * i + 2] for i, name in enumerate(NAMES)}
    moved = own["a"][[4, 5, 6, 7, 0, 1, 2, 3]]
    error = [(x - own[to]).abs().mean() for x, to in ((own["a"], "b"), ((own["a"] + own["b"]) / 2, "c"))]
    worse = [(x - own[to]).abs().mean() for x, to in ((moved, "b"), ((moved + own["b"]) / 2, "c"))]
    expected = np.mean([float(w / e) - 1 for w, e in zip(worse, error, strict=True)])
    assert values["importance/a"] == pytest.approx(expected, rel=1e-4)


def test_shuffling_tokens_is_shuffling_what_was_sensed():
    objective, logs, grids = body()
    batch = held_out(logs, grids, 1.0, 6).batches[0]
    batch = Batch(batch.values, {**batch.valid, "ear": batch.valid["ear"].clone()})
    batch.valid["ear"][0] = False
    order = [3, 4, 5, 0, 1, 2]
    values = {**batch.values, "ear": batch.values["ear"][order]}
    moved = Batch(values, {**batch.valid, "ear": batch.valid["ear"][order]})
    with torch.no_grad():
        expected, found = objective.teacher.tokenize(moved), shuffle(objective.teacher.tokenize(batch), "ear")
    assert torch.equal(found.valid, expected.valid)
    torch.testing.assert_close(found.tokens, expected.tokens)


def test_a_prediction_from_tokens_is_that_from_the_batch():
    objective, logs, grids = body()
    held = held_out(logs, grids, 1.0, 12, batch_size=6)
    tokens = [objective.teacher.tokenize(batch) for batch in held.batches]
    predicted, truth = predict(objective, tokens, ["ear", "arm"], "pad")
    one, other, _ = objective.predict_sensor(held.batches[1], ["ear", "arm"], "pad")
    np.testing.assert_allclose(predicted[6:], one.flatten(1), atol=1e-5)
    np.testing.assert_allclose(truth[6:], other.flatten(1), atol=1e-5)


# --- probes


def test_probes_find_what_is_linear_and_nothing_else():
    rng = np.random.default_rng(0)
    features, log = rng.normal(size=(60, 20)), np.repeat(np.arange(20), 3)
    there = np.ones(60, bool)
    there[::7] = False
    known = {
        "linear": Target("linear", features[:, :2] @ [[1.0, 2.0], [0.5, -1.0]], there, False),
        "sign": Target("sign", (features[:, 0] > 0).astype(int) * 3, there, True),
        "unrelated": Target("unrelated", rng.normal(size=60), there, False),
        "constant": Target("constant", np.ones(60), there, False),
        "rare": Target("rare", rng.normal(size=60), log < 5, False),
    }
    values = probes(features, log, known)
    assert values["probe/linear"] > 0.99
    assert values["probe/sign"] > 0.8
    assert values["probe_chance/sign"] == 0.5
    assert values["probe/unrelated"] < 0.2
    assert {key.split("/")[1] for key in values} == {"linear", "sign", "unrelated"}


def test_ridge_with_fewer_windows_than_features_agrees_with_another_program():
    rng = np.random.default_rng(0)
    x, y, test = rng.normal(size=(20, 50)), rng.normal(size=(20, 2)), rng.normal(size=(7, 50))
    for strength in (1e-3, 0.1, 10.0):
        expected = Ridge(alpha=strength * 20).fit(x, y).predict(test)
        np.testing.assert_allclose(_RidgePath(x, y).predict(strength, test), expected, rtol=1e-6)


# --- everything of a model


def dice() -> tuple[object, ...]:
    """The global random states: those of torch, numpy and Python."""
    legacy = np.random.mtrand._rand.get_state(legacy=False)
    return torch.get_rng_state().tolist(), str(legacy), legacy["state"]["key"].tolist(), random.getstate()


def test_measuring_leaves_the_model_and_the_dice_as_they_were():
    objective, logs, grids = body()
    objective.train()
    objective.teacher.eval()
    held = held_out(logs, grids, 1.0, 12, batch_size=6)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    draws = dice()
    first, second = measure(objective, held), measure(objective, held)
    assert first == second
    assert objective.training
    assert not objective.teacher.training
    assert all(p.grad is None for p in objective.parameters())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert dice() == draws
    each = {"valid", "input", "spread", "rank", "rank_time", "skill", "prediction_spread", "importance", "gradient"}
    names = ("eye", "ear", "pad", "arm")
    expected = {f"{key}/{name}" for key in each for name in names} | {
        "loss",
        "lag",
        "finite",
        "probe/height",
        "probe/fast",
    }
    kinds = ("skill", "recall@1", "recall@5", "chance@1", "chance@5")
    expected |= {f"{key}/{a}->{b}" for key in kinds for a in names for b in names if a != b}
    assert set(first) == expected | {"probe_chance/height", "probe_chance/fast"}
    assert sum(first[f"gradient/{name}"] for name in names) == pytest.approx(1)
    json.dumps(first, allow_nan=False)


def test_gradient_shares_are_those_of_a_backward_pass():
    objective, logs, grids = body()
    held = held_out(logs, grids, 1.0, 8)
    found = measure(objective, held)
    masks = draw_masks(objective.student.layout, objective.config.masks, 0, 0, range(8))
    losses = objective.eval()(held.batches[0], masks)
    losses.total.backward()
    norms = {
        name: math.sqrt(
            sum(float(p.grad.double().square().sum()) for p in objective.student.tokenizer(name).parameters())
        )
        for name in objective.student.names
    }
    assert found["loss"] == pytest.approx(losses.total.item())
    assert found["lag"] == 0.0  # nothing was learnt yet
    with torch.no_grad():
        for weights in objective.teacher.parameters():
            weights.mul_(1.25)
    assert measure(objective, held)["lag"] == pytest.approx(0.25)
    for name, norm in norms.items():
        assert found[f"gradient/{name}"] == pytest.approx(norm / sum(norms.values()), rel=1e-4)


def test_a_model_that_is_not_a_number_says_so():
    objective, logs, grids = body()
    with torch.no_grad():
        objective.student.sensor_embedding.fill_(torch.nan)
    assert measure(objective, held_out(logs, grids, 1.0, 8)) == {"finite": 0.0}


def changed(log: ArrayLog, sensor: str, data: np.ndarray) -> ArrayLog:
    modality, rate, times, _ = log.streams[sensor]
    return ArrayLog(log.name, {**log.streams, sensor: (modality, rate, times, data)}, log.labels)


def test_a_constant_and_a_missing_sensor_are_seen_as_such():
    objective, logs, grids = body()
    dead = [changed(log, "ear", np.zeros_like(log.streams["ear"][3])) for log in logs]
    dead = [changed(log, "pad", np.full_like(log.streams["pad"][3], np.nan)) for log in dead]
    values = measure(objective, held_out(dead, grids, 1.0, 8))
    assert values["input/ear"] < 1e-5
    assert values["rank/ear"] == values["rank_time/ear"] == 1
    assert values["valid/pad"] == 0
    assert values["input/eye"] > 0.5
    assert not {"skill/ear", "skill/arm->ear", "rank/pad", "skill/pad"} & set(values)
    kinds = {alarm.sensor: alarm.kind for alarm in alarms([(0, values)])}
    assert kinds == {"ear": "constant", "pad": "absent"}


def test_held_out_clips_are_spread_over_the_logs():
    _, logs, grids = body()
    held = held_out(logs, grids, 1.0, 8, batch_size=3)
    assert [len(batch) for batch in held.batches] == [3, 3, 2]
    assert len(held) == 8
    assert len(set(held.log)) >= 6
    assert set(held.targets) == {"height", "fast"}
    assert [name for batch in held.batches for name in batch.logs] == [logs[n].name for n in held.log]
    assert len(held_out(logs[:1], grids, 1.0)) == 3
    with pytest.raises(ValueError, match=r"at least 2 held-out clips; 1 of 3.0 s are in the 1 logs"):
        held_out(logs[:1], grids, 3.0)


# --- alarms on histories


def healthy(step: int, **changes: float) -> Row:
    """What is measured of three healthy sensors; `changes` as mic_rank=3.0."""
    values = {"finite": 1.0, "loss": 1.0}
    each = {"valid": 1.0, "input": 1.0, "spread": 0.7, "prediction_spread": 0.4, "rank": 40.0, "rank_time": 30.0}
    for name in ("mic", "arm", "eye"):
        values |= {f"{key}/{name}": value for key, value in (each | {"skill": 0.3, "importance": 0.1}).items()}
        values |= {f"skill/{name}->{other}": 0.2 for other in ("mic", "arm", "eye") if other != name}
    for key, value in changes.items():
        if "_" in key:
            sensor, what = key.split("_", 1)
            values[f"{what}/{sensor}"] = value
        else:
            values[key] = value
    return step, values


def history(*rows: dict[str, float]) -> list[Row]:
    return [healthy(1000 * (i + 1), **row) for i, row in enumerate(rows)]


def unskilled(sensor: str, own: float = 0.0) -> dict[str, float]:
    """Nothing predicts the sensor."""
    others = [name for name in ("mic", "arm", "eye") if name != sensor]
    return {f"{sensor}_skill": own} | {f"{other}->{sensor}_skill": 0.0 for other in others}


def mute(sensor: str) -> dict[str, float]:
    """The sensor predicts nothing."""
    return {f"{sensor}->{other}_skill": 0.0 for other in ("mic", "arm", "eye") if other != sensor}


def test_nothing_is_said_of_a_healthy_run():
    assert alarms([]) == []
    assert alarms(history({}, {}, {}, {})) == []
    # Ranks fall and losses rise while a model finds structure; one bad measure is none.
    wandering = [{"mic_rank": 90.0}, {"mic_rank": 25.0, "loss": 1.3}, unskilled("mic"), {"mic_rank": 30.0}]
    assert alarms(history(*wandering)) == []
    assert alarms(history({}, {}, unskilled("mic"), unskilled("mic"))) == []


DEAD = {"spread": 0.01, "rank": 1.5}
CASES: dict[str, tuple[list[dict[str, float]], str, str, str]] = {
    "nan": ([{}, {"finite": 0.0}], "", "diverging", r"not a number since step 2,000"),
    "loss": ([{}, {}, {"loss": 2.5}, {"loss": 9.0}], "", "diverging", r"loss rose 1 -> 9 since step 3,000"),
    "average": ([{}, {"lag": 1e-3}, {"lag": 0.0}], "", "no average", r"is the student itself since step 3,000"),
    "absent": ([{}, {"mic_valid": 0.0}], "mic", "absent", r"`mic`: no finite data .* since step 2,000"),
    "constant": ([{}, {"mic_input": 0.0}], "mic", "constant", r"`mic`: its signal is the same .* since step 2,000"),
    "rank": (
        [{"mic_rank": 61.0}] + [{"mic_rank": 3.0}] * 3,
        "mic",
        "collapse",
        r"`mic`: .*rank 61 -> 3 since step 2,000: collapse; try",
    ),
    "spread": ([{}] + [{"mic_spread": 0.01}] * 3, "mic", "collapse", r"spread 0.7 -> 0.01, .* since step 2,000"),
    "one answer": (
        [{}] + [{"mic_spread": 0.2, "mic_prediction_spread": 0.001}] * 3,
        "mic",
        "collapse",
        r"the same whatever is seen: collapse",
    ),
    "no skill": ([{}] + [unskilled("mic")] * 4, "mic", "no skill", r"no better than the mean since step 2,000"),
    "noise": ([{}] + [unskilled("mic") | mute("mic")] * 3, "mic", "noise", r"noise, or of another time"),
    "lazy": ([{}] + [{"mic_importance": 0.0}] * 3, "mic", "lazy", r"not listened to"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_failure_has_its_alarm(case: str):
    rows, sensor, kind, text = CASES[case]
    (alarm,) = alarms(history(*rows))
    assert (alarm.sensor, alarm.kind) == (sensor, kind)
    assert re.search(text, alarm.message), alarm.message


def test_what_is_learnt_is_not_judged_before_the_warm_up():
    rows = history(*[unskilled("mic") | mute("mic") | {"arm_spread": 0.0}] * 4)
    assert {alarm.kind for alarm in alarms(rows)} == {"noise", "collapse"}
    assert alarms(rows, warmup=2500) == []
    assert len(alarms(rows, warmup=2500, patience=2)) == 2
    assert [alarm.kind for alarm in alarms(history({"arm_valid": 0.0}), warmup=2500)] == ["absent"]


def test_a_sensor_that_is_alone_is_judged_by_itself():
    keys = ("valid", "input", "spread", "rank", "skill")
    rows = [(1000 * k, {"finite": 1.0, "loss": 1.0} | {f"{key}/eye": 1.0 for key in keys}) for k in range(1, 5)]
    assert alarms(rows) == []
    (alarm,) = alarms([(step, row | {"skill/eye": 0.0}) for step, row in rows])
    assert alarm.kind == "no skill"


# --- what is printed


def test_the_table_shows_every_sensor_and_alarm():
    console = Console(record=True, width=160)
    _, values = healthy(1000)
    for key in ("recall@1", "recall@5"):
        values |= {k.replace("skill", key): 0.5 for k in list(values) if "->" in k and k.startswith("skill")}
    values |= {"probe/force": 0.61, "probe_chance/force": 0.0, "chance@1/mic->arm": 0.125}
    print_health(values, [Alarm("mic", "lazy", "`mic`: not listened to [sic]")], console)
    text = console.export_text()
    for part in (
        "mic",
        "40.0",
        "+0.20  0.50 0.50",
        "chance of recall: 0.125 at 1",
        "force 0.61 (chance 0.00)",
        "`mic`: not listened to [sic]",
    ):
        assert part in text, text
    print_health({"finite": 0.0}, [], console)
    assert "no alarm" in console.export_text()


def test_the_report_of_a_run_on_logs(tmp_path, capsys):
    for n in range(7):
        log = body_log(n)
        recordings = {
            name: Recording(log.streams[name][0], log.streams[name][1], log.streams[name][3], log.streams[name][2])
            for name in ("pad", "arm")
        }
        write_log(tmp_path / "logs" / f"{n}.h5", recordings, list(log.labels.values()))
    tree = body_tree(warmup_steps=20)
    tree["sensors"] = {name: tree["sensors"][name] for name in ("pad", "arm")}
    tree["data"]["train"] = str(tmp_path / "logs")
    config = parse_config(tree)
    logs = open_logs(tmp_path / "logs")
    grids = make_grids(config, logs)
    objective = build_objective(config, grids)
    run = tmp_path / "run"
    create_run(run, config, grids, provenance(config, logs))
    for name, part in (("model", objective.teacher), ("predictor", objective.predictor)):
        save_file({key: value.clone() for key, value in part.state_dict().items()}, run / f"{name}.safetensors")
    rows = [json.dumps({"step": step, **values}) for step, values in history(*[{"mic_spread": 0.0}] * 3)]
    (run / "health.jsonl").write_text("\n".join(rows) + '\n{"step": 4000, "ra')

    assert [step for step, _ in read_history(run)] == [1000, 2000, 3000]
    assert show_health(run, tmp_path / "logs", Console(), as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == 21
    assert report["health"]["valid/pad"] == 1
    assert report["provenance"]["seed"] == 0
    found = {(alarm["sensor"], alarm["kind"]) for alarm in report["alarms"]}
    assert ("mic", "collapse") in found
    assert ("", "no average") not in found  # of a finished run only the teacher is kept: it lags behind nobody
    console = Console(record=True, width=160)
    assert show_health(run, tmp_path / "logs", console, as_json=False) == 1
    shown = console.export_text()
    assert "at step 4 on 21 clips" in shown
    assert "too early to judge what was learnt: before step" in shown
