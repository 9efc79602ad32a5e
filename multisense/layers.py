"""The transformer block, rotary position in seconds and place, and the absolute place of a token.

Shapes: B clips, T tokens, D width, H heads, E = D / H.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TIME_PERIODS_S = (0.05, 20.0)
PLACE_PERIODS = (0.25, 4.0)


class Rotary(nn.Module):
    """Rotary position (RoFormer, Su et al. 2021) over continuous time in seconds and place in [0, 1]².

    Half of a head's channel pairs turn with time, a quarter each with y and x, at log-spaced periods, so that an inner
    product depends on differences of time and place only, across sensors of any rate.
    """

    def __init__(self, head_width: int):
        super().__init__()
        if head_width % 8:
            raise ValueError(f"model.width / model.heads must be a multiple of 8, found {head_width}")
        pairs = head_width // 2
        counts = (pairs - 2 * (pairs // 4), pairs // 4, pairs // 4)
        rates = [_angular(n, *p) for n, p in zip(counts, (TIME_PERIODS_S, PLACE_PERIODS, PLACE_PERIODS), strict=True)]
        weight = torch.zeros(3, pairs)
        start = 0
        for axis, rate in enumerate(rates):
            weight[axis, start : start + len(rate)] = rate
            start += len(rate)
        self.register_buffer("rates", weight, persistent=False)

    rates: Tensor

    def table(self, time_s: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (..., T, E/2) for tokens at `time_s` (..., T) and `place` (..., T, 2)."""
        where = torch.cat([time_s[..., None], place], dim=-1)
        with torch.autocast(where.device.type, enabled=False):  # in bf16 an angle of many turns is any angle
            angles = where @ self.rates
        return angles.cos(), angles.sin()


class Place(nn.Module):
    """Places (..., 2) in [0, 1] -> (..., D): a linear map of their Fourier features (NeRF, Mildenhall et al. 2020).

    Rotation shows a token where it is only by differences to others. Time is so; a place is not: the left of a picture
    means something to the joints of an arm, and a predictor asked for it must know which part it is asked for.
    """

    PERIODS = (4.0, 2.0, 1.0, 0.5)

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("rates", 2 * math.pi / torch.tensor(self.PERIODS), persistent=False)
        self.linear = nn.Linear(4 * len(self.PERIODS), width)
        init_linear(self.linear)

    rates: Tensor

    def forward(self, place: Tensor) -> Tensor:
        angles = (place[..., None] * self.rates).flatten(-2)
        return self.linear(torch.cat([angles.cos(), angles.sin()], dim=-1))


def _angular(count: int, shortest: float, longest: float) -> Tensor:
    return 2 * math.pi / torch.logspace(math.log10(shortest), math.log10(longest), count)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the channel pairs (first half, second half) of x (B, H, T, E) by the table's (B or 1, T, E/2) angles."""
    cos, sin = (t.unsqueeze(-3).to(x.dtype) for t in table)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Weights(nn.Module):
    """What a block does to each token by itself, before and after attention."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        hidden = int(width * mlp_ratio)
        self.grow = nn.Linear(width, hidden)
        self.shrink = nn.Linear(hidden, width)

    def before(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> queries, keys and values (3, B, H, T, E)."""
        return rearrange(self.qkv(self.norm1(x)), "b t (three h e) -> three b h t e", three=3, h=self.heads)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """x (B, T, D) and what attention mixed for it (B, H, T, E) -> (B, T, D)."""
        x = x + self.proj(rearrange(mixed, "b h t e -> b t (h e)"))
        return x + self.shrink(F.gelu(self.grow(self.norm2(x))))


class Block(Weights):
    """Pre-norm attention and MLP on `scaled_dot_product_attention`.

    With several `ways` each group of tokens has weights of its own, and attention joins them (Mixture-of-Transformers,
    Liang et al. 2024): as many FLOPs, several times the parameters. The block's own weights are the first group's.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, ways: int = 1):
        super().__init__(width, heads, mlp_ratio)
        self.others = nn.ModuleList(Weights(width, heads, mlp_ratio) for _ in range(ways - 1))

    def forward(
        self, x: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None, parts: Sequence[tuple[int, int]] = ()
    ) -> Tensor:
        """x (B, T, D); `mask` (B, 1, 1, T) bool, False where a token is absent; `parts`: (group, tokens) along T."""
        if not parts:
            return self.after(x, self._attend(self.before(x), table, mask))
        ways = [cast(Weights, self.others[group - 1]) if group else self for group, _ in parts]
        counts = [count for _, count in parts]
        pieces = x.split(counts, 1)
        before = torch.cat([way.before(piece) for way, piece in zip(ways, pieces, strict=True)], dim=3)
        mixed = self._attend(before, table, mask).split(counts, 2)
        return torch.cat([way.after(*piece) for way, *piece in zip(ways, pieces, mixed, strict=True)], dim=1)

    def _attend(self, before: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        q, k, v = before
        return F.scaled_dot_product_attention(rotate(q, table), rotate(k, table), v, attn_mask=mask)


class Transformer(nn.Module):
    """Blocks over tokens at continuous positions, with one register token that is always there.

    The register (Darcet et al. 2023) gives attention a place to rest, and keeps a clip without any valid token finite.
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, ways: int = 1):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.recompute, self.ways = False, ways
        self.rotary = Rotary(width // heads)
        self.register = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, ways) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.apply(init_linear)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            for way in [block, *block.others]:
                for layer in (way.proj, way.shrink):
                    layer.weight.data.div_(math.sqrt(2 * (index + 1)))

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None,
        time_s: Tensor,
        place: Tensor,
        layers: int = 1,
        parts: Sequence[tuple[int, int]] = (),
    ) -> list[Tensor]:
        """x (B, T, D), valid (B, T), time_s (B or 1, T), place (B or 1, T, 2) -> the last blocks' outputs, as many as
        `layers`, the very last normed.

        `valid` is None where every token is: attention without a mask is the faster kernel. `parts`: which group of
        tokens stands where along T, as (group, tokens); only asked for where groups have weights of their own.
        """
        parts = self._with_register(parts, x.shape[1])
        # Not len(x), which would make a graph of one size of batch.
        x = torch.cat([self.register.expand(x.shape[0], -1, -1), x], dim=1)
        cos, sin = self.rotary.table(time_s, place)
        table = F.pad(cos, (0, 0, 1, 0), value=1.0), F.pad(sin, (0, 0, 1, 0))
        mask = None if valid is None else F.pad(valid, (1, 0), value=True)[:, None, None, :]
        recompute = self.recompute and torch.is_grad_enabled()
        outputs: list[Tensor] = []
        for block in self.blocks:
            given = x, table, mask, parts
            x = checkpoint(block, *given, use_reentrant=False) if recompute else block(*given)
            outputs = [*outputs, x[:, 1:]][-layers:]
        outputs[-1] = self.norm(outputs[-1])
        return outputs

    def _with_register(self, parts: Sequence[tuple[int, int]], tokens: int) -> list[tuple[int, int]]:
        """The parts with the register in front, of the first group; none where all groups share their weights."""
        if self.ways == 1:
            return []
        assert sum(count for _, count in parts) == tokens, f"parts {parts} of {tokens} tokens"
        # Several processes wait for the gradient of every weight: a group that is not there stands with no tokens.
        absent = set(range(1, self.ways)) - {group for group, _ in parts} if torch.is_grad_enabled() else ()
        return [(0, 1), *parts, *((group, 0) for group in sorted(absent))]


def init_linear(module: nn.Module) -> None:
    """Xavier uniform, zero bias (MAE); a fixed 0.02 is too quiet at the widths of small machines."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
