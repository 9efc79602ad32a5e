"""Arms of an ablation: what is trained, that it is the same wherever it is, and what the table says of it."""

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import body_tree
from test_cli import run as typed
from test_cli import write_body

from multisense.arms.plan import Arm, objective_arms, subset_arms
from multisense.arms.queue import finished, train_arms
from multisense.arms.retrain import objective, retrain
from multisense.config import ConfigError
from multisense.evaluate.ablation import ablate
from multisense.logs import open_logs
from multisense.run import RunConfig, open_run, parse_config
from multisense.train import train


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("arms")
    write_body(root / "train", range(8))
    write_body(root / "test", range(8, 14))
    return root


@pytest.fixture(scope="module")
def config(logs: Path) -> RunConfig:
    """Three senses of the body, three steps."""
    tree = body_tree(steps=3, batch_size=4)
    tree["data"] |= {"train": str(logs / "train"), "test": str(logs / "test")}
    del tree["sensors"]["ear"]
    return parse_config(tree)


def weights(arms: list[Arm]) -> list[bytes]:
    return [(arm.folder / "model.safetensors").read_bytes() for arm in arms]


def test_an_arm_for_every_subset_and_for_every_part(config: RunConfig, tmp_path: Path):
    arms = subset_arms(config, tmp_path)
    assert [arm.name for arm in arms] == ["eye", "pad", "arm", "eye+pad", "eye+arm", "pad+arm"]
    assert arms[3].sensors == ("eye", "pad")
    assert all(
        replace(arm, config=config) == replace(arm, config=arm.config.model_copy(update={"sensors": config.sensors}))
        for arm in arms
    )
    tree = config.tree()
    tree["objective"]["masks"]["alone"] = ["eye", "arm"]
    alone = [arm.config.objective.masks.alone for arm in subset_arms(parse_config(tree), tmp_path)]
    assert alone == [["eye"], [], ["arm"], ["eye"], ["eye", "arm"], ["arm"]]
    (tmp_path / "grid.yaml").write_text(
        yaml.safe_dump({"deep": {"model.depth": 5, "objective.masks.hide": [0.5, 0.6]}})
    )
    few = {name: settings for name, settings in tree["sensors"].items() if name != "eye"}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({"few": {"sensors": few}}))
    arms = objective_arms(parse_config(tree), tmp_path, ["alone"], tmp_path / "few.yaml")
    assert [arm.config.objective.masks.alone for arm in arms] == [[], ["arm"]]
    cross, ema, deep = objective_arms(config, tmp_path, ["cross", "ema"], tmp_path / "grid.yaml")
    assert (cross.config.objective.masks.cross, config.objective.masks.cross) == (0.0, 2.0)
    assert ema.config.objective.ema_share == 1e-9
    assert (deep.config.model.depth, deep.config.objective.masks.hide) == (5, (0.5, 0.6))
    for without, grid, words in (
        (["crosses"], None, "did you mean 'cross'"),
        ([], {"deep": 5}, "expected a mapping"),
        ([], {"deep": {"model.dept": 5}}, "arm 'deep': model.dept: unknown key; did you mean 'depth'"),
        ([], {"eye+pad": {"model.depth": 5}}, "not of a subset"),
        ([], {"the run": {"model.depth": 5}}, "nor one of the run"),
        ([], {"a/b": {"model.depth": 5}}, "expected letters"),
        ([], {"short": {"data.clip_seconds": 0.5}}, "same clips of the same logs"),
        ([], {"nose": {"sensors.nose": {"kind": "audio"}}}, "the run has no such sensor"),
        (["ema"], {"without ema": {"model.depth": 5}}, "arm of --without"),
    ):
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
        with pytest.raises(ConfigError, match=words):
            objective_arms(config, tmp_path, without, tmp_path / "grid.yaml" if grid else None)


