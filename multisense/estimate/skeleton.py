"""The objective of a configuration without its numbers: of any size, in no memory."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from multisense.clips import Grid
from multisense.objectives.latent import LatentPrediction
from multisense.run import RunConfig, build_objective


class Weightless(TorchFunctionMode):
    """Layers made inside hold shapes instead of numbers, on the meta device.

    Layers make their weights by `torch.empty`; what is computed, such as positions and mel filters, stays real.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        changed = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **changed})


def skeleton(config: RunConfig, grids: Mapping[str, Grid]) -> LatentPrediction:
    """The objective as training builds it; its weights hold no numbers, its token layout is real."""
    with Weightless():
        return build_objective(config, grids)


def trained(objective: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in objective.parameters() if parameter.requires_grad]


def frozen(objective: nn.Module) -> list[nn.Parameter]:
    """The teacher's."""
    return [parameter for parameter in objective.parameters() if not parameter.requires_grad]
