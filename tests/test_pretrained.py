"""Published models: a folder goes there and back to the bit, a Hub that is a folder, and everything that does not fit."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import body_log, body_tree
from huggingface_hub import ModelCard, errors
from safetensors.torch import load_file, save_file

from multisense.clips import Windows, collate
from multisense.config import ConfigError
from multisense.model import MultiSense
from multisense.run import build_model, make_grids, parse_config

ROOT = Path(__file__).parents[1]
OUTSIDE = "from multisense.modalities.proprio import Config, Tokenizer, example\n"
"""A kind of one's own that is one of the package's."""


def made(weights: str = "shared") -> MultiSense:
    tree = body_tree()
    tree["model"]["weights"] = weights
    config = parse_config(tree)
    model = build_model(config, make_grids(config, [body_log(0)]), seed=3).eval()
    with torch.no_grad():
        model.tokenizer("arm").mean.fill_(0.25)
        model.tokenizer("pad").std.fill_(1.0 / 3.0)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made().save_pretrained(tmp_path / "published")
    return tmp_path / "published"


def same(a: MultiSense, b: MultiSense) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_folder_holds_settings_weights_statistics_and_a_card(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    tree = json.loads((folder / "config.json").read_text())
    assert list(tree["grids"]) == ["eye", "ear", "pad", "arm"]
    assert tree["model"]["width"] == 32
    weights = load_file(folder / "model.safetensors")
    assert (weights["tokenizers.arm.mean"] == 0.25).all()
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "multisense"
    assert card.data.license is None
    assert "| `eye` | video | 10 | 32 x 32 x 3 | - |" in card.text
    assert "No evaluation is recorded with these weights." in card.text


@pytest.mark.parametrize("weights", ["shared", "per_sensor"])
def test_there_and_back_to_the_bit(tmp_path: Path, weights: str):
    model = made(weights)
    model.save_pretrained(tmp_path)
    again = MultiSense.from_pretrained(tmp_path)
    assert not again.training
    assert same(model, again)
    assert again.settings() == model.settings()
    windows = Windows([body_log(1)], model.grids, 1.0, 1.0)
    batch = collate([windows[i] for i in range(len(windows))])
    ours, theirs = model.embed(batch), again.embed(batch)
    assert torch.equal(ours.fused, theirs.fused)
    assert torch.equal(ours.per_time, theirs.per_time)
    assert torch.equal(model.embed(body_log(2)).fused, again.embed(body_log(2)).fused)


def test_saving_again_replaces_settings_and_weights(folder: Path):
    other = made()
    with torch.no_grad():
        other.sensor_embedding.add_(1)
    other.save_pretrained(folder)
    assert same(MultiSense.from_pretrained(folder), other)


def test_a_card_does_not_outlive_its_weights(folder: Path):
    card, model = folder / "README.md", made()
    card.unlink()
    model.save_pretrained(folder, model_card_kwargs={"results": "R² 0.99"})
    model.save_pretrained(folder)
    assert "R² 0.99" in card.read_text()  # of the same weights
    with torch.no_grad():
        model.sensor_embedding.add_(1)
    model.save_pretrained(folder)
    assert "R² 0.99" not in card.read_text()
    assert "No evaluation is recorded with these weights." in card.read_text()
    card.write_text("mine")
    made().save_pretrained(folder)
    assert card.read_text() == "mine"


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_keys_that_do_not_fit_are_named(folder: Path):
    def change(weights: dict[str, torch.Tensor]) -> None:
        del weights["sensor_embedding"]
        weights["head.weight"] = torch.zeros(2)
        weights["tokenizers.arm.mean"] = torch.zeros(1, 1, 7)

    edit(folder, change)
    with pytest.raises(ConfigError) as error:
        MultiSense.from_pretrained(folder)
    for part in (
        "missing sensor_embedding",
        "unexpected head.weight",
        "tokenizers.arm.mean is (1, 1, 7), expected (1, 1, 3)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_weights_that_are_cut_short(folder: Path, keep: int):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"model\.safetensors: not readable as safetensors"):
        MultiSense.from_pretrained(folder)


def test_weights_that_are_missing_or_no_safetensors_are_never_looked_for_elsewhere(folder: Path):
    (folder / "pytorch_model.bin").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights"):
        MultiSense.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95 a pickle, perhaps")
    with pytest.raises(ConfigError, match="not readable as safetensors"):
        MultiSense.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.pop("format"), r"config\.json: found format None, expected 'multisense-model'"),
        (lambda tree: tree.update(version=2), "found version 2, expected 1; update multisense"),
        (lambda tree: tree.pop("grids"), "found KeyError 'grids'"),
        (lambda tree: tree["grids"]["arm"].update(colour="red"), "found TypeError"),
        (lambda tree: tree["grids"].pop("arm"), "found KeyError 'arm'"),
        (lambda tree: tree["sensors"]["arm"].update(kind="os"), "sensors.arm.kind: unknown modality 'os'"),
        (lambda tree: tree["model"].update(widht=64), "model.widht: unknown key; did you mean 'width'"),
        (lambda tree: tree["model"].update(width=64), "expected"),
    ],
)
def test_settings_that_are_of_something_else(folder: Path, change: Callable[[dict], object], message: str):
    tree = json.loads((folder / "config.json").read_text())
    change(tree)
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=message):
        MultiSense.from_pretrained(folder)


def test_settings_that_are_no_json_or_missing(folder: Path):
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: not readable as JSON"):
        MultiSense.from_pretrained(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="found format 'list'"):
        MultiSense.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        MultiSense.from_pretrained(folder)


def test_loading_runs_nothing_that_the_folder_holds(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("modeling.py", "multisense_video.py", "__init__.py", "configuration.py"):
        (folder / name).write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    MultiSense.from_pretrained(folder)
    assert not [name for name in set(sys.modules) - before if name.startswith(("modeling", "multisense_"))]


def set_kind(folder: Path, kind: str) -> None:
    tree = json.loads((folder / "config.json").read_text())
    tree["sensors"]["arm"]["kind"] = kind
    (folder / "config.json").write_text(json.dumps(tree))


def test_a_kind_that_lies_in_the_folder_is_not_imported(folder: Path):
    """Even where Python looks for modules in the folder, as `python -c` and a notebook do in the current one."""
    set_kind(folder, "planted")
    (folder / "multisense_planted.py").write_text(f"print('ran')\n{OUTSIDE}")
    load = "from multisense.model import MultiSense; MultiSense.from_pretrained('.')"
    said = python(folder, load)
    assert said.returncode == 1
    assert "ran" not in said.stdout
    assert "ConfigError: sensors.arm.kind: unknown modality 'planted'" in said.stderr
    assert "`import multisense_planted` first" in said.stderr
    said = python(folder, f"import multisense_planted; {load}")
    assert (said.returncode, said.stdout) == (0, "ran\n"), said.stderr


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_kind_of_ones_own_is_imported_for_ones_own_configuration_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "multisense_ownkind.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    set_kind(folder, "ownkind")
    with pytest.raises(ConfigError, match="`import multisense_ownkind` first"):
        MultiSense.from_pretrained(folder)
    tree = body_tree()
    tree["sensors"]["arm"]["kind"] = "ownkind"
    config = parse_config(tree)
    model = MultiSense.from_pretrained(folder)
    assert model.sensors["arm"] == config.sensors["arm"]
    del sys.modules["multisense_ownkind"]


class FakeHub:
    """Repositories as folders; what `HfApi` and `snapshot_download` are asked for goes there."""

    def __init__(self, root: Path):
        self.root, self.pushed, self.private = root, [], False

    def repo_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def file_exists(self, repo_id: str, filename: str) -> bool:
        return (self.root / repo_id / filename).exists()

    def hf_hub_download(self, repo_id: str, filename: str) -> str:
        return str(self.root / repo_id / filename)

    def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **given: object) -> str:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        self.pushed.append((repo_id, given))
        return f"https://hub/{repo_id}/commit/1"

    def download(self, repo_id: str, allow_patterns: list[str], **_: object) -> str:
        if not (self.root / repo_id).is_dir():
            raise errors.LocalEntryNotFoundError("no cache\nand more")
        assert allow_patterns == ["config.json", "model*.safetensors"]
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub(tmp_path / "hub")
    for module in ("huggingface_hub.hub_mixin", "multisense.pretrained"):
        monkeypatch.setattr(f"{module}.HfApi", lambda token=None: hub)
    monkeypatch.setattr("multisense.pretrained.snapshot_download", hub.download)
    return hub


def test_push_and_load_through_the_hub(hub: FakeHub):
    model = made()
    assert model.push_to_hub("lab/senses") == "https://hub/lab/senses/commit/1"
    assert [name for name, _ in hub.pushed] == ["lab/senses"]
    assert sorted(p.name for p in (hub.root / "lab/senses").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert same(MultiSense.from_pretrained("lab/senses"), model)


def test_a_public_repository_and_a_card_of_somebody_are_not_written_to(hub: FakeHub):
    made().push_to_hub("lab/senses")
    with pytest.raises(ValueError, match="lab/senses: is on the Hub already and public"):
        made().push_to_hub("lab/senses", private=True)
    hub.private = True
    assert made().push_to_hub("lab/senses", private=True)
    card = hub.root / "lab/senses" / "README.md"
    card.write_text("mine")
    with pytest.raises(ValueError, match=r"lab/senses: has a README\.md that multisense did not make"):
        made().push_to_hub("lab/senses")
    assert card.read_text() == "mine"
    assert len(hub.pushed) == 2


def test_a_model_that_is_not_there(hub: FakeHub):
    with pytest.raises(ConfigError, match=r"lab/none: found no such folder, .* \(no cache\); expected the folder"):
        MultiSense.from_pretrained("lab/none")


def test_the_cache_answers_without_a_network(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """huggingface_hub's own code over a cache laid out as it lays it out: files in snapshots/, branches in refs/."""
    repo = tmp_path / "cache" / "models--lab--senses"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("a" * 40)
    shutil.copytree(folder, repo / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(MultiSense.from_pretrained("lab/senses", cache_dir=tmp_path / "cache"), made())
    with pytest.raises(ConfigError, match="lab/other: found no such folder"):
        MultiSense.from_pretrained("lab/other", cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match="no/such/folder: found no such folder"):
        MultiSense.from_pretrained("no/such/folder")