def test_an_arm_that_fails_leaves_the_others(config: RunConfig, tmp_path: Path, capsys):
    arms = subset_arms(config, tmp_path / "arms")[:2]
    gone = config.model_copy(update={"data": config.data.model_copy(update={"train": str(tmp_path / "nowhere")})})
    broken = Arm("gone", gone, tmp_path / "arms" / "gone")
    found = train_arms([arms[0], broken, arms[1]], tmp_path)
    assert {name: (o.state, o.attempts) for name, o in found.items()} == {
        "eye": ("done", 1), "gone": ("failed", 2), "pad": ("done", 1)
    }  # fmt: skip
    assert "nowhere" in found["gone"].error
    assert json.loads((tmp_path / "arms.json").read_text())["gone"]["state"] == "failed"
    before = [(arm.folder / "model.safetensors").stat().st_mtime_ns for arm in arms]
    again = train_arms(arms, tmp_path)
    assert [o.attempts for o in again.values()] == [0, 0]
    assert [(arm.folder / "model.safetensors").stat().st_mtime_ns for arm in arms] == before
    other = Arm(
        "eye", config.model_copy(update={"train": config.train.model_copy(update={"steps": 5})}), arms[0].folder
    )
    with pytest.raises(ConfigError, match="another configuration"):
        train_arms([other], tmp_path)
    with pytest.raises(ValueError, match="--on slurm: expected one of here, processes, ray"):
        train_arms(arms, tmp_path, on="slurm")


@pytest.fixture(scope="module")
def made(logs: Path, config: RunConfig, tmp_path_factory: pytest.TempPathFactory):
    """A run, its retrained table, and the folder."""
    out = tmp_path_factory.mktemp("made")
    train(config, out / "run")
    run = open_run(out / "run")
    return run, retrain(run, open_logs(logs / "test"), out / "table"), out / "table"


def test_every_cell_is_that_of_the_arm_probed_on_its_own(made, logs: Path):
    run, tree, out = made
    test = open_logs(logs / "test")
    for name in ("eye", "pad+arm"):
        alone = ablate(open_run(out / "arms" / name), test, out / "alone")
        for label, part in tree["labels"].items():
            assert part["subsets"][name] == pytest.approx(alone["labels"][label]["subsets"][name])
    dropped = ablate(run, test, out / "alone")
    for label, part in tree["labels"].items():
        assert part["drop"] == dropped["labels"][label]["subsets"]
        assert part["subsets"]["eye+pad+arm"] == part["drop"]["eye+pad+arm"]
    assert json.loads((out / "ablation.json").read_text())["labels"] == dropped["labels"]


def test_differences_are_those_of_the_cells(made):
    _, tree, out = made
    for part in (*tree["labels"].values(), tree["mean"]):
        for name, rest in (("eye", "pad+arm"), ("pad", "eye+arm"), ("arm", "eye+pad")):
            lazy, gone = part["laziness"][name]["mean"], part["missing"][name]["mean"]
            assert lazy == pytest.approx(part["subsets"][name]["mean"] - part["drop"][name]["mean"])
            assert gone == pytest.approx(part["drop"][rest]["mean"] - part["subsets"][rest]["mean"])
    assert set(tree["mean"]["differences"]) == {
        f"fused-{other}" for other in ("late fusion", "untrained", "raw", "eye", "pad", "arm")
    }
    assert tree["arms"]["eye"]["tokens"] + tree["arms"]["pad"]["tokens"] == tree["arms"]["eye+pad"]["tokens"]
    assert {file.name for file in out.iterdir()} >= {"retrain.json", "retrain.csv", "retrain.png", "ablation.json"}


