"""Attention is plain attention, position is relative, and order means nothing."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from multisense.layers import Block, Place, Rotary, Transformer, rotate
from multisense.monitors import effective_rank


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 32, generator=generator)
    valid = torch.rand(2, 9, generator=generator) > 0.3
    time, place = 2 * torch.rand(2, 9, generator=generator), torch.rand(2, 9, 2, generator=generator)
    return x, valid, time, place


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(32, 2, 2)
    torch.nn.init.normal_(model.register)
    return model.eval()


def test_rotation_keeps_lengths():
    x = torch.randn(2, 3, 5, 16)
    turned = rotate(x, Rotary(16).table(torch.rand(2, 5), torch.rand(2, 5, 2)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert not torch.allclose(turned, x)


def test_inner_products_depend_on_differences_of_time_and_place_alone():
    rotary = Rotary(32)
    q, k = torch.randn(2, 1, 1, 1, 32, generator=torch.Generator().manual_seed(0))
    time, place = torch.tensor([[0.3]]), torch.tensor([[[0.2, 0.7]]])

    def product(shift_s: float, shift: float, apart_s: float) -> float:
        here = rotary.table(time + shift_s, place + shift)
        there = rotary.table(time + shift_s + apart_s, place + shift)
        return (rotate(q, here) * rotate(k, there)).sum().item()

    assert product(5.0, 0.4, 0.1) == pytest.approx(product(0.0, 0.0, 0.1), abs=2e-3)
    assert product(0.0, 0.0, 0.4) != pytest.approx(product(0.0, 0.0, 0.1), abs=1e-2)


def test_a_place_can_be_read_off_its_embedding_by_a_line():
    torch.manual_seed(0)
    places = torch.rand(200, 2)
    features = torch.cat([Place(32)(places), torch.ones(200, 1)], dim=1).detach()
    fit = torch.linalg.lstsq(features, places).solution
    torch.testing.assert_close(features @ fit, places, atol=2e-2, rtol=0)
    one, other = Place(32)(torch.tensor([[0.1, 0.9], [0.9, 0.1]]))
    assert not torch.allclose(one, other, atol=0.1)


def test_shifting_every_time_changes_nothing(tokens: tuple):
    x, valid, time, place = tokens
    torch.manual_seed(0)
    block, rotary, mask = Block(32, 2), Rotary(16), valid[:, None, None] | torch.eye(9, dtype=torch.bool)
    here = block(x, rotary.table(time, place), mask)
    torch.testing.assert_close(block(x, rotary.table(time + 3.0, place), mask), here, atol=1e-5, rtol=0)
    later = time.clone()
    later[:, 0] += 0.5
    assert not torch.allclose(block(x, rotary.table(later, place), mask), here, atol=1e-3)


def test_a_block_is_softmax_attention_written_out(tokens: tuple):
    torch.manual_seed(0)
    x, valid, time, place = tokens
    valid[:, 0] = True
    block, rotary = Block(32, 2), Rotary(16)
    ours = block(x, rotary.table(time, place), valid[:, None, None])

    angles = time[..., None] * rotary.rates[0] + place[..., :1] * rotary.rates[1] + place[..., 1:] * rotary.rates[2]
    turn = torch.polar(torch.ones_like(angles), angles)
    h = F.layer_norm(x, (32,))
    heads = []
    for head in range(2):
        rows = [slice(32 * part + 16 * head, 32 * part + 16 * (head + 1)) for part in range(3)]
        q, k, v = (h @ block.qkv.weight[r].T + block.qkv.bias[r] for r in rows)
        q, k = (torch.complex(a[..., :8], a[..., 8:]) * turn for a in (q, k))
        scores = torch.einsum("bic,bjc->bij", q, k.conj()).real / math.sqrt(16)
        weights = torch.exp(scores) * valid[:, None]
        heads.append(weights / weights.sum(-1, keepdim=True) @ v)
    mixed = x + torch.cat(heads, -1) @ block.proj.weight.T + block.proj.bias
    expected = mixed + block.shrink(F.gelu(block.grow(F.layer_norm(mixed, (32,)))))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_the_order_of_tokens_means_nothing(transformer: Transformer, tokens: tuple):
    x, valid, time, place = tokens
    order = torch.tensor([4, 2, 8, 0, 1, 7, 3, 6, 5])
    straight = transformer(x, valid, time, place)[-1][:, order]
    shuffled = transformer(x[:, order], valid[:, order], time[:, order], place[:, order])[-1]
    torch.testing.assert_close(straight, shuffled, atol=1e-5, rtol=1e-5)


def test_an_absent_token_is_as_good_as_removed(transformer: Transformer, tokens: tuple):
    x, _, time, place = tokens
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[:, 5:] = False
    masked = transformer(x, valid, time, place)
    removed = transformer(x[:, :5], valid[:, :5], time[:, :5], place[:, :5])
    for some, few in zip(masked, removed, strict=True):
        torch.testing.assert_close(some[:, :5], few, atol=1e-5, rtol=1e-5)


def test_no_valid_token_stays_finite(transformer: Transformer, tokens: tuple):
    x, _, time, place = tokens
    assert torch.isfinite(transformer(x, torch.zeros(2, 9, dtype=torch.bool), time, place)[-1]).all()


def test_blocks_are_returned_and_the_last_is_normed(transformer: Transformer, tokens: tuple):
    outputs = transformer(*tokens, layers=2)
    assert [tuple(o.shape) for o in outputs] == [(2, 9, 32)] * 2
    torch.testing.assert_close(outputs[-1].std(-1, correction=0), torch.ones(2, 9), atol=1e-3, rtol=0)


def test_widths_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="width 32 is not a multiple of heads 3"):
        Transformer(32, 1, 3)
    with pytest.raises(ValueError, match=r"model.width / model.heads must be a multiple of 8, found 12"):
        Rotary(12)


def spectrum(values: list[float]) -> torch.Tensor:
    """Centred vectors (64, 16) with just these singular values."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(64, len(values)))
    left = np.linalg.qr(raw - raw.mean(0))[0]
    right = np.linalg.qr(rng.normal(size=(16, len(values))))[0]
    return torch.tensor(left * values @ right.T)


