"""What is hidden, ablated or absent cannot be seen: bit for bit."""

from dataclasses import replace

import pytest
import torch
from conftest import body_log, body_tree

from multisense.clips import collate, read_clip, window_starts
from multisense.model import MultiSense, pool_groups
from multisense.run import build_model, make_grids, parse_config
from multisense.types import Batch, TokenBatch

SENSORS = ["eye", "ear", "pad", "arm"]


def body(stem: str = "mlp", weights: str = "shared", **ear: object) -> tuple[MultiSense, Batch]:
    """A model with the given stem wherever it fits, and two clips."""
    tree = body_tree()
    tree["model"]["weights"] = weights
    tree["sensors"]["ear"] |= ear
    for name in SENSORS:
        tree["sensors"][name]["stem"] = "mlp" if stem == "conv" and name in ("ear", "arm") else stem
    config, logs = parse_config(tree), [body_log(0), body_log(1)]
    grids = make_grids(config, logs)
    model = build_model(config, grids, 0).eval()
    with torch.no_grad():
        model.encoder.register.normal_(generator=torch.Generator().manual_seed(1))
    return model, collate([read_clip(log, 0.5, grids, 1.0) for log in logs])


def samples_of(model: MultiSense, name: str, token: int) -> tuple[slice | torch.Tensor, ...]:
    """Index of the raw samples that a token stands on, found from its time and place alone."""
    grid, shape = model.tokenizer(name).grid, model.tokenizer(name).grid.shape
    at = (model.sensor == model.names.index(name)).nonzero()[token, 0]
    half = model.tokenizer(name).token_seconds() / 2
    index = [((torch.arange(grid.count) + 0.5) / grid.rate_hz - model.time_s[at]).abs() < half]
    if len(shape) == 3:
        cells = model.tokenizer(name).lattice[1:]
        for axis in (0, 1):
            middle = (torch.arange(shape[axis]) + 0.5) / shape[axis]
            index.append((middle - model.place[at, axis]).abs() < 0.5 / cells[axis])
    return tuple(index)


def disturb(model: MultiSense, batch: Batch, tokens: torch.Tensor) -> Batch:
    """Other values in all samples under the given tokens (indices into the sequence)."""
    values = {name: v.clone() for name, v in batch.values.items()}
    first = {name: int((model.sensor == i).nonzero()[0, 0]) for i, name in enumerate(model.names)}
    for token in tokens.tolist():
        name = model.names[model.sensor[token]]
        index = samples_of(model, name, token - first[name])
        region = torch.meshgrid(*(i.nonzero()[:, 0] for i in index), indexing="ij")
        old = values[name][:, *region]
        values[name][:, *region] = 255 - old if old.dtype == torch.uint8 else old * -3 + 1.7
    return replace(batch, values=values)


def halves(model: MultiSense) -> tuple[torch.Tensor, torch.Tensor]:
    """Every other token of the sequence, of every sensor."""
    order = torch.arange(len(model.layout))
    return order[::2], order[1::2]


@pytest.mark.parametrize(
    ("stem", "weights"), [("patch", "shared"), ("mlp", "shared"), ("conv", "shared"), ("mlp", "per_sensor")]
)
def test_a_hidden_token_cannot_influence_the_student(stem: str, weights: str):
    model, batch = body(stem, weights, waveform=True, patch_s=0.1)
    keep, hidden = halves(model)
    assert set(model.sensor[hidden].tolist()) == set(model.sensor[keep].tolist()) == {0, 1, 2, 3}

    parts = list(enumerate(torch.bincount(model.sensor[keep]).tolist()))

    def seen(batch: Batch) -> torch.Tensor:
        return model.encode_kept(model.tokenize(batch), keep.expand(2, -1), parts)[0]

    clean = seen(batch)
    assert torch.equal(seen(disturb(model, batch, hidden)), clean)
    for sensor in range(4):
        one = keep[model.sensor[keep] == sensor][:1]
        changed = (seen(disturb(model, batch, one)) - clean).abs().amax((0, 2))
        assert (changed > 0).all(), f"{model.names[sensor]}: a visible token must be seen by every other"