def test_a_failed_arm_leaves_its_cells_empty(logs: Path, config: RunConfig, tmp_path: Path, monkeypatch):
    train(config, tmp_path / "run")
    from multisense.arms import queue

    healthy = queue.train

    def sick(settings: RunConfig, *words: object, **more: object) -> Path:
        if list(settings.sensors) == ["pad"]:
            raise RuntimeError("no room left")
        return healthy(settings, *words, **more)  # pyright: ignore

    monkeypatch.setattr(queue, "train", sick)
    tree = retrain(open_run(tmp_path / "run"), open_logs(logs / "test"), tmp_path / "table")
    assert tree["arms"]["pad"] == {
        "state": "failed",
        "attempts": 2,
        "error": "RuntimeError: no room left",
        "tokens": None,
    }
    cells = json.loads((tmp_path / "table" / "retrain.json").read_text())["mean"]
    assert cells["subsets"]["pad"] == {"mean": None, "low": None, "high": None}
    assert cells["baselines"]["late fusion"]["mean"] is None
    assert cells["subsets"]["eye"]["mean"] is not None


def test_the_objective_table(made, logs: Path):
    run, _, out = made
    tree = objective(run, open_logs(logs / "test"), out, ["contrast", "cross"])
    same = tree["mean"]["differences"]["without contrast"]  # the body's configuration has no contrast
    assert (same["mean"], same["p"]) == (0.0, 1.0)
    assert tree["mean"]["differences"]["without cross"]["mean"] != 0
    assert list(tree["labels"]["height"]["arms"]) == ["the run", "without contrast", "without cross"]


def test_the_command_trains_and_says_what_it_found(made, logs: Path, monkeypatch, capsys):
    run, _, out = made
    words = run.path, logs / "test", "-o", out, "--retrain", "--without", "cross"
    status, shown, said = typed(monkeypatch, capsys, "ablate", *words)
    assert status == 0, said
    assert "late fusion" in shown
    assert "without cross" in shown


def saved(arm: Arm) -> bool:
    """Whether there is something to go on from."""
    return any(step.name.isdigit() and int(step.name) > 0 for step in arm.folder.glob("checkpoints/*"))


@pytest.mark.slow
def test_processes_give_the_same_bytes_and_survive_a_kill(config: RunConfig, tmp_path: Path):
    long = config.model_copy(update={"train": config.train.model_copy(update={"steps": 60, "save_every": 5})})
    here, there = (subset_arms(long, tmp_path / place)[:3] for place in ("here", "there"))
    train_arms(here, tmp_path / "here")
    found = {}
    queue = threading.Thread(target=lambda: found.update(train_arms(there, tmp_path / "there", "processes", 2)))
    queue.start()
    while not saved(there[0]):
        assert queue.is_alive()
        time.sleep(0.02)
    killed = multiprocessing.active_children()[0]
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    queue.join()
    assert sorted(o.attempts for o in found.values()) == [1, 1, 2]
    assert {o.state for o in found.values()} == {"done"}
    assert weights(there) == weights(here)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_of_two_nodes_gives_the_same_bytes_and_survives_a_kill(config: RunConfig, tmp_path: Path):
    ray = pytest.importorskip("ray", reason="extra `cluster` is not installed")
    from ray.cluster_utils import Cluster

    long = config.model_copy(update={"train": config.train.model_copy(update={"steps": 60, "save_every": 5})})
    here, there = (subset_arms(long, tmp_path / place)[:3] for place in ("here", "there"))
    train_arms(here, tmp_path / "here")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        killer = threading.Thread(target=kill_a_worker, args=(there[0],), daemon=True)
        killer.start()
        found = train_arms(there, tmp_path / "there", "ray")
        killer.join(1)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert not killer.is_alive(), "no worker was found to kill"
    assert {o.state for o in found.values()} == {"done"}
    assert sorted(o.attempts for o in found.values()) == [1, 1, 2]
    assert all(finished(arm) for arm in there)
    assert weights(there) == weights(here)


def kill_a_worker(arm: Arm) -> None:
    """The first Ray worker that trains, once it has saved something."""
    while not saved(arm):
        time.sleep(0.02)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        if command.read_bytes().startswith(b"ray::_train"):
            os.kill(int(command.parent.name), signal.SIGKILL)
            return
