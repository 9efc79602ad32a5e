"""The commands as a user types them."""

import json
import sys
from pathlib import Path

import h5py
import pytest
import yaml
from conftest import ArrayLog, body_log, body_tree
from test_report import without_umap

from multisense.cli import main
from multisense.logs import Recording, open_logs, write_log
from multisense.report.make import MEASURES
from multisense.run import load_config


def write_body(folder: Path, numbers: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        log: ArrayLog = body_log(number)
        streams = {n: Recording(m, r, d, times_s=t) for n, (m, r, t, d) in log.streams.items()}
        write_log(folder / f"{log.name}.h5", streams, log.labels.values(), source="a test")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    """Exit status, output and errors of `multisense WORDS`."""
    monkeypatch.setattr(sys, "argv", ["multisense", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("commands")
    write_body(root / "train", range(8))
    write_body(root / "test", range(8, 12))
    tree = body_tree(steps=3, batch_size=4)
    tree["data"] |= {"train": str(root / "train"), "test": str(root / "test")}
    (root / "body.yaml").write_text(yaml.safe_dump(tree))
    return root


def test_train_embed_and_ablate_in_three_commands(folder: Path, monkeypatch, capsys):
    status, _, said = run(monkeypatch, capsys, "train", folder / "body.yaml", "model.depth=2", "--out", folder / "run")
    assert status == 0, said
    assert (folder / "run" / "model.safetensors").exists()
    assert [json.loads(x)["step"] for x in (folder / "run" / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]

    out = folder / "out.h5"
    status, _, said = run(
        monkeypatch, capsys, "embed", folder / "run", folder / "test", "-o", out, "--sensors", "eye,arm"
    )
    assert status == 0, said
    with h5py.File(out) as file:
        assert sorted(file) == [log.name for log in open_logs(folder / "test")]

    status, shown, said = run(monkeypatch, capsys, "ablate", folder / "run", folder / "test", "-o", folder / "ablation")
    assert status == 0, said
    tree = json.loads((folder / "ablation" / "ablation.json").read_text())
    assert set(tree["labels"]) == {"height", "fast"}
    assert len(tree["labels"]["height"]["subsets"]) == 15
    assert set(tree["labels"]["height"]["baselines"]) == {"untrained", "raw", "chance"}
    assert "height" in shown
    assert (folder / "ablation" / "ablation.csv").exists()
    assert (folder / "ablation" / "ablation.png").read_bytes()[:4] == b"\x89PNG"


def test_robustness_and_retrieval_of_a_run(folder: Path, monkeypatch, capsys):
    if not (folder / "run").exists():
        assert run(monkeypatch, capsys, "train", folder / "body.yaml", "--out", folder / "run")[0] == 0
    status, shown, said = run(monkeypatch, capsys, "robustness", folder / "run", "-o", folder / "robustness")
    assert status == 0, said
    assert "all but the sensor" in shown
    assert sorted(p.name for p in (folder / "robustness").iterdir()) == [
        f"robustness.{end}" for end in ("csv", "json", "png")
    ]
    words = "retrieve", folder / "run", folder / "test", "--from", "eye,ear", "--to", "arm"
    status, shown, said = run(monkeypatch, capsys, *words)
    assert status == 0, said
    assert "eye + ear" in shown or "ear + eye" in shown
    status, shown, _ = run(monkeypatch, capsys, *words, "--json")
    assert set(json.loads(shown)["pairs"]) in ({"eye+ear>arm", "arm>eye+ear"}, {"ear+eye>arm", "arm>ear+eye"})
    status, _, said = run(monkeypatch, capsys, "retrieve", folder / "run", "--from", "nose")
    assert status == 1
    assert "retrieve from ['nose']" in said
    assert "expected different sensors of" in said


@pytest.mark.slow
def test_a_report_of_a_run_is_measured_once(folder: Path, monkeypatch, capsys):
    without_umap(monkeypatch)
    if not (folder / "run").exists():
        assert run(monkeypatch, capsys, "train", folder / "body.yaml", "--out", folder / "run")[0] == 0
    words = "report", folder / "run", "-o", folder / "page.html"
    status, shown, said = run(monkeypatch, capsys, *words)
    assert status == 0, said
    assert "page.html" in shown
    assert all(name in said for name in MEASURES)
    first = (folder / "page.html").read_text()
    assert first.count("<section ") == 9
    made = folder / "page.html.parts"
    assert {"ablation.json", "ablation.csv", "robustness.csv", "map.json", "made.json"} <= {
        p.name for p in made.iterdir()
    }
    (folder / "anew").mkdir()
    status, _, said = run(monkeypatch, capsys, *words, "--retrain", folder / "anew")
    assert status == 1
    assert "no retrain.json; expected the folder of `multisense ablate --retrain`" in said
    # Of the same weights and logs: what --retrain writes has the form and the provenance of the ablation beside it.
    tree = json.loads((made / "ablation.json").read_text())
    (folder / "anew" / "retrain.json").write_text(json.dumps(tree))
    status, _, said = run(monkeypatch, capsys, *words, "--retrain", folder / "anew")
    assert status == 0, said
    assert not any(name in said for name in MEASURES), "everything is there"
    assert "Trained anew for every subset" in (folder / "page.html").read_text()
    assert "Trained anew" not in first
    tree["provenance"]["weights"] = "0" * 16
    (folder / "anew" / "retrain.json").write_text(json.dumps(tree))
    status, _, said = run(monkeypatch, capsys, *words, "--retrain", folder / "anew")
    assert status == 1
    assert f"other weights: their fingerprint is {'0' * 16}" in said


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (["model.dept=6"], ["model.dept", "unknown key", "did you mean 'depth'"]),
        (["model.depth=many"], ["model.depth", "integer", "'many'"]),
        (["sensors.eye.kind=vidoe"], ["sensors.eye.kind", "vidoe", "did you mean 'video'"]),
        (["data.clip_seconds=60"], ["data.clip_seconds is 60", "longest of 8 logs"]),
        (["data.train=nowhere"], ["nowhere"]),
        (["depth"], ["override 'depth'", "key.path=value"]),
    ],
)
def test_what_a_user_got_wrong_is_a_sentence(folder: Path, monkeypatch, capsys, tmp_path: Path, words, sentences):
    status, _, said = run(monkeypatch, capsys, "train", folder / "body.yaml", *words, "--out", tmp_path / "run")
    assert status == 1
    assert said.startswith("error:")
    for sentence in sentences:
        assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "run.json").exists()  # so that the command, put right, may be given again


def test_a_run_folder_is_never_overwritten(folder: Path, monkeypatch, capsys, tmp_path: Path):
    words = ["train", folder / "body.yaml", "train.steps=1", "--out", tmp_path / "run"]
    assert run(monkeypatch, capsys, *words)[0] == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    status, _, said = run(monkeypatch, capsys, *words)
    assert status == 1
    assert "already holds a run; continue it with --resume" in said
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_an_unknown_world_and_a_folder_that_is_no_run_are_said_so(folder: Path, monkeypatch, capsys, tmp_path: Path):
    status, _, said = run(monkeypatch, capsys, "simulate", "kitchen", "--out", tmp_path / "logs")
    assert status == 1
    assert "kitchen" in said
    assert "tabletop" in said
    status, _, said = run(monkeypatch, capsys, "embed", tmp_path, folder / "test", "-o", tmp_path / "out.h5")
    assert status == 1
    assert "not a run" in said


@pytest.mark.parametrize("name", ["demo", "tabletop", "g1", "icub_grasp"])
def test_the_configurations_that_are_shipped_are_valid(name: str):
    load_config(Path(__file__).parents[1] / "configs" / f"{name}.yaml")


def test_an_error_is_shown_to_the_letter(tmp_path: Path, monkeypatch, capsys):
    """Brackets are no markup: the fix is often an extra in brackets."""
    for name in ("no[such]", "no[/such]", "multisense[ros]"):
        status, _, said = run(monkeypatch, capsys, "info", tmp_path / name)
        assert status == 1
        assert f"{name}: found nothing" in said
