"""Cross-modal masked latent prediction: the student sees some tokens, the predictor names the teacher's latents of others.

I-JEPA (Assran et al. 2023) and V-JEPA 2 (2025) for the rule; MJEPA (2026) for prediction across modalities; data2vec
(Baevski et al. 2022) for targets averaged over layers. B clips, T tokens, K kept, M hidden, D width, P predictor width.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from multisense.config import Config
from multisense.masking import ALONE, Mask, MaskConfig
from multisense.model import MultiSense
from multisense.objectives.predictor import Predictor
from multisense.types import Batch, TokenBatch

TEMPERATURE = 0.1
"""Of the contrast between clips."""
CELLS = (5, 8, 8)
"""A hidden patch is asked for as the averages of at most so many cells of (time, height, width): finer is mostly noise."""


class ObjectiveConfig(Config):
    masks: MaskConfig = MaskConfig()
    predictor_width: PositiveInt = 96
    predictor_depth: PositiveInt = 2
    predictor_heads: PositiveInt = 3
    target_layers: PositiveInt = 2
    """The target is the mean of the layer-normed outputs of this many top blocks of the teacher, standardised."""
    ema_share: float = Field(default=0.05, gt=0, le=1)
    """Time constant of the teacher's moving average, as a share of the run's optimizer steps."""
    signal: float = Field(default=0.0, ge=0)
    """Weight of predicting the hidden patches themselves, averaged over cells, beside their latents (masked
    reconstruction, He et al. 2022)."""
    contrast: float = Field(default=0.0, ge=0)
    """Weight of telling, among the clips of a micro-batch, whose latents were predicted (InfoNCE, van den Oord 2018)."""


@dataclass(frozen=True)
class Direction:
    """One direction of prediction in one step: from the context sensors to a target sensor."""

    context: tuple[str, ...]
    target: str
    loss: Tensor
    """() mean L1 over clips of the mean over the target tokens that are valid."""
    baseline: Tensor
    """() the same for predicting, at each token, the batch mean of the target."""
    alone: bool
    """Whether nothing but the target sensor was shown, and only its own content asked for."""

    @property
    def name(self) -> str:
        return f"{self.target} from itself" if self.alone else f"{'+'.join(self.context)}->{self.target}"


@dataclass(frozen=True)
class Losses:
    total: Tensor
    directions: list[Direction]
    latents: Tensor
    """(B, T, D) the teacher's latents before they are standardised, for the monitors."""
    valid: Tensor
    """(B, T)"""


@dataclass(frozen=True)
class Targets:
    """What a step's masks may ask for."""

    latents: Tensor
    """(B, T, 2 D) standardised"""
    of_mean: Tensor
    """(B, T, 2) error of naming their mean, of each view"""
    signals: list[Tensor]
    """Coarse patches (B, T, F) of every sensor, where they are predicted."""
    valid: Tensor
    """(B, T)"""


@dataclass(frozen=True)
class Errors:
    """Of one mask."""

    directions: list[Direction]
    signal: Tensor | None
    """() where patches are predicted"""
    contrast: list[Tensor]
    """() of each target sensor"""