@pytest.mark.parametrize("stem", ["patch", "mlp"])
def test_a_hidden_mel_patch_cannot_influence_the_student(stem: str):
    # Mel windows overlap by 25 ms, so that hidden and visible are a matter of patches and not of samples.
    model, batch = body(stem)
    keep, hidden = halves(model)
    patches, valid = model.patches(batch), model.token_valid(batch)
    clean = model.encode_kept(model.stem(patches, valid), keep.expand(2, -1), [])[0]
    first = int((model.sensor == 1).nonzero()[0, 0])
    for tokens, equal in ((hidden, True), (keep, False)):
        own = tokens[model.sensor[tokens] == 1] - first
        other = patches["ear"].clone()
        other[:, own] = 9.0
        again = model.encode_kept(model.stem({**patches, "ear": other}, valid), keep.expand(2, -1), [])[0]
        assert torch.equal(again, clean) is equal


def same_embedding(model: MultiSense, a: Batch, b: Batch, sensors: list[str] | None = None) -> bool:
    x, y = model.embed(a, sensors), model.embed(b, sensors)
    pairs = [(x.fused, y.fused), (x.per_time, y.per_time)]
    pairs += [(x.per_sensor[n], y.per_sensor[n]) for n in model.names]
    return all(torch.equal(p, q) and bool(torch.isfinite(p).all()) for p, q in pairs)


def noise(values: torch.Tensor, fill: float) -> torch.Tensor:
    if values.dtype == torch.uint8:
        return 255 - values
    return torch.full_like(values, fill)


@pytest.mark.parametrize("fill", [1e3, float("nan"), float("inf")])
@pytest.mark.parametrize("sensor", SENSORS)
def test_an_absent_sensor_cannot_influence_the_embedding(sensor: str, fill: float):
    model, batch = body()
    others = [n for n in SENSORS if n != sensor]
    other = replace(batch, values={**batch.values, sensor: noise(batch.values[sensor], fill)})
    assert same_embedding(model, batch.only(others), other.only(others))
    assert same_embedding(model, batch, other, others)


@pytest.mark.parametrize("sensor", SENSORS)
def test_a_sensor_that_is_there_does_influence_the_embedding(sensor: str):
    model, batch = body()
    other = replace(batch, values={**batch.values, sensor: noise(batch.values[sensor], 1e3)})
    assert not torch.equal(model.embed(batch).fused, model.embed(other).fused)


def test_an_absent_clip_does_not_touch_its_neighbour():
    model, batch = body()
    blind = replace(batch, valid={**batch.valid, "eye": batch.valid["eye"] & torch.tensor([[True], [False]])})
    whole, half = model.embed(batch), model.embed(blind)
    assert torch.equal(whole.fused[0], half.fused[0])
    assert not torch.equal(whole.fused[1], half.fused[1])
    assert half.valid["eye"].tolist() == [True, False]
    assert (half.per_sensor["eye"][1] == 0).all()


