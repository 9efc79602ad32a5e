"""MultiSense: tokenize, encode, pool. One transformer over the tokens of all sensors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
from einops import rearrange
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from multisense.clips import Grid, Windows, collate, parse_grid
from multisense.config import Config, parse
from multisense.layers import Place, Transformer
from multisense.logs.base import SensorLog
from multisense.modalities import modality, parse_sensors
from multisense.modalities.base import PatchTokenizer, SensorConfig
from multisense.pretrained import Pretrained
from multisense.types import Batch, TokenBatch, TokenLayout


class ModelConfig(Config):
    width: PositiveInt = 192
    depth: PositiveInt = 4
    heads: PositiveInt = 6
    mlp_ratio: PositiveFloat = 4.0
    weights: Literal["shared", "per_sensor"] = "shared"
    """`per_sensor`: in every block, the predictor's too, each sensor has norms, projections and MLP of its own, and
    attention joins them (Mixture-of-Transformers, Liang et al. 2024). As many FLOPs; blocks of as many times the
    parameters as there are sensors. The register token goes with the first sensor."""
    step_s: PositiveFloat = Field(default=0.2)
    """Length of the steps of the per-time embedding."""


@dataclass(frozen=True)
class Embedding:
    """What a model says of B clips. F is twice the model's width: the mean and the maximum over the tokens pooled."""

    fused: Tensor
    """(B, S F) the per-sensor vectors side by side, in the model's order of sensors."""
    per_sensor: Mapping[str, Tensor]
    """(B, F) pooled over one sensor's own tokens, each of which has seen all sensors; zero where it is absent."""
    per_time: Tensor
    """(B, K, F) pooled over the tokens of one step of time."""
    times_s: Tensor
    """(K,) centres of the steps, clip-relative."""
    time_valid: Tensor
    """(B, K) whether a step has any valid token."""
    valid: Mapping[str, Tensor]
    """(B,) whether the sensor has any valid token."""


