"""A run says what ails it while it trains."""

import json
from pathlib import Path

import pytest
from conftest import ArrayLog, body_tree

from multisense.checkpoint import saved_step
from multisense.health import Alarm, held_out, measure
from multisense.logs import LogError
from multisense.run import RunConfig, open_run, parse_config
from multisense.statistics import fit_statistics
from multisense.train import train
from multisense.train.watch import HealthError


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch, body_logs: list[ArrayLog]) -> list[ArrayLog]:
    monkeypatch.setattr("multisense.run.open_logs", lambda path: body_logs)
    monkeypatch.setattr("multisense.train.watch.open_logs", lambda path: body_logs)
    monkeypatch.setattr(
        "multisense.train.loop.fit_statistics", lambda student, clips, count: fit_statistics(student, clips, 16)
    )
    return body_logs


def config(**train: object) -> RunConfig:
    tree = body_tree(**{"steps": 6, "health_every": 2, "save_every": 2, **train})
    tree["data"]["hold_out"] = ["body-004", "body-005"]
    return parse_config(tree)


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "health.jsonl").read_text().splitlines()]


def test_health_is_measured_on_held_out_clips_and_again_after_a_stop(tmp_path: Path, in_memory: list[ArrayLog]):
    out = train(config(), tmp_path / "run")
    assert [row["step"] for row in rows(out)] == [2, 4, 6]
    expected = {"loss", "skill/arm", "skill/arm->eye", "rank/ear", "importance/pad", "gradient/eye", "input/pad"}
    assert expected <= rows(out)[0].keys()
    run = open_run(out)
    held = held_out(in_memory[4:], run.grids, 1.0)
    again = measure(run.objective, held)
    assert rows(out)[-1]["rank/arm"] == pytest.approx(again["rank/arm"], abs=1e-4)

    before = rows(out)
    with (out / "health.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    train(config(), out, resume=True)
    assert rows(out) == before


def test_a_damaged_test_log_ends_no_training(
    tmp_path: Path, in_memory: list[ArrayLog], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def refuse(path: str) -> list[ArrayLog]:
        raise LogError(f"{path}: cut short")

    monkeypatch.setattr("multisense.train.watch.open_logs", refuse)
    out = train(config(), tmp_path / "run")
    assert saved_step(out) == 6
    assert "health is not measured: " in capsys.readouterr().err


def test_watching_changes_nothing(tmp_path: Path, in_memory: list[ArrayLog]):
    watched = train(config(), tmp_path / "watched")
    alone = train(config(health_every=0), tmp_path / "alone")
    assert (watched / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    assert not (alone / "health.jsonl").exists()


@pytest.mark.parametrize("kind", ["collapse", "lazy"])
def test_a_collapse_ends_a_run_that_is_asked_to(
    tmp_path: Path, in_memory: list[ArrayLog], monkeypatch: pytest.MonkeyPatch, kind: str, capsys: pytest.CaptureFixture
):
    found = Alarm("ear", kind, "`ear`: something is wrong")  # type: ignore[arg-type]
    monkeypatch.setattr("multisense.train.watch.alarms", lambda history, warmup: [found] if history[-1][0] >= 4 else [])
    if kind == "collapse":
        with pytest.raises(HealthError, match=r"stopped at step 4, .* `ear`: something is wrong. Go on all the same"):
            train(config(on_collapse="stop"), tmp_path / "run")
    else:
        train(config(on_collapse="stop"), tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("alarm at step 4: `ear`: something is wrong") == 1
