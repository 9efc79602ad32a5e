"""The loss-spike guard: a step that would spoil the weights is skipped, on the device, and counted."""

import math

import torch
from torch import Tensor, nn

from multisense.run import TrainConfig

WINDOW = 100
"""Accepted steps that say what is usual."""
ENOUGH = 20
"""Fewer say nothing yet: the first steps of a run are unlike each other."""


class SpikeError(ValueError):
    """Steps were skipped one after the other: the run has lost its way."""


class SpikeGuard(nn.Module):
    """Remembers loss and gradient norm of the last accepted steps; skips a step that is not finite or far above them.

    Nothing here is read on the host, so that a step waits for no device: `judge` gives a tensor which the fused AdamW
    takes as `found_inf`. Its buffers are part of a checkpoint.
    """

    def __init__(self, sigmas: float):
        super().__init__()
        self.sigmas = sigmas
        self.register_buffer("seen", torch.zeros(2, WINDOW))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))
        self.register_buffer("in_a_row", torch.zeros((), dtype=torch.long))
        self.register_buffer("longest", torch.zeros((), dtype=torch.long))

    seen: Tensor
    """(2, WINDOW) losses and gradient norms, a ring."""
    count: Tensor
    """() accepted steps."""
    skipped: Tensor
    """() steps skipped in the run."""
    in_a_row: Tensor
    """() steps skipped just now, one after the other."""
    longest: Tensor
    """() the most of these since somebody looked."""

    @torch.no_grad()
    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """() float, 1 where the step is to be skipped. `loss` and `norm` () must be the same on every process."""
        now = torch.stack([loss.detach().float(), norm.detach().float()])
        filled = torch.arange(WINDOW, device=now.device) < self.count
        n = filled.sum().clamp(min=1)
        mean = (self.seen * filled).sum(1) / n
        deviation = (((self.seen - mean[:, None]) * filled).square().sum(1) / n).sqrt()
        # A plateau has hardly any deviation of its own: a tenth of the mean is no spike.
        limit = mean + self.sigmas * torch.maximum(deviation, 0.1 * mean.abs() / self.sigmas)
        skip = ~now.isfinite().all() | ((now > limit).any() & (self.count >= ENOUGH))
        here = torch.arange(WINDOW, device=now.device) == self.count % WINDOW
        self.seen.copy_(torch.where(here & ~skip, now[:, None], self.seen))
        self.count += ~skip
        self.skipped += skip
        self.in_a_row.copy_(torch.where(skip, self.in_a_row + 1, 0))
        self.longest.copy_(torch.maximum(self.longest, self.in_a_row))
        return skip.float()

    def refuse_to_go_on(self, most: int, where: str) -> None:
        """Raise SpikeError where more than `most` steps were skipped in a row since the last call."""
        found = int(self.longest)
        self.longest.zero_()
        if found > most:
            raise SpikeError(
                f"{where}: found {found} steps in a row with a loss or gradient that is not finite or far above "
                f"the usual; expected at most {most} (train.skip_most). They were skipped, so the weights are from before; "
                f"look at the data with `multisense check`, and go on with --resume --allow-changes and a lower "
                f"train.learning_rate, or a larger train.skip_sigmas where such losses are right"
            )

    def forget(self) -> None:
        """What was usual of other data or settings is no measure."""
        self.count.zero_()


def make_guard(settings: TrainConfig) -> SpikeGuard:
    """In fp16 the gradient's scaler decides alone, which skips what is not finite."""
    return SpikeGuard(math.inf if settings.mixed_precision == "fp16" else settings.skip_sigmas)