@pytest.mark.parametrize("weights", ["shared", "per_sensor"])
@pytest.mark.parametrize("sensors", [["eye"], ["ear", "arm"], SENSORS])
def test_asking_for_sensors_is_marking_the_others_absent(sensors: list[str], weights: str):
    model, batch = body(weights=weights)
    asked, marked = model.embed(batch, sensors), model.embed(batch.only(sensors))
    assert torch.equal(asked.fused, marked.fused)
    # And as good as a sequence that never held the others.
    keep = torch.isin(model.sensor, torch.tensor([SENSORS.index(n) for n in sensors])).nonzero()[:, 0]
    parts = [(s, int((model.sensor == s).sum())) for s, name in enumerate(SENSORS) if name in sensors]
    latents, _ = model.encode_kept(model.tokenize(batch), keep.expand(2, -1), parts)
    pooled = {name: torch.zeros(2, 64) for name in SENSORS}
    for name in sensors:
        own = latents[:, model.sensor[keep] == SENSORS.index(name)]
        pooled[name] = torch.cat([own.mean(1), own.max(1).values], 1)
        torch.testing.assert_close(asked.per_sensor[name], pooled[name], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(asked.fused, torch.cat(list(pooled.values()), 1), atol=1e-5, rtol=1e-5)


def test_an_unknown_sensor_is_told():
    model, batch = body()
    with pytest.raises(ValueError, match=r"no sensor \['nose'\] here; there are \['arm', 'ear', 'eye', 'pad'\]"):
        model.embed(batch, ["nose"])


def test_a_clip_without_any_valid_token_stays_finite():
    model, batch = body()
    empty = model.embed(batch.only([]))
    assert (empty.fused == 0).all()
    assert torch.isfinite(empty.per_time).all()
    assert not any(there.any() for there in empty.valid.values())
    assert torch.isfinite(model.encode(model.tokenize(batch.only([])))[-1]).all()


def test_the_layout_is_every_sensors_tokens_one_after_the_other():
    model, batch = body()
    tokens = model.tokenize(batch)
    assert tokens.tokens.shape == (2, len(model.layout), 32)
    # 10 frames in pairs of 2 x 2 patches; a second in fifths for the others.
    assert torch.bincount(model.sensor).tolist() == [20, 5, 5, 5]
    assert (model.sensor.diff() >= 0).all()
    assert model.layout.names == ("eye", "ear", "pad", "arm")
    assert tokens.valid.all()


def test_steps_of_time_pool_the_tokens_that_stand_in_them():
    model, batch = body()
    tokens = model.tokenize(batch)
    latents, embedding = model.encode(tokens)[-1], model.embed(batch)
    torch.testing.assert_close(embedding.times_s, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    for k, centre in enumerate(embedding.times_s):
        own = latents[:, (model.time_s - centre).abs() < 0.1]
        torch.testing.assert_close(embedding.per_time[:, k, :32], own.mean(1), atol=1e-5, rtol=1e-5)


def test_the_order_of_the_sequence_means_nothing():
    model, batch = body()
    tokens = model.tokenize(batch)
    order = torch.randperm(len(model.layout), generator=torch.Generator().manual_seed(2))
    straight = model.encode_kept(tokens, torch.arange(len(order)).expand(2, -1), [])[0]
    shuffled = model.encode_kept(tokens, order.expand(2, -1), [])[0]
    torch.testing.assert_close(straight[:, order], shuffled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(straight, model.encode(tokens)[-1], atol=1e-5, rtol=1e-5)


def test_one_sensors_weights_are_used_for_its_tokens():
    model, batch = body(weights="per_sensor")
    alone = {name: model.encode_sensor(model.tokenize(batch), name)[-1] for name in SENSORS}
    shared = [p for name, p in model.encoder.named_parameters() if "others" not in name and "blocks" in name]
    of_pad = [p for name, p in model.encoder.named_parameters() if "others.1." in name]
    assert len(shared) == len(of_pad) > 0
    for parameter in of_pad:
        parameter.data += 0.1
    for name in SENSORS:
        again = model.encode_sensor(model.tokenize(batch), name)[-1]
        assert torch.equal(again, alone[name]) == (name != "pad")


def test_embedding_leaves_the_model_in_its_mode():
    model, batch = body()
    model.train()
    model.embed(batch)
    assert model.training
    model.eval()
    model.embed(batch)
    assert not model.training


def test_a_log_is_embedded_clip_by_clip():
    model, _ = body()
    log = body_log(0)
    grids = {name: model.tokenizer(name).grid for name in SENSORS}
    clips = [read_clip(log, float(start), grids, 1.0) for start in window_starts(log, 1.0, 1.0, SENSORS)]
    assert len(clips) > 1
    ours, theirs = model.embed(log), model.embed(collate(clips))
    assert torch.equal(ours.fused, theirs.fused)
    assert ours.time_valid.all()
    short = model.embed(
        collate([replace(clips[0], valid={n: v & (v.cumsum(0) < 1) for n, v in clips[0].valid.items()})])
    )
    assert not short.time_valid.any()


def test_pooling_by_hand():
    latents = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [100.0, 100.0]]])
    valid = torch.tensor([[True, True, False]])
    pooled, there = pool_groups(latents, valid, torch.tensor([[True, True, True], [False, False, True]]))
    assert pooled.tolist() == [[[2.0, -3.0, 3.0, -2.0], [0.0, 0.0, 0.0, 0.0]]]
    assert there.tolist() == [[True, False]]


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = body()[0].state_dict(), body()[0].state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(torch.get_rng_state(), state)


def test_tokens_of_half_the_batch_are_half_the_tokens():
    model, batch = body()
    first = Batch({n: v[:1] for n, v in batch.values.items()}, {n: v[:1] for n, v in batch.valid.items()})
    whole, half = model.tokenize(batch), model.tokenize(first)
    assert isinstance(whole, TokenBatch)
    torch.testing.assert_close(whole.tokens[:1], half.tokens)
