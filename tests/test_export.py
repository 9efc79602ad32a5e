"""The encoder as a graph: what it gives without this package, in ONNX, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import ArrayLog, body_log, body_tree
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.export import ExportedProgram

from multisense.clips import Windows, collate
from multisense.model import Embedding, MultiSense
from multisense.publish.export import (
    Encoder,
    describe,
    export,
    export_path,
    largest_gap,
    random_inputs,
    save_onnx,
    save_program,
)
from multisense.run import build_objective, create_run, make_grids, open_run, parse_config, provenance
from multisense.types import Batch
from multisense.weights import save_tensors

ALONE = """
import json, sys
for name in ("multisense", "einops", "torchaudio", "torchvision"):
    sys.modules[name] = None  # an import of it is an error
import torch
from safetensors.torch import load_file, save_file

extra = {"multisense.json": ""}
graph = torch.export.load(sys.argv[1], extra_files=extra).module()
names = list(json.loads(extra["multisense.json"])["inputs"])
for file in sys.argv[2:]:
    given = load_file(file)
    values, valid = ({name: given[f"{what}/{name}"] for name in names} for what in ("values", "valid"))
    save_file({name: x.clone() for name, x in graph(values, valid).items()}, file + ".out")  # some are views of others
"""
"""A user's program: the archive, torch, and nothing of what it was made with."""


def small_tree(weights: str = "shared") -> dict:
    """One block deep: tracing takes its time by the number of operators."""
    tree = body_tree()
    tree["model"]["weights"] = weights
    tree["model"]["depth"] = tree["objective"]["target_layers"] = 1
    return tree


def write_small_run(
    path: Path, logs: list[ArrayLog], names: Sequence[str] = ("eye", "ear", "pad", "arm"), weights: str = "shared"
) -> Path:
    """The folder of a run that has learnt nothing, but whose statistics are no zeros and ones."""
    tree = small_tree(weights)
    tree["data"]["train"] = str(path.parent / "private" / "kitchen")
    config = parse_config({**tree, "sensors": {name: tree["sensors"][name] for name in names}})
    grids = make_grids(config, logs)
    torch.manual_seed(0)
    objective = build_objective(config, grids)
    for name in grids:
        tokenizer = objective.teacher.tokenizer(name)
        tokenizer.mean.uniform_(-1, 1)
        tokenizer.std.uniform_(0.5, 2)
    create_run(path, config, grids, provenance(config, logs))
    save_tensors(objective.teacher.state_dict(), path / "model.safetensors")
    save_tensors(objective.predictor.state_dict(), path / "predictor.safetensors")
    return path


@pytest.fixture(scope="module", params=["shared", "per_sensor"])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return write_small_run(tmp_path_factory.mktemp("runs") / "run", [body_log(0)], weights=request.param)


@pytest.fixture(scope="module")
def model(run: Path) -> MultiSense:
    return open_run(run).model


@pytest.fixture(scope="module")
def program(model: MultiSense) -> ExportedProgram:
    return export(model)