class MultiSense(nn.Module, Pretrained):
    """Tokenizers, one per sensor, and one transformer over all their tokens.

    `sensors` and `grids` are keyed by sensor name, in the order in which tokens stand in the sequence. `seconds` is the
    length of a clip, by default that of the longest grid. `save_pretrained`, `from_pretrained` and `push_to_hub` are as
    `multisense.pretrained` says.
    """

    def __init__(
        self,
        config: ModelConfig,
        sensors: Mapping[str, SensorConfig],
        grids: Mapping[str, Grid],
        seconds: float | None = None,
    ):
        super().__init__()
        self.config, self.sensors, self.names = config, dict(sensors), tuple(sensors)
        self.tokenizers = nn.ModuleDict(
            {
                module_name(name): modality(sensor.kind, f"sensors.{name}.kind").Tokenizer(
                    sensor, grids[name], config.width
                )
                for name, sensor in sensors.items()
            }
        )
        self.sensor_embedding = nn.Parameter(torch.randn(len(self.names), config.width) * 0.02)
        self.place_embedding = Place(config.width)
        self.encoder = Transformer(config.width, config.depth, config.heads, config.mlp_ratio, self.ways)
        parts = [self.tokenizer(name).layout() for name in self.names]
        counts = torch.tensor([len(time) for time, _ in parts])
        self.register_buffer("time_s", torch.cat([time for time, _ in parts]), persistent=False)
        self.register_buffer("place", torch.cat([place for _, place in parts]), persistent=False)
        self.register_buffer("sensor", torch.repeat_interleave(torch.arange(len(parts)), counts), persistent=False)
        self.seconds = max(grid.seconds for grid in grids.values()) if seconds is None else seconds

    time_s: Tensor
    place: Tensor
    sensor: Tensor

    def tokenizer(self, name: str) -> PatchTokenizer:
        tokenizer = self.tokenizers[module_name(name)]
        assert isinstance(tokenizer, PatchTokenizer)
        return tokenizer

    @property
    def ways(self) -> int:
        """Groups of tokens that have weights of their own."""
        return len(self.names) if self.config.weights == "per_sensor" else 1

    @property
    def grids(self) -> dict[str, Grid]:
        return {name: self.tokenizer(name).grid for name in self.names}

    def settings(self) -> dict[str, Any]:
        """Everything but the weights that the model is made from, as JSON holds it."""
        return {
            "seconds": self.seconds,
            "model": self.config.model_dump(mode="json"),
            "sensors": {name: sensor.model_dump(mode="json") for name, sensor in self.sensors.items()},
            "grids": {name: asdict(grid) for name, grid in self.grids.items()},
        }

    @classmethod
    def of_settings(cls, tree: Mapping[str, Any]) -> Self:
        """A fresh model of `settings()`, which may have come with somebody's weights: nothing is imported for them. Raises
        ConfigError for what is not a sensor's or the model's, or of a kind from outside that was not imported before."""
        grids = {name: parse_grid(values) for name, values in tree["grids"].items()}
        sensors = parse_sensors(tree["sensors"], importing=False)
        return cls(parse(ModelConfig, tree["model"], "model"), sensors, grids, tree["seconds"])

    @property
    def layout(self) -> TokenLayout:
        return TokenLayout(self.time_s, self.place, self.sensor, self.names)

    def tokenize(self, batch: Batch) -> TokenBatch:
        """Tokens of every sensor, one sensor after the other; absent ones are there but not valid."""
        return self.stem(self.patches(batch), self.token_valid(batch), batch.complete)

    def patches(self, batch: Batch) -> dict[str, Tensor]:
        """Normalised patches of every sensor; no parameter is in them."""
        return {name: self.tokenizer(name).patches(batch.values[name]) for name in self.names}

    def token_valid(self, batch: Batch) -> Tensor:
        """(B, T) which tokens hold real data only."""
        return torch.cat([self.tokenizer(n).token_valid(batch.valid[n]) for n in self.names], dim=1)

    def stem(self, patches: Mapping[str, Tensor], valid: Tensor, complete: bool = False) -> TokenBatch:
        """Tokens of patches, and where they stand; `complete` where all of `valid` (B, T) is known to be."""
        tokens = torch.cat([self.tokenizer(name).stem(patches[name]) for name in self.names], dim=1)
        if not complete:  # attention gives absent tokens no weight, but no weight times NaN is NaN
            tokens = tokens.masked_fill(~valid[..., None], 0.0)
        where = self.sensor_embedding[self.sensor] + self.place_embedding(self.place)
        return TokenBatch(tokens + where.to(tokens.dtype), valid, self.layout, complete)

    def encode(self, tokens: TokenBatch, layers: int = 1) -> list[Tensor]:
        """Outputs (B, T, D) of the last `layers` blocks over all valid tokens; the last is the latents."""
        valid = None if tokens.complete else tokens.valid
        parts = [(s, len(self.tokenizer(name))) for s, name in enumerate(self.names)]
        return self.encoder(tokens.tokens, valid, self.time_s[None], self.place[None], layers, parts)

    def encode_sensor(self, tokens: TokenBatch, name: str, layers: int = 1) -> list[Tensor]:
        """Outputs (B, T of the sensor, D) of the last `layers` blocks over one sensor's tokens alone."""
        first = sum(len(self.tokenizer(other)) for other in self.names[: self.names.index(name)])
        own = slice(first, first + len(self.tokenizer(name)))
        valid = None if tokens.complete else tokens.valid[:, own]
        parts = [(self.names.index(name), len(self.tokenizer(name)))]
        return self.encoder(tokens.tokens[:, own], valid, self.time_s[None, own], self.place[None, own], layers, parts)

    def encode_kept(self, tokens: TokenBatch, keep: Tensor, parts: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Latents (B, K, D) and validity (B, K) of the kept tokens alone; `keep` (B, K) indexes the sequence.

        The others are removed from the sequence, so nothing of them can reach the result. `parts`: how many of which
        sensor, as (its number, tokens), stand one after the other in K; a model of shared weights does not look at it.
        """
        kept = tokens.tokens.gather(1, keep[..., None].expand(-1, -1, tokens.tokens.shape[-1]))
        valid = tokens.valid.gather(1, keep)
        seen = None if tokens.complete else valid
        return self.encoder(kept, seen, self.time_s[keep], self.place[keep], parts=parts)[-1], valid

    @torch.no_grad()
    def embed(self, given: Batch | SensorLog, sensors: Sequence[str] | None = None) -> Embedding:
        """Fused, per-sensor and per-time vectors from the given sensors alone (all by default).

        Of a batch, or of a log: then B are its windows, one clip after the other from where its sensors begin.
        """
        batch = given if isinstance(given, Batch) else self._windows(given)
        training = self.training
        self.eval()
        tokens = self.tokenize(batch.only(None if sensors is None else list(sensors)))
        embedding = self.pool(self.encode(tokens)[-1], tokens.valid)
        self.train(training)
        return embedding

    def _windows(self, log: SensorLog) -> Batch:
        windows = Windows([log], self.grids, self.seconds, self.seconds)
        if not len(windows):
            raise ValueError(f"{log.path}: shorter than one clip of {self.seconds} s")
        return collate([windows[i] for i in range(len(windows))]).to(self.time_s.device)

    def pool(self, latents: Tensor, valid: Tensor) -> Embedding:
        """Pool latents (B, T, D) by sensor and by step of time, over valid tokens only."""
        of_sensor = self.sensor[None] == torch.arange(len(self.names), device=latents.device)[:, None]
        steps = max(round(self.seconds / self.config.step_s), 1)
        step = (self.time_s / self.seconds * steps).long().clamp(max=steps - 1)
        of_step = step[None] == torch.arange(steps, device=latents.device)[:, None]
        sensors, there = pool_groups(latents, valid, of_sensor)
        moments, then = pool_groups(latents, valid, of_step)
        return Embedding(
            fused=sensors.flatten(1),
            per_sensor={name: sensors[:, i] for i, name in enumerate(self.names)},
            per_time=moments,
            time_valid=then,
            times_s=(torch.arange(steps, device=latents.device) + 0.5) * self.seconds / steps,
            valid={name: there[:, i] for i, name in enumerate(self.names)},
        )


def module_name(sensor: str) -> str:
    """A sensor's name as a name of modules, which may hold no dot: percent-encoded, so that no two names meet."""
    return sensor.replace("%", "%25").replace(".", "%2E")


def pool_groups(latents: Tensor, valid: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum of latents (B, T, D) over groups (G, T) bool -> (B, G, 2 D) and (B, G) whether any is valid.

    The maximum keeps what happens in one moment of a clip, which a mean over a hundred tokens dilutes.
    """
    member = (groups[None] & valid[:, None]).to(latents.dtype)
    count = member.sum(-1, keepdim=True)
    mean = torch.einsum("bgt,btd->bgd", member, latents) / count.clamp(min=1)
    spread = latents[:, None].masked_fill(~member.bool()[..., None], -torch.inf).amax(2)
    there = count[..., 0] > 0
    maximum = torch.where(there[..., None], spread, 0.0)
    return rearrange([mean, maximum], "two b g d -> b g (two d)"), there
