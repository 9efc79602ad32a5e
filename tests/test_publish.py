"""A run as a folder for others: what its card says is what is recorded, and nothing of another model gets in."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
from conftest import body_log
from huggingface_hub import ModelCard, errors
from test_cli import run as typed
from test_export import write_small_run

from multisense.embed import weights_fingerprint
from multisense.evaluate.ablation import ablate
from multisense.model import MultiSense
from multisense.publish.card import reached, training_section
from multisense.publish.folder import publish, publish_path, upload
from multisense.run import open_run, read_run, write_run

FILES = ["README.md", "ablation.png", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two senses and its ablation."""
    root, train = tmp_path_factory.mktemp("made"), [body_log(n) for n in range(6)]
    run = write_small_run(root / "run", train, ("pad", "arm"))
    steps = [{"step": n, "loss": 1 / n, "skill": n / 10, "rank": 7.0, "hours_seen": n * 4 / 3600} for n in (1, 2, 3, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps) + '{"step": 5, "lo')
    ablate(open_run(run), [body_log(n) for n in range(6, 12)], root / "ablation", train_logs=train)
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return shutil.copytree(made / "run", tmp_path / "run")


def rows(card: str, head: str) -> dict[str, list[str]]:
    """The Markdown table whose first line begins with `head`: {first cell: the others}."""
    lines = card[card.index(f"| {head} ") :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {line[0]: line[1:] for line in cells}


def test_the_folder_is_the_model_and_its_card_tells_its_results(made: Path, tmp_path: Path):
    publish_path(made / "run", tmp_path / "out", made / "ablation")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    model = open_run(made / "run").model
    again = MultiSense.from_pretrained(tmp_path / "out")
    assert torch.equal(again.embed(body_log(9)).fused, model.embed(body_log(9)).fused)
    assert (tmp_path / "out/ablation.png").read_bytes() == (made / "ablation/ablation.png").read_bytes()

    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "multisense"
    assert 'MultiSense.from_pretrained("out")' in card.text
    assert "](ablation.png)" in card.text
    tree = json.loads((made / "ablation" / "ablation.json").read_text())
    table = rows(card.text, "probe on")
    assert table["probe on"] == ["height", "fast", "mean"]
    assert list(table)[2:] == ["pad", "arm", "pad + arm", "untrained", "raw", "chance"]
    parts = [tree["labels"]["height"], tree["labels"]["fast"], tree["mean"]]
    for name, cells in list(table.items())[2:]:
        kind = "baselines" if name in tree["mean"]["baselines"] else "subsets"
        for cell, part in zip(cells, parts, strict=True):
            expected = [x for x in part[kind][name.replace(" + ", "+")].values() if x is not None]
            assert [float(x) for x in re.findall(r"-?\d*\.\d+", cell)] == pytest.approx(expected, abs=0.0051)
    counts = rows(card.text, "label")
    assert counts["height"] == ["R²", "30 windows of 6 logs", "30 windows of 6 logs"]
    assert counts["fast"][0] == "balanced accuracy"
    assert tree["provenance"]["ablation"]["logs"]["test"]["fingerprint"] in card.text


def test_the_card_tells_how_it_was_trained(made: Path, tmp_path: Path):
    publish_path(made / "run", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "No evaluation is recorded with these weights." in text
    assert "ablation.png" not in text
    provenance = json.loads((made / "run" / "run.json").read_text())["provenance"]
    told = rows(text, "what")
    assert told["steps"] == ["4 of 4, 4 clips of 1 s each"]
    assert told["data"] == [f"6 logs, 18 s of recording, fingerprint `{provenance['data']}`"]
    assert told["clips seen"] == ["16 s of them, with repetition"]
    assert told["at step 4"] == ["loss 0.25, skill 0.4, rank 7"]
    assert told["code"] == [f"multisense {provenance['multisense']}, source `{provenance['code']}`"]
    assert told["made with"][0].startswith(f"torch {torch.__version__}, Python ")
    assert told["weights"] == [f"fingerprint `{weights_fingerprint(MultiSense.from_pretrained(tmp_path / 'out'))}`"]
    assert "width: 32" in text


def test_folders_of_the_machine_stay_at_home(made: Path, tmp_path: Path):
    publish_path(made / "run", tmp_path / "out", made / "ablation")
    assert "train: kitchen\n" in (tmp_path / "out" / "README.md").read_text()
    for file in (tmp_path / "out").iterdir():
        assert str(made).encode() not in file.read_bytes(), file


def test_a_run_that_has_not_finished_or_says_little_says_so(run: Path):
    saved = run / "checkpoints" / "00000003"
    saved.mkdir(parents=True)
    (saved / "state.json").write_text("{}")
    assert reached(run)[1]["step"] == 3
    assert "| steps | 3 of 4; its training has not finished, 4 clips" in training_section(open_run(run))
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "checkpoints")
    said = training_section(open_run(run))
    assert "| steps | 4 planned; how many were taken is not recorded, 4 clips" in said
    assert "hours_seen" not in said
    assert "loss 0" not in said


def test_what_a_run_was_begun_with_is_told(run: Path):
    config, grids, now = read_run(run)
    old = {
        **now,
        "data": "0123",
        "config": {**now["config"], "train": {**now["config"]["train"], "learning_rate": 0.5}},
    }
    write_run(run, config, grids, {**now, "before": old})
    told = rows(training_section(open_run(run)), "what")
    assert told["changed on the way"] == ["config.train.learning_rate was 0.5; data was 0123"]


def test_an_ablation_of_other_weights_is_refused(made: Path, run: Path, tmp_path: Path):
    opened = open_run(run)
    with torch.no_grad():
        opened.model.sensor_embedding[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"an ablation of other weights: their fingerprint is .* expected the folder"):
        publish(opened, tmp_path / "out", made / "ablation")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["ablation.json", "ablation.png"])