def clips(model: MultiSense, count: int) -> Batch:
    """Clips of body logs; from the second on one sensor each is absent and NaN, and the last has lost half of every one."""
    windows = Windows([body_log(n) for n in range(count)], model.grids, model.seconds, 10.0)
    batch = collate([windows[i] for i in range(count)])
    for row, name in zip(range(1, count), model.names, strict=False):
        batch.valid[name][row] = False
        if batch.values[name].is_floating_point():
            batch.values[name][row] = torch.nan
    if count > 1:
        for valid in batch.valid.values():
            valid[-1, : valid.shape[1] // 2] = False
    return Batch(batch.values, batch.valid)


def named(embedding: Embedding) -> dict[str, Tensor]:
    whole = {name: getattr(embedding, name) for name in ("fused", "per_time", "time_valid")}
    each = {"per_sensor": embedding.per_sensor, "sensor_valid": embedding.valid}
    return whole | {f"{what}/{name}": x for what, parts in each.items() for name, x in parts.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype, name
        assert found[name].shape == x.shape, name
        torch.testing.assert_close(found[name], x, rtol=0, atol=1e-5, msg=lambda said, name=name: f"{name}: {said}")


def test_the_archive_gives_the_same_numbers_in_a_process_without_this_package(model, program, tmp_path):
    assert save_program(program, model, tmp_path / "encoder.pt2") <= 1e-6
    batches = {count: clips(model, count) for count in (1, 2, 5)}
    for count, batch in batches.items():
        parts = {"values": batch.values, "valid": batch.valid}
        save_file({f"{p}/{n}": x for p, xs in parts.items() for n, x in xs.items()}, tmp_path / f"{count}.safetensors")
    files = [tmp_path / f"{count}.safetensors" for count in batches]
    subprocess.run([sys.executable, "-I", "-c", ALONE, tmp_path / "encoder.pt2", *files], check=True, cwd=tmp_path)
    for count, batch in batches.items():
        expected = named(model.embed(batch))
        assert not expected["sensor_valid/eye"].all() or count == 1
        assert_same(load_file(tmp_path / f"{count}.safetensors.out"), expected)


def test_an_absent_sensor_cannot_reach_the_graph_s_result(model, program):
    values, valid = random_inputs(model, 2)
    valid["ear"][:] = False
    graph = program.module()
    first = graph(values, valid)
    again = graph({**values, "ear": torch.full_like(values["ear"], torch.nan)}, valid)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not first["sensor_valid/ear"].any()
    assert not first["per_sensor/ear"].any()


def test_what_the_archive_says_of_its_inputs(model, program):
    said = json.loads(json.dumps(describe(model)))
    assert said["inputs"]["eye"] == {"shape": ["batch", 10, 32, 32, 3], "dtype": "uint8"}
    assert said["inputs"]["ear"] == {"shape": ["batch", 8000], "dtype": "float32"}
    assert said["sensors"]["arm"]["kind"] == "proprio"


def test_other_kinds_of_input(tmp_path):
    """Sound as a waveform, touch as frames of a gel camera, single numbers; stems of one linear map."""
    body = body_log(0)
    _, _, times, frames = body.streams["eye"]
    streams = {"ear": body.streams["ear"], "gel": ("touch", 10.0, times, frames)}
    log = ArrayLog("gel", {**streams, "load": ("proprio", 10.0, times, times.astype("float32"))})
    sensors = {
        "ear": {"kind": "audio", "waveform": True, "patch_s": 0.1, "stem": "patch"},
        "gel": {"kind": "touch", "patch": 16, "stem": "conv"},
        "load": {"kind": "proprio", "patch_s": 0.2},
    }
    config = parse_config({**small_tree(), "sensors": sensors})
    model = build_objective(config, make_grids(config, [log])).teacher.eval()
    assert save_program(export(model), model, tmp_path / "gel.pt2") <= 1e-6


def test_a_graph_that_is_of_other_weights_is_refused_and_not_written(model, program, tmp_path):
    other = MultiSense.of_settings(model.settings()).eval()
    with pytest.raises(ValueError, match=r"encoder\.pt2: outputs of the graph are .* off those of the model"):
        save_program(program, other, tmp_path / "encoder.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "change", "message"),
    [
        ("per_time", lambda x: x + 2e-5 * x.abs().max(), "off those of the model, expected 1e-05"),
        ("per_sensor/arm", lambda x: x * torch.nan, "are nan off"),
        ("sensor_valid/pad", lambda x: ~x, "of other sensors"),
    ],
)
def test_the_comparison_sees_every_output(model, output, change, message):
    encoder = Encoder(model)

    def graph(values: dict[str, Tensor], valid: dict[str, Tensor]) -> dict[str, Tensor]:
        found = encoder(values, valid)
        return {**found, output: change(found[output])}

    with pytest.raises(ValueError, match=message):
        largest_gap(graph, model, Path("a.pt2"))
    assert largest_gap(encoder, model, Path("a.pt2")) == 0


def test_another_ending_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"encoder\.onnx: expected a name that ends in \.pt2"):
        export_path(tmp_path / "no run", tmp_path / "encoder.onnx", onnx=True)


def test_onnx_without_its_libraries_names_the_extra(model, program, tmp_path, monkeypatch):
    monkeypatch.setattr("multisense.publish.export.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ImportError, match=r"needs onnxscript\. Install multisense's extra `onnx`"):
        save_onnx(program, model, tmp_path / "encoder.onnx")


@pytest.mark.slow
def test_onnx_gives_the_same_numbers(model, program, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert save_onnx(program, model, tmp_path / "encoder.onnx") <= 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    for count in (1, 2, 5):
        batch = clips(model, count)
        given = {f"values/{n}": x.numpy() for n, x in batch.values.items()}
        given |= {f"valid/{n}": x.numpy() for n, x in batch.valid.items()}
        found = dict(zip(outputs, map(torch.from_numpy, session.run(None, given)), strict=True))
        assert_same(found, named(model.embed(batch)))
    assert json.loads(session.get_modelmeta().custom_metadata_map["multisense"]) == json.loads(
        json.dumps(describe(model))
    )


@pytest.mark.slow
def test_an_operator_that_onnx_does_not_have_is_named(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    tree = small_tree()
    config = parse_config({**tree, "sensors": {"arm": tree["sensors"]["arm"]}})
    model = build_objective(config, make_grids(config, [body_log(0)])).teacher.eval()
    tokenizer = model.tokenizer("arm")
    plain = tokenizer.signal
    monkeypatch.setattr(tokenizer, "signal", lambda values: torch.special.bessel_j0(plain(values)))
    with pytest.raises(ValueError, match=r"arm\.onnx: the encoder does not convert to ONNX: .*bessel_j0"):
        save_onnx(export(model), model, tmp_path / "arm.onnx")
    assert not list(tmp_path.iterdir())
