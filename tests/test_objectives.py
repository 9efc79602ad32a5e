"""The loss means what it says, the teacher follows, and a little training predicts one sense from another."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import body_log, body_tree
from torch import nn

from multisense.clips import TrainingClips, collate, read_clip
from multisense.config import ConfigError, parse
from multisense.masking import Mask, draw_masks
from multisense.monitors import monitor
from multisense.objectives.latent import (
    TEMPERATURE,
    LatentPrediction,
    Losses,
    ObjectiveConfig,
    coarse,
    coarse_size,
    take,
)
from multisense.objectives.predictor import TargetScale
from multisense.run import build_objective, make_grids, parse_config
from multisense.statistics import copy_statistics, fit_statistics
from multisense.types import Batch


def body(clips: int = 4, weights: str = "shared", **objective: object) -> tuple[LatentPrediction, Batch]:
    tree = body_tree()
    tree["model"]["weights"] = weights
    tree["sensors"]["eye"]["patch"] = 4  # 320 tokens of video beside 5 of each other sensor
    tree["sensors"]["eye"]["stem"] = "patch"
    tree["objective"] |= objective
    config, logs = parse_config(tree), [body_log(n) for n in range(clips)]
    grids = make_grids(config, logs)
    read = [read_clip(log, 0.5, grids, 1.0) for log in logs]
    objective = build_objective(config, grids)
    fit_statistics(objective.student, read, count=clips, chunk=clips)
    copy_statistics(objective.student, objective.teacher)
    return objective, collate(read)


def masks_of(objective: LatentPrediction, clips: int = 4, step: int = 0) -> list[Mask]:
    return draw_masks(objective.student.layout, objective.config.masks, 0, step, range(clips))


def losses_of(objective: LatentPrediction, batch: Batch, answer: Callable[[Mask], torch.Tensor]) -> Losses:
    """The losses of a predictor that answers with what it is told."""
    objective.predictor.forward = lambda model, latents, valid, mask: answer(mask)
    objective.predictor.outward = nn.Identity()
    return objective(batch, masks_of(objective))


def test_a_perfect_prediction_costs_nothing():
    objective, batch = body()
    targets, _ = objective.targets(batch)
    losses = losses_of(objective, batch, lambda mask: take(targets, mask.target))
    assert losses.total == 0
    assert {d.target for d in losses.directions} == {"eye", "ear", "pad", "arm"}


def test_every_direction_counts_the_same_however_many_tokens_it_has():
    objective, batch = body()
    targets, _ = objective.targets(batch)
    wrong = torch.tensor([1.0, 10.0, 100.0, 1000.0])  # by how much, for eye, ear, pad, arm

    def answer(mask: Mask) -> torch.Tensor:
        return take(targets, mask.target) + wrong[objective.student.sensor[mask.target]][..., None]

    losses = losses_of(objective, batch, answer)
    expected = {"eye": 1.0, "ear": 10.0, "pad": 100.0, "arm": 1000.0}
    for direction in losses.directions:
        assert direction.loss.item() == pytest.approx(expected[direction.target], rel=1e-4)
    asked = [s for mask in masks_of(objective) for s in mask.columns]
    assert losses.total.item() == pytest.approx(wrong[asked].mean().item(), rel=1e-4)


def test_what_a_sensor_shown_alone_costs_comes_on_top():
    objective, batch = body(signal=1.0, contrast=0.5, masks={"masks_per_clip": 2, "alone": ["eye", "arm"]})
    objective.eval()
    *mixture, eye, arm = masks_of(objective)
    alone = [objective(batch, [mask]) for mask in (eye, arm)]
    assert [[d.name for d in losses.directions] for losses in alone] == [["eye from itself"], ["arm from itself"]]
    expected = objective(batch, mixture).total + sum(losses.total for losses in alone)
    torch.testing.assert_close(objective(batch, [*mixture, eye, arm]).total, expected)


def test_a_sensor_shown_alone_is_asked_for_its_own_content():
    objective, batch = body(masks={"masks_per_clip": 1, "alone": ["eye"]})
    (*_, mask), (targets, _) = masks_of(objective), objective.targets(batch)
    half = targets.shape[-1] // 2
    for view, cost in ((slice(None, half), 0.0), (slice(half, None), 3.0)):
        answer = take(targets, mask.target).clone()
        answer[..., view] += 3.0
        objective.predictor.forward = lambda model, latents, valid, mask, answer=answer: answer
        objective.predictor.outward = nn.Identity()
        assert objective(batch, [mask]).total.item() == pytest.approx(cost, abs=1e-5)


def test_a_sensor_of_one_token_cannot_be_shown_alone():
    tree = body_tree()
    tree["sensors"]["arm"]["patch_s"] = 1.0
    tree["objective"]["masks"] = {"alone": ["arm"]}
    with pytest.raises(ValueError, match=r"objective.masks.alone: 'arm' has one token a clip"):
        build_objective(parse_config(tree), make_grids(parse_config(tree), [body_log(0)]))


def test_predicting_the_mean_has_skill_zero():
    objective, batch = body()
    targets, _ = objective.targets(batch)
    mean = targets.mean(0, keepdim=True).expand_as(targets)
    losses = losses_of(objective, batch, lambda mask: take(mean, mask.target))
    for direction in losses.directions:
        assert direction.loss.item() == pytest.approx(direction.baseline.item(), rel=1e-5)
        assert direction.baseline > 0.01
    values = monitor([losses], objective.student.layout, OneProcess())
    assert values["skill"] == pytest.approx(0, abs=1e-5)
    assert values["loss"] == pytest.approx(losses.total.item())


def test_metrics_are_those_of_all_parts_together_also_where_one_lacks_a_sensor():
    """Sums of losses over sums of baselines; a micro-batch without a sensor says nothing of it, not that it is perfect."""
    objective, batch = body()
    targets, _ = objective.targets(batch)
    wrong = targets + 0.1
    parts = [
        losses_of(objective, b, lambda mask: take(wrong, mask.target))
        for b in (batch, batch.only(["eye", "ear", "pad"]))
    ]
    values = monitor(parts, objective.student.layout, OneProcess())
    here = [d for d in parts[0].directions if d.target == "arm"]
    name = here[0].name
    loss, baseline = (sum(float(getattr(d, what)) for d in here if d.name == name) for what in ("loss", "baseline"))
    assert values[f"skill/{name}"] == pytest.approx(1 - loss / baseline, rel=1e-5)
    own = objective.student.layout.sensor == 3
    arm = parts[0].latents[:, own][parts[0].valid[:, own]]
    assert values["spread/arm"] == pytest.approx(arm.std(0).mean().item(), rel=1e-4)
    alone = monitor(parts[1:], objective.student.layout, OneProcess())
    assert np.isnan(alone["spread/arm"])
    assert np.isfinite(alone["skill"])
    assert alone.keys() == values.keys()


class OneProcess:
    def reduce(self, values: torch.Tensor, how: str) -> torch.Tensor:
        return values


def test_absent_sensors_are_neither_asked_for_nor_seen():
    objective, batch = body()
    absent = batch.only(["eye", "ear", "pad"])
    targets, _ = objective.targets(absent)

    def answer(mask: Mask) -> torch.Tensor:
        arm = objective.student.sensor[mask.target] == 3
        return take(targets, mask.target) + 1e6 * arm[..., None]

    assert losses_of(objective, absent, answer).total == 0


def test_a_batch_of_absent_clips_costs_nothing_and_stays_finite():
    objective, batch = body()
    losses = objective(batch.only([]), masks_of(objective))
    assert losses.total == 0
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_targets_are_the_teachers_and_not_the_students():
    objective, batch = body()
    targets, valid = objective.targets(batch)
    assert valid.all()
    with torch.no_grad():
        for p in objective.student.parameters():
            p.add_(1.0)
    assert torch.equal(objective.targets(batch)[0], targets)
    with torch.no_grad():
        objective.teacher.sensor_embedding.mul_(-1)
    assert not torch.equal(objective.targets(batch)[0], targets)


def test_targets_are_standardised_from_the_next_step_on():
    objective, batch = body(clips=8)
    before = objective.targets(batch)[0]
    objective(batch, masks_of(objective, 8))
    assert torch.equal(objective.targets(batch)[0], before)
    objective.update_teacher(10_000_000)
    after = objective.targets(batch)[0]
    torch.testing.assert_close(after.mean(0), torch.zeros_like(after[0]), atol=1e-2, rtol=0)
    latents = objective.teacher_latents(objective.teacher.tokenize(batch))
    variance = latents.var(0, correction=0)
    expected = (variance / ((8 * variance + 1) / 9)).sqrt()
    torch.testing.assert_close(after.std(0, correction=0), expected, atol=1e-2, rtol=0)


def test_a_sensor_that_is_hardly_ever_there_keeps_its_scale():
    scale, generator = TargetScale(2, 3), torch.Generator().manual_seed(0)
    often, seldom = torch.randn(200, 4, 2, 3, generator=generator), torch.tensor([[True, False]] * 4)
    both = torch.ones(4, 2, dtype=torch.bool)
    for step, latents in enumerate(often):
        scale.observe(latents, both if step == 0 else seldom)
        scale.update()
    # The second token was seen in the first step alone, 199 steps ago.
    assert 0.3 < scale(often[1])[:, 1].abs().mean() < 2


def test_a_mask_that_hides_nothing_is_passed_over():
    objective, batch = body(signal=1.0)
    one, other = masks_of(objective)[:2]
    nothing = replace(one, target=one.target[:, :0], columns={})
    assert objective(batch, [nothing, other]).total == objective(batch, [other]).total
    with pytest.raises(ValueError, match=r"the masks hide no token at all"):
        objective(batch, [nothing])


def test_moments_do_not_depend_on_how_a_step_is_cut_and_skip_what_is_absent():
    rng = torch.Generator().manual_seed(0)
    latents, valid = torch.randn(8, 3, 4, generator=rng), torch.rand(8, 3, generator=rng) > 0.3
    latents[~valid] = 1e6
    whole, halves = TargetScale(3, 4), TargetScale(3, 4)
    whole.observe(latents, valid)
    for half in (slice(0, 4), slice(4, 8)):
        halves.observe(latents[half], valid[half])
    for scale in (whole, halves):
        scale.update()
    torch.testing.assert_close(whole.moments, halves.moments)
    for token in range(3):
        own = latents[valid[:, token], token]
        # As if one more had been seen, of unit variance.
        variance = (len(own) * own.var(0, correction=0) + 1) / (len(own) + 1)
        expected = (own - own.mean(0)) / variance.sqrt()
        torch.testing.assert_close(whole(latents)[valid[:, token], token], expected, atol=1e-4, rtol=1e-3)
    # Old steps fade: a constant shift of all that comes moves the mean to itself.
    for _ in range(300):
        whole.observe(latents + 5, valid)
        whole.update()
    torch.testing.assert_close((whole(latents + 5) * valid[..., None]).sum(0), torch.zeros(3, 4), atol=1e-2, rtol=0)


def test_a_model_that_only_looks_does_not_move_the_moments():
    objective, batch = body()
    objective.eval()(batch, masks_of(objective))
    objective.update_teacher(70)
    assert not objective.predictor.scale.moments.any()


def test_gradients_reach_student_and_predictor_but_not_the_teacher():
    objective, batch = body()
    objective(batch, masks_of(objective)).total.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    # A parameter that no loss reaches would stop training on several processes.
    without = [n for n, p in objective.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@pytest.mark.parametrize(("share", "steps", "rate"), [(0.1, 100, 0.1), (0.5, 20, 0.1), (0.01, 10, 1.0)])
def test_the_teacher_follows_as_an_exponential(share: float, steps: int, rate: float):
    objective, _ = body(ema_share=share)
    name = "encoder.blocks.0.qkv.weight"
    with torch.no_grad():
        for p in objective.student.parameters():
            p.add_(torch.randn_like(p))
    student, start = objective.student.state_dict()[name].clone(), objective.teacher.state_dict()[name].clone()
    for _ in range(5):
        objective.update_teacher(steps)
    expected = student + (1 - rate) ** 5 * (start - student)
    torch.testing.assert_close(objective.teacher.state_dict()[name], expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(objective.student.state_dict()[name], student)


def test_half_batches_accumulate_to_the_gradient_of_the_whole():
    objective, batch = body(clips=8)
    masks = masks_of(objective, 8)
    objective(batch, masks).total.backward()
    whole = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    for half in (slice(0, 4), slice(4, 8)):
        values, valid = ({n: v[half] for n, v in part.items()} for part in (batch.values, batch.valid))
        cut = [Mask(m.family, m.seen, m.keep[half], m.target[half], m.columns) for m in masks]
        (objective(Batch(values, valid), cut).total / 2).backward()
    for name, parameter in objective.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, whole[name], atol=1e-6, rtol=1e-4)


def test_contrast_is_the_cross_entropy_of_finding_ones_own():
    objective, batch = body(contrast=1.0)
    (mask,) = masks_of(objective)[:1]
    rng = np.random.default_rng(0)
    tokens, width = mask.target.shape[1], 32
    query, gallery = (rng.normal(size=(4, tokens, width)).astype(np.float32) for _ in range(2))
    valid = torch.ones(4, tokens, dtype=torch.bool)
    found = objective._contrasts(torch.tensor(query), torch.tensor(gallery), valid, mask)
    for loss, own in zip(found, mask.columns.values(), strict=True):
        q, g = (x[:, own].reshape(4, -1) for x in (query, gallery))
        cosine = (q @ g.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(g, axis=1)[None]
        share = np.exp(cosine / TEMPERATURE) / np.exp(cosine / TEMPERATURE).sum(1, keepdims=True)
        assert loss.item() == pytest.approx(-np.log(np.diag(share)).mean(), rel=1e-3)
    assert objective(batch, [mask]).total > body()[0](batch, [mask]).total


def test_predicted_patches_cost_a_smooth_l1():
    objective, batch = body(signal=1.0)
    (mask,) = masks_of(objective)[:1]
    patches = objective.student.patches(batch)
    signals = [coarse(patches[n]) for n in objective.student.names]
    hidden = torch.randn(4, mask.target.shape[1], 16)
    valid = torch.ones_like(mask.target, dtype=torch.bool)
    loss = objective._signal_loss(hidden, signals, valid, mask).item()
    everything = {n: signal.numpy() for n, signal in zip(objective.student.names, signals, strict=True)}
    sensor = objective.student.sensor.numpy()
    expected = []
    for s, own in mask.columns.items():
        name = objective.student.names[s]
        guess = objective.predictor.signals[s](hidden[:, own]).detach().numpy()
        index = mask.target[:, own].numpy() - int(np.flatnonzero(sensor == s)[0])
        error = np.abs(guess - np.take_along_axis(everything[name], index[..., None], axis=1))
        expected.append(np.where(error < 1, 0.5 * error**2, error - 0.5).mean())
    assert loss == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_coarse_patch_is_the_means_of_its_cells():
    patches = torch.randn(2, 3, 10, 16, 4, 2)
    cells = patches.numpy().reshape(2, 3, 5, 2, 8, 2, 4, 2).mean((3, 5))
    np.testing.assert_allclose(coarse(patches), np.moveaxis(cells, -1, 2).reshape(2, 3, -1), atol=1e-6)
    assert coarse_size((10, 16, 4, 2)) == cells[0, 0].size


def test_more_target_layers_than_blocks_is_told():
    with pytest.raises(ValueError, match=r"objective.target_layers is 3, more than model.depth = 2 blocks"):
        body(target_layers=3)
    with pytest.raises(ConfigError, match=r"objective.ema_share: input should be less than or equal to 1"):
        parse(ObjectiveConfig, {"ema_share": 1.5}, "objective")


@pytest.mark.parametrize(
    ("context", "target"),
    [(["eye"], "nose"), (["nose"], "eye"), (["eye", "eye"], "arm"), (["eye", "arm"], "arm"), ([], "arm")],
)
def test_a_direction_that_cannot_be_is_told(context: list[str], target: str):
    objective, batch = body()
    with pytest.raises(ValueError, match=r"predict .* -> \w+: expected .*'eye', 'ear', 'pad', 'arm'"):
        objective.predict_sensor(batch, context, target)


@pytest.mark.parametrize("weights", ["shared", "per_sensor"])
def test_a_predicted_sensor_is_not_looked_at(weights: str):
    objective, batch = body(weights=weights)
    prediction, target, valid = objective.eval().predict_sensor(batch, ["eye", "ear"], "arm")
    assert prediction.shape == target.shape == (4, 5, 32)
    assert valid.all()
    other = Batch({**batch.values, "arm": -batch.values["arm"], "pad": -batch.values["pad"]}, batch.valid)
    again, moved, _ = objective.predict_sensor(other, ["eye", "ear"], "arm")
    assert torch.equal(prediction, again)
    assert not torch.equal(target, moved)
    # And the target is the sensor's own content, not what it took from the context.
    other = Batch({**batch.values, "eye": 255 - batch.values["eye"]}, batch.valid)
    again, same, _ = objective.predict_sensor(other, ["eye", "ear"], "arm")
    assert not torch.equal(prediction, again)
    assert torch.equal(target, same)


def test_a_prediction_without_context_is_not_valid():
    objective, batch = body()
    *_, valid = objective.predict_sensor(batch.only(["arm"]), ["eye"], "arm")
    assert not valid.any()


def test_a_little_training_predicts_one_sense_from_another():
    tree = body_tree()
    tree["sensors"] = {name: tree["sensors"][name] for name in ("pad", "arm")}
    tree["objective"]["masks"] = {"masks_per_clip": 2}
    config, logs = parse_config(tree), [body_log(n) for n in range(24)]
    grids = make_grids(config, logs)
    clips = TrainingClips(logs, grids, 1.0, 0, 10_000)
    objective = build_objective(config, grids)
    fit_statistics(objective.student, clips, count=32)
    copy_statistics(objective.student, objective.teacher)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    skills = []
    batches = [collate([clips[i] for i in range(24 * k, 24 * k + 24)]) for k in range(6)]
    for step in range(70):
        masks = draw_masks(objective.student.layout, config.objective.masks, 0, step, range(24 * step, 24 * step + 24))
        losses = objective(batches[step % 6], masks)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        objective.update_teacher(70)
        skills.append(monitor([losses], objective.student.layout, OneProcess()))
    assert np.mean([s["skill"] for s in skills[:5]]) < 0
    assert np.mean([s["skill"] for s in skills[-10:]]) > 0.05
    assert min(s["spread/arm"] for s in skills) > 0.05
    assert all(np.isfinite(list(s.values())).all() for s in skills)


@pytest.mark.parametrize("weights", ["shared", "per_sensor"])
def test_recomputed_activations_and_a_missing_mask_change_nothing(weights: str):
    """Less memory and a faster kernel, the same losses and gradients."""
    tree = body_tree()
    tree["model"]["weights"] = weights
    config = parse_config(tree)
    logs = [body_log(0), body_log(1)]
    grids = make_grids(config, logs)
    objective = build_objective(config, grids)
    batch = collate([read_clip(log, 0.5, grids, 1.0) for log in logs])
    assert batch.complete
    masks = draw_masks(objective.student.layout, config.objective.masks, 0, 0, [0, 1])
    found = []
    for recompute, complete in ((False, False), (True, False), (False, True)):
        objective.zero_grad()
        objective.recompute_activations(recompute)
        objective.predictor.scale.moments.zero_()
        loss = objective(replace(batch, complete=complete), masks).total
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in objective.student.parameters() if p.grad is not None)])
        assert len(found[-1]) > 20
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