@pytest.mark.parametrize("k", [1, 3, 16])
def test_effective_rank_of_k_equal_directions_is_k(k: int):
    assert effective_rank(5 + spectrum([2.0] * k)).item() == pytest.approx(k, rel=1e-3)


def test_effective_rank_of_two_to_one():
    # exp of the entropy of (2/3, 1/3) is 3 / 2^(2/3).
    assert effective_rank(spectrum([2.0, 1.0])).item() == pytest.approx(3 / 2 ** (2 / 3), rel=1e-3)


def test_positions_are_exact_in_half_precision():
    """An angle of many turns has no fraction left in bf16."""
    rotary = Rotary(32)
    time, place = torch.linspace(0, 4, 50)[None], torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0))
    exact = rotary.table(time, place)
    with torch.autocast("cpu", torch.bfloat16):
        half = rotary.table(time, place)
        turned = rotate(torch.ones(1, 1, 50, 32, dtype=torch.bfloat16), half)
    assert all(torch.equal(a, b) for a, b in zip(exact, half, strict=True))
    assert turned.dtype == torch.bfloat16


def test_only_the_last_outputs_are_kept():
    torch.manual_seed(0)
    transformer = Transformer(16, 3, 2)
    x, time, place = torch.randn(2, 5, 16), torch.rand(1, 5), torch.rand(1, 5, 2)
    every = transformer(x, None, time, place, 3)
    for layers in (1, 2):
        last = transformer(x, None, time, place, layers)
        assert len(last) == layers
        assert all(torch.equal(a, b) for a, b in zip(last, every[-layers:], strict=True))


def grouped(depth: int = 2) -> tuple[Transformer, Transformer]:
    """One with weights for each of three groups, all the same, and one with these weights for all."""
    torch.manual_seed(0)
    shared, apart = Transformer(32, depth, 2), Transformer(32, depth, 2, ways=3)
    torch.nn.init.normal_(shared.register)
    state = shared.state_dict()
    for name, value in list(state.items()):
        _, _, layer = name.partition("blocks.")
        for group in range(2):
            number, _, rest = layer.partition(".")
            state |= {f"blocks.{number}.others.{group}.{rest}": value} if layer else {}
    apart.load_state_dict(state, strict=True)
    return shared, apart


def test_groups_of_equal_weights_are_the_shared_transformer():
    shared, apart = grouped()
    x, time, place = torch.randn(2, 9, 32), torch.rand(2, 9), torch.rand(2, 9, 2)
    valid = torch.rand(2, 9) < 0.7
    for parts in ([(0, 2), (1, 3), (2, 4)], [(2, 4), (0, 5)], [(1, 2), (2, 3), (1, 4)]):
        for there in (None, valid):
            expected = shared(x, there, time, place)[0]
            torch.testing.assert_close(apart(x, there, time, place, parts=parts)[0], expected, atol=1e-5, rtol=1e-5)


def test_a_group_has_weights_of_its_own():
    _, apart = grouped(depth=1)
    x, time, place = torch.randn(2, 9, 32), torch.rand(1, 9), torch.rand(1, 9, 2)
    parts = [(0, 2), (1, 3), (2, 4)]
    before = apart(x, None, time, place, parts=parts)[0]
    apart.blocks[0].others[0].shrink.weight.data.normal_()  # after attention: no other token may feel it
    moved = (apart(x, None, time, place, parts=parts)[0] != before).any(-1).any(0)
    assert moved.tolist() == [False] * 2 + [True] * 3 + [False] * 4
    apart.blocks[0].others[0].qkv.weight.data.normal_()
    assert (apart(x, None, time, place, parts=parts)[0] != before).any(-1).all()


def test_the_weights_of_a_group_that_is_not_there_have_a_gradient_of_zero():
    """Several processes wait for the gradient of every weight."""
    _, apart = grouped()
    x, time, place = torch.randn(2, 5, 32), torch.rand(1, 5), torch.rand(1, 5, 2)
    apart(x, None, time, place, parts=[(2, 5)])[0].sum().backward()
    for name, parameter in apart.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad == 0).all() or "others.0" not in name
    assert (apart.blocks[0].others[1].grow.weight.grad != 0).any()
    with pytest.raises(AssertionError, match=r"parts \[\(2, 4\)\] of 5 tokens"):
        apart(x, None, time, place, parts=[(2, 4)])