class LatentPrediction(nn.Module):
    """Student, teacher and predictor. Call it on a batch and its masks; call `update_teacher` after each optimizer step."""

    def __init__(self, config: ObjectiveConfig, model: MultiSense):
        super().__init__()
        if config.target_layers > model.config.depth:
            raise ValueError(
                f"objective.target_layers is {config.target_layers}, more than model.depth = {model.config.depth} blocks; "
                "set either to fit the other"
            )
        for name in config.masks.alone:
            if name in model.names and len(model.tokenizer(name)) < 2:
                raise ValueError(
                    f"objective.masks.alone: '{name}' has one token a clip, of which nothing can be hidden; give it more, "
                    "with a shorter patch, or leave it out"
                )
        self.config = config
        self.student = model
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        sizes = [coarse_size(model.tokenizer(name).patch_shape) for name in model.names if config.signal]
        inner = config.predictor_width, config.predictor_depth, config.predictor_heads
        self.predictor = Predictor(model, *inner, sizes)

    def forward(self, batch: Batch, masks: Sequence[Mask]) -> Losses:
        patches, there = self.student.patches(batch), self.student.token_valid(batch)
        latents = self.teacher_latents(self.teacher.stem(patches, there, batch.complete))
        if self.training:
            self.predictor.scale.observe(latents, there)
        wanted = self.predictor.scale(latents)
        signals = [coarse(patches[name]) for name in self.student.names] if self.config.signal else []
        targets = Targets(wanted, self._errors_of_mean(wanted, there), signals, there)
        tokens = self.student.stem(patches, there, batch.complete)
        asking = [mask for mask in masks if mask.columns]  # sensors of a single token each have nothing to hide
        if not asking:
            raise ValueError(
                f"the masks hide no token at all: the sensors have {[len(self.student.tokenizer(n)) for n in self.student.names]} "
                f"tokens a clip; give them more, with a shorter patch or a longer clip"
            )
        errors = [self._errors(tokens, mask, targets) for mask in asking]
        mixture = [e for e, mask in zip(errors, asking, strict=True) if mask.family != ALONE]
        alone = [e for e, mask in zip(errors, asking, strict=True) if mask.family == ALONE]
        total = torch.stack([self._loss(group) for group in (mixture, *([e] for e in alone)) if group]).sum()
        return Losses(total, [d for e in errors for d in e.directions], latents, there)

    def _errors(self, tokens: TokenBatch, mask: Mask, targets: Targets) -> Errors:
        context, valid = self.student.encode_kept(tokens, mask.keep, mask.parts)
        hidden = self.predictor(self.student, context, None if tokens.complete else valid, mask)
        prediction, truth = self.predictor.outward(hidden), take(targets.latents, mask.target)
        asked = targets.valid.gather(1, mask.target) & valid.any(1)[:, None]
        views = by_view((prediction.float() - truth).abs()), take(targets.of_mean, mask.target)
        # One sensor alone is not asked for what all of them make of its tokens, only for its own content.
        errors, of_mean = (view[..., 1] if mask.family == ALONE else view.mean(-1) for view in views)
        return Errors(
            self._directions(errors, of_mean, asked, mask),
            self._signal_loss(hidden, targets.signals, asked, mask) if self.config.signal else None,
            self._contrasts(own(prediction), own(truth), asked, mask) if self.config.contrast else [],
        )

    def _loss(self, errors: Sequence[Errors]) -> Tensor:
        """() of masks that count together: the mean over their directions, and those of their signals and contrasts."""
        total = torch.stack([d.loss for e in errors for d in e.directions]).mean()
        if self.config.signal:
            total = total + self.config.signal * torch.stack([e.signal for e in errors if e.signal is not None]).mean()
        if self.config.contrast:
            total = total + self.config.contrast * torch.stack([c for e in errors for c in e.contrast]).mean()
        return total

    @torch.no_grad()
    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What there is to predict (B, T, D), standardised, and its validity (B, T)."""
        tokens = self.teacher.tokenize(batch)
        return self.predictor.scale(self.teacher_latents(tokens)), tokens.valid

    @torch.no_grad()
    def teacher_latents(self, tokens: TokenBatch) -> Tensor:
        """Two views of each token, side by side (B, T, 2 D): among all senses, and among its own sensor's tokens alone.

        Each is the mean of the top blocks' layer-normed outputs. The first teaches fusion; but a teacher that sees all
        senses writes the arm into the camera's tokens, and predicting the arm would then do. The second is a sensor's
        own content, and what `predict_sensor` predicts.
        """
        top = self.config.target_layers
        joint = self._mean(self.teacher.encode(tokens, top))
        if len(self.student.names) == 1:
            return torch.cat([joint, joint], dim=-1)
        alone = [self._mean(self.teacher.encode_sensor(tokens, name, top)) for name in self.student.names]
        return torch.cat([joint, torch.cat(alone, dim=1)], dim=-1)

    def _mean(self, layers: list[Tensor]) -> Tensor:
        return torch.stack([F.layer_norm(x.float(), x.shape[-1:]) for x in layers]).mean(0)

    @torch.no_grad()
    def _errors_of_mean(self, targets: Tensor, valid: Tensor) -> Tensor:
        """(B, T, 2) L1 of predicting, at each token, the mean of its target over the batch, of each view."""
        weight = valid[..., None].to(targets.dtype)
        mean = (targets * weight).sum(0) / weight.sum(0).clamp(min=1)
        return by_view((targets - mean).abs())

    def _directions(self, errors: Tensor, errors_of_mean: Tensor, valid: Tensor, mask: Mask) -> list[Direction]:
        """Errors (B, M) of the masked tokens -> one Direction per target sensor."""
        names = self.student.names
        context = tuple(names[s] for s in mask.context)
        weight = valid.to(errors.dtype)
        # Mean inside each clip first: the loss is then the same however the batch is cut over ranks and micro-batches.
        weight = torch.cat(
            [weight[:, own] / weight[:, own].sum(1, keepdim=True).clamp(min=1) for own in mask.columns.values()], 1
        )
        return [
            Direction(
                context,
                names[s],
                *((e[:, own] * weight[:, own]).sum(1).mean() for e in (errors, errors_of_mean)),
                alone=mask.family == ALONE,
            )
            for s, own in mask.columns.items()
        ]

    def _contrasts(self, prediction: Tensor, target: Tensor, valid: Tensor, mask: Mask) -> list[Tensor]:
        """Per target sensor, cross-entropy of finding a clip's own latents among those of the batch by its prediction.

        The batch is that of all processes; with `train.accumulate` it is the micro-batch. Predicting the mean costs an L1
        loss little where most clips are quiet; it cannot tell one clip from another.
        """
        losses = []
        for own in mask.columns.values():
            there = valid[:, own, None].to(target.dtype)
            query, gallery = (F.normalize((x[:, own].float() * there).flatten(1), dim=1) for x in (prediction, target))
            gallery, first = of_all_processes(gallery)
            logits = query @ gallery.T / TEMPERATURE
            known = (there.sum((1, 2)) > 0).to(logits.dtype)
            number = first + torch.arange(len(logits), device=logits.device)
            each = F.cross_entropy(logits, number, reduction="none")
            losses.append((each * known).mean())
        return losses

    def _signal_loss(self, hidden: Tensor, signals: Sequence[Tensor], valid: Tensor, mask: Mask) -> Tensor:
        """Smooth L1 of the coarse patches, mean inside each clip and sensor, then over clips and sensors."""
        losses = []
        first = 0
        for s, target in enumerate(signals):
            own = mask.columns.get(s)
            if own is not None:
                prediction = self.predictor.signals[s](hidden[:, own])
                error = F.smooth_l1_loss(
                    prediction.float(), take(target, mask.target[:, own] - first), reduction="none"
                )
                weight = valid[:, own].to(error.dtype)
                losses.append(((error.mean(-1) * weight).sum(1) / weight.sum(1).clamp(min=1)).mean())
            first += target.shape[1]
        # A sensor that no mask hides leaves its head without a gradient, for which several processes would wait for ever.
        untouched = torch.stack([parameter.sum() for parameter in self.predictor.signals.parameters()]).sum()
        return torch.stack(losses).mean() + 0.0 * untouched

    @torch.no_grad()
    def update_teacher(self, steps: int, skip: Tensor | None = None) -> None:
        """Move the teacher towards the student, with a time constant of `ema_share` of the run's `steps`.

        `skip` () is not 0 where the optimizer's step was not taken: its targets are then not taken in either.
        """
        rate = 1.0 / max(self.config.ema_share * steps, 1.0)
        theirs: list[Tensor] = list(self.teacher.parameters())
        ours: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(theirs, ours, rate)  # pyright: ignore
        self.predictor.scale.update(skip)

    def recompute_activations(self, wanted: bool) -> None:
        """Whether the trained blocks compute their activations again for the gradient, instead of keeping them."""
        self.student.encoder.recompute = self.predictor.transformer.recompute = wanted

    @torch.no_grad()
    def predict_sensor(self, batch: Batch, context: Sequence[str], target: str) -> tuple[Tensor, Tensor, Tensor]:
        """The target sensor's latents as predicted from the context sensors alone, and as the teacher sees them.

        Returns prediction (B, M, D), target (B, M, D), valid (B, M). As in training the teacher sees the target sensor
        alone: what is to be found is that sensor's own content, not what it borrowed from the context.
        """
        return self.predict_tokens(self.teacher.tokenize(batch), context, target)

    @torch.no_grad()
    def predict_tokens(self, tokens: TokenBatch, context: Sequence[str], target: str) -> tuple[Tensor, Tensor, Tensor]:
        """`predict_sensor` for a batch that the teacher has tokenized: many directions then share its tokens."""
        names = self.student.names
        unknown = sorted({*context, target} - set(names))
        if unknown or target in context or not context or len(set(context)) < len(context):
            raise ValueError(f"predict {list(context)} -> {target}: expected different sensors of {list(names)}")
        sensor = self.student.sensor
        of_sensor = [(sensor == names.index(c)).nonzero()[:, 0] for c in context]
        keep = torch.cat(of_sensor)
        wanted = (sensor == names.index(target)).nonzero()[:, 0]
        b = len(tokens.tokens)
        seen, first = {}, 0
        for name, tokens_of in zip(context, of_sensor, strict=True):
            seen[names.index(name)] = slice(first, first := first + len(tokens_of))
        mask = Mask(
            "cross", seen, keep.expand(b, -1), wanted.expand(b, -1), {names.index(target): slice(0, len(wanted))}
        )
        latents, valid = self.teacher.encode_kept(tokens, mask.keep, mask.parts)
        known = None if tokens.complete else valid
        prediction = self.predictor.outward(self.predictor(self.teacher, latents, known, mask))
        alone = self._mean(self.teacher.encode_sensor(tokens, target, self.config.target_layers))
        truth = self.predictor.scale.standardise(alone, wanted, slice(alone.shape[-1], None))
        return own(prediction), truth, tokens.valid[:, wanted] & valid.any(1)[:, None]


def of_all_processes(rows: Tensor) -> tuple[Tensor, int]:
    """The rows (B, F) of every process, in order of rank, and where our own begin. Gradients do not pass."""
    if not torch.distributed.is_initialized():
        return rows, 0
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts), torch.distributed.get_rank() * len(rows)


def coarse(patches: Tensor) -> Tensor:
    """Patches (B, T, t, h, w, C) -> (B, T, F): the averages of their cells, of which there are at most CELLS."""
    t, h, w = (min(n, most) for n, most in zip(patches.shape[2:5], CELLS, strict=True))
    cells = F.adaptive_avg_pool3d(rearrange(patches, "b n t h w c -> (b n) c t h w"), (t, h, w))
    return rearrange(cells, "(b n) c t h w -> b n (c t h w)", b=len(patches))


def coarse_size(patch: tuple[int, int, int, int]) -> int:
    """F of `coarse` for patches (t, h, w, C)."""
    return math.prod(min(n, most) for n, most in zip(patch[:3], CELLS, strict=True)) * patch[3]


def own(views: Tensor) -> Tensor:
    """The second of the two views (..., 2 D) of a token: its sensor alone."""
    return views[..., views.shape[-1] // 2 :]


def by_view(errors: Tensor) -> Tensor:
    """Errors (B, T, 2 D) -> (B, T, 2), the mean of each view."""
    return rearrange(errors, "b t (view d) -> b t view d", view=2).mean(-1)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens (B, T, D) at index (B, M) -> (B, M, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
