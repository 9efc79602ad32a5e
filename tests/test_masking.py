"""Masks are pure functions, hide what their family says, and leave every clip equally many tokens."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from multisense.config import ConfigError, parse
from multisense.masking import Mask, MaskConfig, draw_masks
from multisense.types import TokenLayout


def lattice(counts: Sequence[tuple[int, int]]) -> TokenLayout:
    """Sensors of (steps in time, places) tokens over two seconds."""
    times, places, sensors = [], [], []
    for s, (steps, spots) in enumerate(counts):
        times.append(((torch.arange(steps) + 0.5) * 2 / steps).repeat_interleave(spots))
        row = (torch.arange(spots) + 0.5) / spots
        places.append(torch.stack([row, row.flip(0)], 1).repeat(steps, 1))
        sensors.append(torch.full((steps * spots,), s))
    names = tuple("abcdef"[: len(counts)])
    return TokenLayout(torch.cat(times), torch.cat(places), torch.cat(sensors), names)


LAYOUT = lattice([(10, 16), (20, 1), (5, 4), (10, 1)])
ONLY = {
    "block": MaskConfig(block=1, cross=0, causal=0),
    "cross": MaskConfig(block=0, cross=1, causal=0),
    "causal": MaskConfig(block=0, cross=0, causal=1),
}


def draw(
    config: MaskConfig, steps: int = 20, layout: TokenLayout = LAYOUT, items: Sequence[int] = range(6)
) -> list[Mask]:
    return [mask for step in range(steps) for mask in draw_masks(layout, config, 0, step, items)]


def same(a: Mask, b: Mask) -> bool:
    return (a.family, a.seen, a.columns) == (b.family, b.seen, b.columns) and all(
        torch.equal(x, y) for x, y in ((a.keep, b.keep), (a.target, b.target))
    )


def test_the_same_numbers_give_the_same_masks():
    state = torch.get_rng_state()
    a, b = draw(MaskConfig()), draw(MaskConfig())
    assert all(same(x, y) for x, y in zip(a, b, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_seed_step_and_slot_give_other_masks():
    masks = [
        *draw_masks(LAYOUT, ONLY["block"], 0, 0, [0]), *draw_masks(LAYOUT, ONLY["block"], 0, 1, [0]),
        *draw_masks(LAYOUT, ONLY["block"], 1, 0, [0]),
    ]  # fmt: skip
    assert len({tuple(mask.keep[0].tolist()) for mask in masks}) == len(masks) == 12


@pytest.mark.parametrize("family", ONLY)
def test_a_clips_mask_is_the_same_in_whatever_batch_it_stands(family: str):
    whole = draw_masks(LAYOUT, ONLY[family], 0, 7, range(8))
    parts = [draw_masks(LAYOUT, ONLY[family], 0, 7, items) for items in (range(3), range(3, 8))]
    for mask, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(mask.keep, torch.cat([first.keep, second.keep]))
        assert torch.equal(mask.target, torch.cat([first.target, second.target]))
        assert mask.columns == first.columns == second.columns


@pytest.mark.parametrize("family", ONLY)
def test_every_token_is_kept_or_asked_for_and_never_both(family: str):
    for mask in draw(ONLY[family]):
        assert mask.family == family
        both = torch.cat([mask.keep, mask.target], 1).sort(1).values
        assert torch.equal(both, torch.arange(len(LAYOUT)).expand(6, -1))


@pytest.mark.parametrize("family", ONLY)
def test_columns_and_context_say_whose_tokens_they_are(family: str):
    for mask in draw(ONLY[family]):
        covered = []
        for s, own in mask.columns.items():
            assert (LAYOUT.sensor[mask.target[:, own]] == s).all()
            covered += range(own.start, own.stop)
        assert covered == list(range(mask.target.shape[1]))
        kept = LAYOUT.sensor[mask.keep]
        assert set(mask.context) == set(kept.unique().tolist())
        # Equal counts of every sensor in every clip keep the student's sequence dense.
        assert all(len((kept == s).sum(1).unique()) == 1 for s in range(4))


def test_a_block_mask_hides_its_share_of_every_sensor():
    config = MaskConfig(block=1, cross=0, causal=0, hide=(0.5, 0.75))
    for mask in draw(config):
        for s in range(4):
            share = (LAYOUT.sensor[mask.target[0]] == s).sum() / (LAYOUT.sensor == s).sum()
            assert 0.45 <= share <= 0.8


def test_hidden_blocks_hang_together():
    layout = lattice([(40, 1)])
    config = MaskConfig(block=1, cross=0, causal=0, hide=(0.5, 0.5))
    edges = []
    for mask in draw(config, layout=layout):
        hidden = torch.zeros(6, 40).scatter(1, mask.target, 1.0)
        edges.append(hidden.diff(dim=1).abs().sum(1))
    # Two spans have at most four edges; twenty of forty tokens hidden at random would have about twenty.
    assert torch.cat(edges).median() <= 4


def test_a_cross_mask_hides_whole_sensors_and_keeps_some():
    seen, asked = set(), set()
    for mask in draw(ONLY["cross"]):
        counts = torch.bincount(LAYOUT.sensor[mask.keep[0]], minlength=4)
        gone = set((counts == 0).nonzero()[:, 0].tolist())
        assert 1 <= len(gone) <= 3
        assert gone == set(range(4)) - set(mask.context)
        seen |= set(mask.context)
        asked |= gone
    assert seen == asked == {0, 1, 2, 3}


def test_a_causal_mask_hides_the_future_only():
    for mask in draw(ONLY["causal"]):
        for s in range(4):
            kept = LAYOUT.time_s[mask.keep][LAYOUT.sensor[mask.keep] == s]
            hidden = LAYOUT.time_s[mask.target][LAYOUT.sensor[mask.target] == s]
            assert kept.max() < hidden.min()
        # One moment for all: what any sensor keeps lies before what any other hides, but for a sensor's first token.
        late = LAYOUT.time_s[mask.keep] > 0.4
        assert (LAYOUT.time_s[mask.keep] * late).max() < LAYOUT.time_s[mask.target].min()


def test_families_come_by_their_weights():
    masks = draw(MaskConfig(block=1, cross=2, causal=1, masks_per_clip=4), steps=200, items=[0])
    counts = np.array([sum(m.family == f for m in masks) for f in ("block", "cross", "causal")])
    np.testing.assert_allclose(counts / 800, [0.25, 0.5, 0.25], atol=0.05)


def test_a_single_sensor_is_never_hidden_whole():
    alone = lattice([(10, 4)])
    for config in (MaskConfig(), ONLY["cross"]):
        masks = draw(config, layout=alone)
        assert {m.family for m in masks} <= {"block", "causal"}
        assert all(m.keep.shape[1] and m.target.shape[1] for m in masks)


def test_a_sensor_shown_alone_has_a_mask_of_its_own_and_changes_no_other():
    masks = [draw_masks(LAYOUT, MaskConfig(masks_per_clip=3, alone=["c", "a"]), 0, step, [4, 7]) for step in range(20)]
    without = [draw_masks(LAYOUT, MaskConfig(masks_per_clip=3), 0, step, [4, 7]) for step in range(20)]
    for drawn, mixture in zip(masks, without, strict=True):
        assert all(same(a, b) for a, b in zip(drawn[:3], mixture, strict=True))
        assert [m.family for m in drawn[3:]] == ["alone", "alone"]
        for mask, sensor in zip(drawn[3:], (2, 0), strict=True):
            own = (LAYOUT.sensor == sensor).nonzero()[:, 0].tolist()
            for keep, target in zip(mask.keep.tolist(), mask.target.tolist(), strict=True):
                assert sorted(keep + target) == own
                assert keep
                assert target
    assert len({tuple(drawn[4].keep[0].tolist()) for drawn in masks}) > 15


@pytest.mark.parametrize("family", [*ONLY, "alone"])
def test_parts_say_whose_tokens_stand_where(family: str):
    config = ONLY.get(family, MaskConfig(alone=["b"]))
    for mask in draw(config):
        for tokens, parts, columns in ((mask.keep, mask.parts, mask.seen), (mask.target, mask.asked, mask.columns)):
            expected = torch.tensor([s for s, count in parts for _ in range(count)])
            assert (LAYOUT.sensor[tokens] == expected).all()
            assert all((LAYOUT.sensor[tokens[:, own]] == s).all() for s, own in columns.items())


def test_masks_per_clip():
    assert len(draw_masks(LAYOUT, MaskConfig(masks_per_clip=7), 0, 0, [0])) == 7


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"block": 0, "cross": 0, "causal": 0}, "one of block, cross, causal must have a positive weight"),
        ({"hide": [0.8, 0.4]}, r"0 <= low <= high <= 1, found \(0.8, 0.4\)"),
        ({"context_hide": [0.0, 1.5]}, r"0 <= low <= high <= 1, found \(0.0, 1.5\)"),
        ({"alone": ["a", "b", "a"]}, r"alone: expected every sensor once, found \['a', 'b', 'a'\]"),
        ({"cross": -1}, "objective.masks.cross: input should be greater than or equal to 0; found -1"),
        ({"masks_per_clip": 0}, "objective.masks.masks_per_clip: input should be greater than or equal to 1"),
    ],
)
def test_a_mask_configuration_that_hides_nothing_or_nonsense_is_told(tree: dict, text: str):
    with pytest.raises(ConfigError, match=text):
        parse(MaskConfig, tree, "objective.masks")


def test_a_mask_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        MaskConfig().block = 2.0
