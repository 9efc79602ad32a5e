"""The encoder as one graph: values and validity in, embeddings out; for `torch.export` and, where it converts, ONNX."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from multisense.checkpoint import warn_if_unfinished
from multisense.logs.base import how_to_install
from multisense.model import MultiSense
from multisense.run import open_run
from multisense.types import Batch

TOLERANCE = 1e-5
"""How far an output may lie from that of the model itself, relative to the largest of its kind."""
BATCHES = (1, 3)
"""Sizes at which an exported graph is compared with the model; 2 is that of the example it is traced with."""
Inputs = tuple[dict[str, Tensor], dict[str, Tensor]]
"""(values by sensor (B, N, *sample), validity by sensor (B, N) bool)"""


class Encoder(nn.Module):
    """`MultiSense.embed` as a function of tensors, without its sensors' clips and logs."""

    def __init__(self, model: MultiSense):
        super().__init__()
        self.model = model

    def forward(self, values: dict[str, Tensor], valid: dict[str, Tensor]) -> dict[str, Tensor]:
        """-> `fused` (B, S F), `per_time` (B, K, F), `time_valid` (B, K), and for every sensor `per_sensor/<name>` (B, F)
        and `valid/<name>` (B,). An absent sensor is one that is nowhere valid, whatever its values."""
        tokens = self.model.tokenize(Batch(values, valid))
        found = self.model.pool(self.model.encode(tokens)[-1], tokens.valid)
        whole = {"fused": found.fused, "per_time": found.per_time, "time_valid": found.time_valid}
        per_sensor = {f"per_sensor/{name}": found.per_sensor[name] for name in self.model.names}
        return whole | per_sensor | {f"valid/{name}": found.valid[name] for name in self.model.names}


@dataclass(frozen=True)
class Exported:
    """The files that were written, and how far their outputs lie from the model's."""

    files: Mapping[Path, float]

    def __str__(self) -> str:
        return "\n".join(f"{file}: within {gap:.1e} of the model" for file, gap in self.files.items())


def export_path(run: Path, out: Path, onnx: bool) -> Exported:
    """Write the encoder of the run in folder `run` to `out` (.pt2) and, with `onnx`, beside it as .onnx.

    Raises ImportError where ONNX's libraries are missing, ValueError where a graph cannot be made or does not give what the
    model gives.
    """
    opened = open_run(run)
    warn_if_unfinished(opened)
    program = export(opened.model)
    files = {out: save_program(program, opened.model, out)}
    if onnx:
        beside = out.with_suffix(".onnx")
        files[beside] = save_onnx(program, opened.model, beside)
    return Exported(files)


def export(model: MultiSense) -> ExportedProgram:
    """The graph of a model for batches of any size, on the device the model is on."""
    batch = Dim("batch", min=1)
    example = random_inputs(model, 2)
    sizes = tuple({name: {0: batch} for name in part} for part in example)
    with torch.no_grad():
        return torch.export.export(Encoder(model).eval(), example, dynamic_shapes=sizes)


def save_program(program: ExportedProgram, model: MultiSense, out: Path) -> float:
    """Write a .pt2 archive with `describe(model)` in it as `multisense.json`; returns how far it is from the model."""
    gap = _largest_gap(program.module(), model, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, out, extra_files={"multisense.json": json.dumps(describe(model))})
    return gap


def save_onnx(program: ExportedProgram, model: MultiSense, out: Path) -> float:
    """Write an ONNX graph with the same inputs and outputs, named `values/<sensor>`, `valid/<sensor>` and as the encoder's
    outputs, with `describe(model)` in its metadata `multisense`; returns how far it is from the model.

    Raises ImportError where its libraries are missing, ValueError that names the operator that ONNX lacks.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{out}: exporting to ONNX needs {error.name}. {how_to_install('onnx')}") from error
    raise NotImplementedError


def describe(model: MultiSense) -> dict[str, Any]:
    """What the inputs of the graph are: the model's settings, shapes and number types."""
    values, valid = random_inputs(model, 1)
    shapes = {name: {"shape": ["batch", *x.shape[1:]], "dtype": str(x.dtype).removeprefix("torch.")} for name, x in values.items()}
    return {"inputs": shapes, **model.settings()}


def random_inputs(model: MultiSense, count: int, seed: int = 0) -> Inputs:
    """A batch of noise in each sensor's own unit, everything valid."""
    generator, values, valid = torch.Generator().manual_seed(seed), {}, {}
    for name, grid in model.grids.items():
        shape = (count, grid.count, *grid.shape)
        if grid.dtype == "uint8":
            values[name] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        else:
            values[name] = torch.randn(shape, generator=generator)
        valid[name] = torch.ones(count, grid.count, dtype=torch.bool)
    device = model.time_s.device
    return {n: x.to(device) for n, x in values.items()}, {n: x.to(device) for n, x in valid.items()}
