"""The encoder as one graph: values and validity in, embeddings out; for `torch.export` and, where it converts, ONNX."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
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
Graph = Callable[..., dict[str, Tensor]]
"""An exported encoder, opened again: of `Inputs` it gives what `Encoder` gives."""


class Encoder(nn.Module):
    """`MultiSense.embed` as a function of tensors, without its sensors' clips and logs."""

    def __init__(self, model: MultiSense):
        super().__init__()
        self.model = model

    def forward(self, values: dict[str, Tensor], valid: dict[str, Tensor]) -> dict[str, Tensor]:
        """-> `fused` (B, S F), `per_time` (B, K, F), `time_valid` (B, K), and for every sensor `per_sensor/<name>` (B, F)
        and `sensor_valid/<name>` (B,). An absent sensor is one that is nowhere valid, whatever its values."""
        tokens = self.model.tokenize(Batch(values, valid))
        found = self.model.pool(self.model.encode(tokens)[-1], tokens.valid)
        whole = {"fused": found.fused, "per_time": found.per_time, "time_valid": found.time_valid}
        per_sensor = {f"per_sensor/{name}": found.per_sensor[name] for name in self.model.names}
        return whole | per_sensor | {f"sensor_valid/{name}": found.valid[name] for name in self.model.names}


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
    if out.suffix != ".pt2":
        raise ValueError(f"{out}: expected a name that ends in .pt2, what torch.export calls its archives")
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
    frozen = Encoder(copy.deepcopy(model)).requires_grad_(False).eval()
    for tensor in (*frozen.parameters(), *frozen.buffers()):  # some are views, of which an archive keeps only wholes
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return torch.export.export(frozen, example, dynamic_shapes=sizes)


def save_program(program: ExportedProgram, model: MultiSense, out: Path) -> float:
    """Write a .pt2 archive with `describe(model)` in it as `multisense.json`; returns how far the file, opened again, is from
    the model.

    Raises ValueError where that is more than TOLERANCE, and then writes nothing.
    """

    def write(file: Path) -> None:
        torch.export.save(program, file, extra_files={"multisense.json": json.dumps(describe(model))})

    return _checked(out, model, write, lambda file: torch.export.load(file).module())


def save_onnx(program: ExportedProgram, model: MultiSense, out: Path) -> float:
    """Write an ONNX graph with inputs `values/<sensor>` and `valid/<sensor>`, the encoder's outputs, and `describe(model)`
    in its metadata as `multisense`; returns how far the file, run by onnxruntime, is from the model.

    Raises ImportError where its libraries are missing, ValueError that names what ONNX cannot say, or where the graph is
    farther than TOLERANCE from the model; it then writes nothing. Takes a minute or more: the converter is slow.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ImportError(f"{out}: exporting to ONNX needs {', '.join(missing)}. {how_to_install('onnx')}")
    inputs = [f"{what}/{name}" for what in ("values", "valid") for name in model.names]
    outputs = list(Encoder(model)(*random_inputs(model, 1)))
    try:
        graph = torch.onnx.export(program, input_names=inputs, output_names=outputs, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"{out}: the encoder does not convert to ONNX: {_reason(error)}") from error
    assert graph is not None
    graph.model.metadata_props["multisense"] = json.dumps(describe(model))
    return _checked(out, model, graph.save, _run_onnx)


def _run_onnx(file: Path) -> Graph:
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]

    def run(values: dict[str, Tensor], valid: dict[str, Tensor]) -> dict[str, Tensor]:
        given = {f"values/{name}": x.cpu().numpy() for name, x in values.items()}
        given |= {f"valid/{name}": x.cpu().numpy() for name, x in valid.items()}
        return {name: torch.from_numpy(x) for name, x in zip(outputs, session.run(outputs, given), strict=True)}

    return run


def _checked(out: Path, model: MultiSense, write: Callable[[Path], None], load: Callable[[Path], Graph]) -> float:
    """Write, open again and compare, under a hidden name first: what stands at `out` is whole and gives what it should."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as hidden:
        write(Path(hidden) / out.name)
        gap = largest_gap(load(Path(hidden) / out.name), model, out)
        for file in Path(hidden).iterdir():  # ONNX keeps weights of more than 2 GB in a second one
            file.replace(out.parent / file.name)
    return gap


@torch.no_grad()
def largest_gap(graph: Graph, model: MultiSense, where: Path) -> float:
    """The largest distance between what `graph` and `model.embed` give of noise, in units of the largest number or 1: at
    batches of one and three, with every sensor, without each one, and without any.

    Raises ValueError where it is more than TOLERANCE or a validity differs.
    """
    gaps = [0.0]
    for count in BATCHES:
        for gone in ((), *((name,) for name in model.names), model.names):
            values, valid = random_inputs(model, count, seed=count)
            valid |= {name: torch.zeros_like(valid[name]) for name in gone}
            expected = model.embed(Batch(values, valid))
            found = {name: x.to(model.time_s.device) for name, x in graph(values, valid).items()}
            pairs = [(found["fused"], expected.fused), (found["per_time"], expected.per_time)]
            pairs += [(found[f"per_sensor/{name}"], expected.per_sensor[name]) for name in model.names]
            gaps += [float((a - b).abs().max() / b.abs().max().clamp(min=1.0)) for a, b in pairs]
            masks = [(found["time_valid"], expected.time_valid)]
            masks += [(found[f"sensor_valid/{name}"], expected.valid[name]) for name in model.names]
            if not all(torch.equal(a, b) for a, b in masks):
                raise ValueError(
                    f"{where}: the graph says of other sensors than the model that they are there, without {gone}"
                )
    gap = float(np.max(gaps))  # NaN where one is, which Python's max would lose
    if not gap <= TOLERANCE:
        raise ValueError(f"{where}: outputs of the graph are {gap:.2g} off those of the model, expected {TOLERANCE:g}")
    return gap


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an exporter's error: the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0]


def describe(model: MultiSense) -> dict[str, Any]:
    """What the inputs of the graph are: the model's settings, shapes and number types."""
    values, _ = random_inputs(model, 1)
    shapes = {
        name: {"shape": ["batch", *x.shape[1:]], "dtype": str(x.dtype).removeprefix("torch.")}
        for name, x in values.items()
    }
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