def test_an_ablation_that_is_not_whole_is_refused(made: Path, tmp_path: Path, missing: str):
    shutil.copytree(made / "ablation", tmp_path / "ablation")
    (tmp_path / "ablation" / missing).unlink()
    with pytest.raises(ValueError, match=rf"{missing}: not there; expected the folder that `multisense ablate"):
        publish_path(made / "run", tmp_path / "out", tmp_path / "ablation")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_as_it_is(made: Path, tmp_path: Path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        publish_path(made / "run", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


class FakeApi:
    """Records what is asked of the Hub, where every repository has the file `card`, if any, as its README.md."""

    def __init__(self, error: Exception | None = None, private: bool = False, card: Path | None = None):
        self.error, self.private, self.card, self.asked, self.files = error, private, card, [], []

    def repo_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def file_exists(self, repo_id: str, filename: str) -> bool:
        return self.card is not None and filename == "README.md"

    def hf_hub_download(self, repo_id: str, filename: str) -> str:
        return str(self.card)

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        self.asked.append((repo_id, private, exist_ok))
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
        if self.error:
            raise self.error
        self.files = sorted(path.name for path in folder_path.iterdir())
        return f"https://hub/{repo_id}/commit/1"


def test_push(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub = FakeApi()
    monkeypatch.setattr("multisense.publish.folder.HfApi", lambda: hub)
    done = publish_path(made / "run", tmp_path / "out", made / "ablation", "lab/senses")
    assert done.address == "https://hub/lab/senses/commit/1"
    assert hub.files == FILES
    assert 'from_pretrained("lab/senses")' in (tmp_path / "out" / "README.md").read_text()
    hub.private = True
    upload(tmp_path / "out", "lab/secret", private=True)
    assert hub.asked == [("lab/senses", None, True), ("lab/secret", True, True)]


def test_a_repository_that_is_public_stays_without_what_is_private(made: Path, tmp_path: Path, monkeypatch):
    hub = FakeApi(private=False)
    monkeypatch.setattr("multisense.publish.folder.HfApi", lambda: hub)
    with pytest.raises(ValueError, match=r"lab/senses: is on the Hub already and public, .* nothing was uploaded"):
        publish_path(made / "run", tmp_path / "out", push="lab/senses", private=True)
    assert hub.files == []
    MultiSense.from_pretrained(tmp_path / "out")


def test_only_a_card_of_multisense_is_replaced(made: Path, tmp_path: Path, monkeypatch):
    publish_path(made / "run", tmp_path / "out")
    hub = FakeApi(card=tmp_path / "out" / "README.md")
    monkeypatch.setattr("multisense.publish.folder.HfApi", lambda: hub)
    upload(tmp_path / "out", "lab/senses")
    assert hub.files == [name for name in FILES if name != "ablation.png"]
    hub.card, hub.files = tmp_path / "README.md", []
    hub.card.write_text("---\nlibrary_name: multisense\n---\n\n# Senses\n\nWhat we found, by hand.\n")
    with pytest.raises(
        ValueError, match=r"lab/senses: has a README\.md that multisense did not make .* nothing was uploaded"
    ):
        upload(tmp_path / "out", "lab/senses")
    assert hub.files == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.LocalTokenNotFoundError("Token is required\nand more"), "Token is required"),
        (httpx.ConnectError("no route to host"), "no route to host"),
        (errors.OfflineModeIsEnabled("offline mode"), "offline mode"),
    ],
)
def test_a_hub_that_cannot_be_reached(made: Path, tmp_path: Path, monkeypatch, error: Exception, said: str):
    monkeypatch.setattr("multisense.publish.folder.HfApi", lambda: FakeApi(error))
    with pytest.raises(ValueError, match=rf"lab/senses: not on the Hub \({said}\)\. .* `hf upload lab/senses "):
        publish_path(made / "run", tmp_path / "out", push="lab/senses")
    MultiSense.from_pretrained(tmp_path / "out")


def test_a_name_that_the_hub_does_not_take_is_refused_first(made: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="Repo id must"):
        publish_path(made / "run", tmp_path / "out", push="lab/a/b")
    assert not (tmp_path / "out").exists()


def test_the_commands(made: Path, tmp_path: Path, monkeypatch, capsys):
    words = "publish", made / "run", "-o", tmp_path / "out", "--ablation", made / "ablation"
    status, shown, said = typed(monkeypatch, capsys, *words)
    assert status == 0, said
    assert f"hf upload OWNER/NAME {tmp_path / 'out'}" in shown
    status, _, said = typed(monkeypatch, capsys, *words)
    assert status == 1
    assert "is not empty" in said
    status, shown, said = typed(monkeypatch, capsys, "export", made / "run", "-o", tmp_path / "encoder.pt2")
    assert status == 0, said
    assert "encoder.pt2: within" in shown
    assert (tmp_path / "encoder.pt2").exists()
