"""The report: one page that loads nothing, parses, says what the numbers allow, and measures nothing twice."""

import base64
import csv
import importlib.util
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import av
import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_log, body_tree
from PIL import Image
from test_embed import make_run
from test_evaluate_ablation import planted

from multisense.clips import Windows, collate
from multisense.embed import window_arrays
from multisense.evaluate.ablation import Sides, provenance
from multisense.evaluate.bench import filled
from multisense.evaluate.retrieval import flat, ranks
from multisense.inspect.page import write_check_page
from multisense.inspect.pictures import curves, intervals, recording
from multisense.logs.base import LogError
from multisense.report import make, maps, report
from multisense.report.ablation import heat_table, retrain_section, sensors_table, verdict
from multisense.report.data import busiest
from multisense.report.film import film
from multisense.report.make import MEASURES, Parts, _own_stamps
from multisense.report.retrieval import example_figures, examples
from multisense.report.tables import Cell, Table, as_csv, draw, gap, heat, score
from multisense.report.thumbs import Size, pictures
from multisense.report.training import series
from multisense.run import Run, build_objective, make_grids, parse_config
from multisense.types import Label

VOID = {"meta", "br", "link", "img", "input", "hr"}
LOGS = [body_log(n) for n in range(12)]
HOME = "/srv/somebody"
MADE = {
    "config": {"data": {"train": f"{HOME}/kitchen", "test": "../somebody/cellar", "cache": None}},
    "before": {"config": {"data": {"train": "hf://datasets/lab/kitchen"}}, "command": [f"{HOME}/bin/train"]},
}
"""Provenance with folders of a machine, at several depths."""


class Strict(HTMLParser):
    """Every element that opens closes, in order; no id stands twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.seen, self.links, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset", "action"}]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def point(score: float, loss: float) -> dict:
    cell = {"mean": loss, "low": loss - 0.05, "high": loss + 0.05}
    return {"score": {"mean": score, "low": score - 0.1, "high": score + 0.1}, "loss": cell, "over_without": cell}


def broken() -> dict:
    """A tree of robustness.json with two disturbances of one sensor."""
    level = {"mean": 0.5, "low": 0.4, "high": 0.6}
    both = {"labels": {"height": level}, "mean": level}
    points = [
        {"strength": s, "words": f"off by {s} ms", "seen": 1.0, "labels": {"height": point(0.5 - s / 1000, s / 1000)},
         "mean": point(0.5 - s / 1000, s / 1000)}
        for s in (10, 100)
    ]  # fmt: skip
    swapped = [{**points[0], "strength": 1, "words": "of another log"}]
    part = {"sense": "sound", "levels": dict.fromkeys(("clean", "alone", "without"), both)}
    return {
        "sensors": {"ear": {**part, "curves": {"offset": points, "swapped": swapped}}},
        "labels": {"height": {}}, "skipped": {}, "floor": 0.0, "provenance": {},
    }  # fmt: skip


def written(folder: Path) -> Path:
    """The page of a network that has learned nothing, with an ablation of known truth."""
    run = make_run()
    (folder / "run").mkdir()
    lines = [{"step": s, "loss": 1 / s, "skill/eye": s / 100, "rank/eye": 9, "spread/arm": 0.5} for s in (10, 20, 30)]
    lines.append({"step": 35, "loss": None, "skill/eye": None})  # as training writes what is not finite
    (folder / "run" / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "lo'
    )
    run = replace(run, path=folder / "run")
    given = {"ablation": planted()[0], "robustness": broken()}
    run.provenance.update(MADE)
    with pytest.MonkeyPatch.context() as patch:
        without_umap(patch)
        return report(run, LOGS, folder / "report.html", title="a <title> & more", given=given)


def without_umap(patch: pytest.MonkeyPatch) -> None:
    """As where it is not installed: to compile it takes longer than all the rest."""
    find = importlib.util.find_spec
    patch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "umap" else find(name, *rest))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("report"))


def test_the_page_loads_nothing_and_is_well_formed(page):
    parser, html = Strict(), page.read_text()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    inside = tuple(f"#{name}" for name in parser.ids)
    assert all(link.startswith(("data:", "#")) for link in parser.links)
    assert {link for link in parser.links if link.startswith("#")} <= set(inside)
    assert not re.search(r"@import|url\(", html)
    assert set(re.findall(r"https?://[^\"' ]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert "a &lt;title&gt; &amp; more" in html
    assert "prefers-color-scheme: dark" in html
    assert len(html) < 3e6


def test_the_page_holds_every_part_and_leaves_out_what_was_not_measured(page, tmp_path):
    parts = "recorded", "learned", "embedding", "probes", "mattered", "broken", "retrieval", "own", "made"
    assert re.findall(r"<section id='(\w+)'", page.read_text()) == list(parts)
    assert re.findall(r"<video ", page.read_text())
    report(make_run(), LOGS[:2], tmp_path / "few.html", measure=())
    assert re.findall(r"<section id='(\w+)'", (tmp_path / "few.html").read_text()) == [
        "recorded",
        "learned",
        "own",
        "made",
    ]
    with pytest.raises(ValueError, match=r"no measure \['taste'\]; there are health, map"):
        report(make_run(), LOGS[:2], tmp_path / "few.html", measure=("taste",))


def test_folders_of_the_machine_stay_at_home(page):
    made = re.search(r"aria-label='provenance'>([^<]*)", page.read_text())
    assert made
    shown = json.loads(unescape(made[1]))
    assert shown["config"]["data"] == {"train": "kitchen", "test": "cellar", "cache": None}
    assert shown["before"] == {"config": {"data": {"train": "hf://datasets/lab/kitchen"}}, "command": ["train"]}
    assert set(shown["report"]) == {"weights", "logs", "code"}
    assert "somebody" not in page.read_text()
    assert str(page.parent) not in page.read_text()


def test_what_was_measured_is_not_measured_again_unless_what_it_was_made_with_changed(page):
    parts = page.with_name("report.html.parts")
    made = json.loads((parts / "made.json").read_text())
    assert set(made) == set(MEASURES) - {"ablation", "robustness"}
    assert made["map"]["weights"] == made["probe"]["weights"]

    def never() -> None:
        raise AssertionError("measured again")

    own = {"map": "umap", "probe": "training"}
    assert {name: set(of) - {"weights", "logs", "code", "seconds"} for name, of in made.items()} == {
        name: {own[name]} if name in own else set() for name in made
    }
    for name in ("map", "probe"):
        stamp = {key: value for key, value in made[name].items() if key != "seconds"}
        assert Parts(parts, stamp).get(name, never)
        for key in stamp:
            with pytest.raises(AssertionError, match="measured again"):
                Parts(parts, stamp, {name: {key: "other"}}).get(name, never)


def test_a_map_is_drawn_again_when_umap_is_installed_and_probes_when_the_training_logs_change(monkeypatch):
    run, there = make_run(), [body_log(20), body_log(21)]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: json.__spec__ if name == "umap" else find(name)
    )
    assert _own_stamps(run, ["map"]) == {"map": {"umap": True}}
    without_umap(monkeypatch)
    assert _own_stamps(run, ["map"]) == {"map": {"umap": False}}
    assert _own_stamps(run, ["probe"])["probe"] == {"training": "gone"}
    monkeypatch.setattr(make, "has_training_logs", lambda config: True)
    monkeypatch.setattr(make, "training_logs", lambda config: there)
    before = _own_stamps(run, MEASURES)
    assert before["probe"] == before["ablation"] == before["robustness"]
    there.pop()
    assert _own_stamps(run, MEASURES)["probe"] != before["probe"]


def retrained(run: Run, logs: Sequence[ArrayLog]) -> dict:
    """A tree of retrain.json with the provenance that `ablate --retrain` writes for a run and held-out logs."""
    windows = Windows(LOGS[:2], run.grids, 1.0, 1.0), Windows(logs, run.grids, 1.0, 1.0)
    made = provenance(run, Sides(*windows, planted()[1], {}, 0.5, 0), "ablation")
    return {**planted()[0], "provenance": made}


def test_a_retrained_table_of_another_run_or_of_other_logs_is_refused(tmp_path):
    run, logs, file = make_run(), LOGS[4:7], tmp_path / "retrain.json"
    file.write_text(json.dumps(retrained(run, logs)))
    page = report(run, logs, tmp_path / "page.html", measure=(), retrain=tmp_path)
    assert "Trained anew for every subset" in page.read_text()
    fix = "expected the folder of `multisense ablate --retrain` of this run on these logs"
    with pytest.raises(
        ValueError, match=rf"other held-out logs: their fingerprint is \w+, that of those given \w+; {fix}"
    ):
        report(run, LOGS[4:8], tmp_path / "other.html", measure=(), retrain=tmp_path)
    with torch.no_grad():
        run.model.sensor_embedding[0, 0] += 1e-6
    with pytest.raises(ValueError, match=rf"other weights: their fingerprint is \w+, that of the run's \w+; {fix}"):
        report(run, logs, tmp_path / "other.html", measure=(), retrain=tmp_path)
    file.write_text(json.dumps({**planted()[0], "provenance": {}}))
    with pytest.raises(ValueError, match="their fingerprint is None"):
        report(run, logs, tmp_path / "other.html", measure=(), retrain=tmp_path)
    assert not (tmp_path / "other.html").exists()


def odd_log(name: str) -> ArrayLog:
    """A body with a grey camera and a joint of single numbers."""
    log = body_log(3)
    _, rate, times, frames = log.streams["eye"]
    _, fast, stamps, joints = log.streams["arm"]
    grey, joint = ("video", rate, times, frames[..., :1]), ("proprio", fast, stamps, joints[:, 0])
    return ArrayLog(name, {**log.streams, "eye": grey, "arm": joint}, log.labels)


def test_grey_cameras_and_single_numbers_are_drawn(tmp_path):
    logs = [odd_log("a"), odd_log("b")]
    config = parse_config(body_tree())
    grids = make_grids(config, logs)
    objective = build_objective(config, grids).eval()
    run = Run(Path("memory"), config, grids, objective.teacher, objective, {"seed": 0})
    html = report(run, logs, tmp_path / "page.html", measure=()).read_text()
    assert "1 channel<" in html
    assert "<video " in html
    write_check_page(tmp_path / "check.html", "a test", logs, [], None)
    html = (tmp_path / "check.html").read_text()
    shown = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    first = np.asarray(Image.open(io.BytesIO(shown[0])).convert("RGB"))
    np.testing.assert_array_equal(first, np.repeat(logs[0].streams["eye"][3][1], 3, axis=2))
    assert len(pictures([(logs[0], 0.0)], ["eye", "arm"], 1.0, Size(80, 24))) == 1


def test_what_cannot_be_drawn_is_known_before_anything_is_measured(tmp_path, monkeypatch):
    def unreadable(*_: object) -> None:
        raise LogError("frames that nothing decodes")

    monkeypatch.setattr(make, "data_section", unreadable)
    with pytest.raises(LogError, match="nothing decodes"):
        report(make_run(), LOGS, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_a_tables_csv_holds_every_number_unrounded():
    third = {"mean": 1 / 3, "low": 0.1, "high": 0.5}
    rows = [[Cell("a, <b>"), score(third), Cell("yes")], [Cell("c"), score(None), Cell("no")]]
    table = Table(
        "t", "caption", ["label", "score", "word"], rows, [[Cell("mean"), gap({**third, "low": None}), Cell("")]]
    )
    link = re.search(r"href='data:text/csv;charset=utf-8,([^']*)'", draw(table))
    assert link
    found = list(csv.reader(io.StringIO(unquote(unescape(link[1])))))
    assert found[0] == ["label", "score", "score low", "score high", "word"]
    assert found[1] == ["a, <b>", repr(1 / 3), "0.1", "0.5", "yes"]
    assert found[2] == ["c", "", "", "", "no"]
    assert found[3][:4] == ["mean", repr(1 / 3), "", "0.5"]
    assert as_csv(table).count("\n") == 4
    assert "a, &lt;b&gt;" in draw(table)


def test_a_loss_is_shown_as_a_change_with_its_interval_turned():
    cell = gap({"mean": 0.2, "low": 0.1, "high": 0.4, "p": 0.004}, -1)
    assert (cell.words, cell.note, cell.is_strong) == ("-0.20", "[-0.40, -0.10] p=0.004", True)
    assert cell.values == (-0.2, -0.4, -0.1)
    assert not gap({"mean": 0.2, "low": -0.1, "high": 0.4}).is_strong
    assert not gap({"mean": 0.2, "low": 0.1, "high": 0.4, "p": 0.54}).is_strong  # of many comparisons
    assert gap({"mean": 0.2, "low": 0.1, "high": 0.4}).is_strong


@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.3, 0.45, 0.5, 0.55, 0.6, 0.8, 1.0])
def test_ink_on_every_colour_of_the_heat_map_can_be_read(mean):
    style = heat({"mean": mean, "low": None, "high": None}).style
    ground = [int(part) / 255 for part in re.findall(r"rgb\((\d+),(\d+),(\d+)\)", style)[0]]
    ink = 0.0 if style.endswith("#000") else 1.0
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in ground]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert (max(light, ink) + 0.05) / (min(light, ink) + 0.05) >= 4.5


def test_the_heat_table_has_a_column_for_every_subset_and_optional_measures_are_shown_where_they_are():
    tree = planted()[0]
    html = heat_table(tree, "x", "caption")
    assert html.count("scope='col'") == 1 + 7 + 3
    assert html.count("scope='row'") == 4 + 1
    assert "<small>[" in html
    assert "Shapley value of mic" in sensors_table(tree, "x", "caption", ["shapley", "unique"])
    assert sensors_table(tree, "x", "caption", ["laziness"]) == ""
    cell = {"mean": 0.1, "low": 0.05, "high": 0.2}
    empty = {"mean": None, "low": None, "high": None}
    tree["mean"]["subsets"]["mic"] = tree["labels"]["place"]["subsets"]["mic"] = empty
    tree["mean"]["baselines"]["late fusion"] = cell
    tree["arms"] = {"mic": {"state": "failed", "error": "no <space>", "seconds": 1}}
    html = retrain_section(tree)
    assert "late fusion" in html
    assert "mic: no &lt;space&gt;" in html


def test_the_map_is_the_pca_of_the_fused_embeddings(page):
    found = json.loads((page.with_name("report.html.parts") / "map.json").read_text())
    xy = np.array(found["layouts"]["PCA"])
    run = make_run()
    x = window_arrays(run.model, Windows(LOGS, run.grids, 1.0, 1.0), run.model.names)["fused"]
    x = filled(x, x)[0] - x.mean(axis=0)
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    for k in range(2):
        assert abs(np.corrcoef(xy[:, k], x @ axes[k])[0, 1]) == pytest.approx(1, abs=1e-3)
    assert len(found["pictures"]) == len(found["windows"]) == len(x) == 36
    colours = {colour["name"]: colour for colour in found["colours"]}
    assert colours["fast"]["classes"] == ["slow", "fast"]
    assert colours["recording"]["values"] == np.repeat(range(12), 3).tolist()
    angles = [LOGS[0].labels["height"].data[:50].mean(), LOGS[11].labels["height"].data[100:].mean()]
    assert [colours["height"]["values"][i] for i in (0, -1)] == pytest.approx(angles, rel=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_umap_stands_beside_the_pca_where_it_is_installed():
    pytest.importorskip("umap", reason="umap-learn is not installed (extra `umap`)")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(20, 8)), 30 + rng.normal(size=(20, 8))])
    layouts, _ = maps._layouts(x, seed=0)
    assert list(layouts) == ["PCA", "UMAP"]
    apart = np.linalg.norm(layouts["UMAP"][:, None] - layouts["UMAP"][None], axis=-1)
    assert apart[:20, :20].max() < apart[:20, 20:].max()


def test_the_examples_are_of_the_ranks_that_they_say(page):
    found = examples(make_run(), [body_log(n, seconds=1.0) for n in range(11)])
    assert {one["gallery"] for one in found["examples"]} == {11}
    by_target = {
        one["target"]: [o for o in found["examples"] if o["target"] == one["target"]] for one in found["examples"]
    }
    assert set(by_target) == {"eye", "ear", "pad", "arm"}
    run = make_run()
    windows = Windows([body_log(n, seconds=1.0) for n in range(11)], run.grids, 1.0, 1.0)
    predicted, truth, valid = run.objective.predict_sensor(
        collate([windows[i] for i in range(11)]), ("eye", "ear", "pad"), "arm"
    )
    expected = ranks(flat(predicted, valid), flat(truth, valid))
    for one in by_target["arm"]:
        assert one["rank"] == expected[int(one["query"]["log"][-3:])]
        assert (one["found"]["log"] == one["query"]["log"]) == (one["rank"] == 1)


def test_the_examples_hold_both_sides():
    """Of four logs without an arm none is asked for it or found, and places are among the others."""
    logs = [body_log(n, seconds=1.0) for n in range(12)]
    for log in logs[:4]:
        log.streams = {name: stream for name, stream in log.streams.items() if name != "arm"}
    found = [one for one in examples(make_run(), logs)["examples"] if one["target"] == "arm"]
    assert len(found) == 3
    assert {one[side]["log"] for one in found for side in ("query", "found")} <= {log.name for log in logs[4:]}
    assert {one["gallery"] for one in found} == {8}
    assert max(one["rank"] for one in found) <= 8
    assert "of 8:" in example_figures({"examples": found, "sensors": ["eye", "arm"]})
    some = [replace(log, streams={n: s for n, s in log.streams.items() if n == "eye"}) for log in logs[:3]]
    none = examples(make_run(), some)
    assert none["examples"] == []
    assert example_figures(none) == ""


@pytest.mark.parametrize("start", [1234.5, 1.7e9 + 0.25])
def test_a_window_can_be_found_by_the_time_that_is_shown(start):
    clip = {"log": "a", "start_s": start, "picture": "x"}
    one = {"context": "eye", "target": "arm", "rank": 2.0, "gallery": 3, "query": clip, "found": {**clip, "log": "b"}}
    html = example_figures({"examples": [one], "sensors": ["eye", "arm"]})
    assert html.count(f"</b> a, {start:.2f} s<") == 2
    assert html.count(f"</b> b, {start:.2f} s<") == 1
    names = re.findall(r"alt='([^']*)'", html)
    assert len(names) == len(set(names)) == 3
    near = {"layouts": {"PCA": [[0, 0], [1, 1]]}, "windows": [["a", start], ["a", start + 0.5]]}
    spoken = re.findall(r'<circle [^>]*aria-label="([^"]*)"', maps._dots(near))
    assert spoken == [f"a, {start:.2f} s", f"a, {start + 0.5:.2f} s"]


def test_what_counts_as_the_floor_is_said(page):
    said = "In the mean a score below 0 counts as 0."
    captions = re.findall(r"<caption>([^<]*)</caption>", page.read_text())
    assert [said in caption for caption in captions if caption.startswith("Scores of every subset")] == [True]
    sections = page.read_text().split("<section ")
    assert said in sections[0], "beside the headline"
    assert any(said in part for part in sections if part.startswith("id='broken'"))
    tree = planted()[0]
    tree["mean"]["floor"] = -0.25
    assert "below -0.25 counts as -0.25." in retrain_section(tree)


def test_classes_are_scored_by_balanced_accuracy_and_so_it_is_called(page):
    assert "<small>balanced accuracy</small>" in heat_table(planted()[0], "x", "caption")
    probes = page.read_text().split("id='table-probes'")[1].split("</table>")[0]
    assert ">balanced accuracy<" in probes
    assert ">accuracy<" not in page.read_text()


def test_the_film_holds_the_frames_and_the_sound_at_their_times():
    log = body_log(3)
    with av.open(io.BytesIO(film(log, ("eye", "ear", "pad", "arm"), (0.5, 2.5)))) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 20
    assert [float(frame.time) for frame in frames] == pytest.approx((np.arange(20) / 10).tolist(), abs=1e-3)
    wanted = log.streams["eye"][3][5:25].astype(float)
    shown = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(float)
    assert np.abs(wanted - shown).mean() < 12
    assert np.abs(wanted[:-1] - shown[1:]).mean() > np.abs(wanted - shown).mean()
    with av.open(io.BytesIO(film(log, ("ear",), (0.5, 2.5)))) as container:
        sound = np.concatenate([frame.to_ndarray().mean(0) for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    peak = np.abs(np.fft.rfft(sound)).argmax() * rate / len(sound)
    assert peak == pytest.approx(400, abs=2)
    assert len(sound) / rate == pytest.approx(2.0, abs=0.15)
    assert film(log, ("arm",), (0.5, 2.5)) is None


def test_clips_are_drawn_on_one_scale_and_an_absent_sensor_is_dark():
    quiet, loud = (
        ArrayLog(name, {"pad": ("touch", 100.0, np.arange(100) / 100, np.full((100, 4, 4, 3), level, np.float32))})
        for name, level in (("quiet", 0.1), ("loud", 5.0))
    )
    shown = pictures([(quiet, 0.0), (loud, 0.0)], ["pad", "eye"], 1.0, Size(80, 24))
    drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).astype(int) for picture in shown]
    assert drawn[0].shape == (48, 80, 3)
    assert np.abs(drawn[0][:22] - drawn[1][:22]).max() > 100
    assert drawn[0][28:].max() < 45


def test_what_is_no_number_is_left_out_of_a_curve():
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3}, {"step": 4, "loss": float("nan")}]
    steps, values = series([*rows, {"step": 5, "loss": 1.0}], "loss")
    assert (steps.tolist(), values.tolist()) == ([1, 5], [2, 1])
    assert len(series(rows, "skill")[0]) == 0


def test_the_verdict_says_no_more_than_the_intervals():
    gaps = {
        "fused-raw": {"mean": 0.2, "low": 0.1, "high": 0.3},
        "fused-untrained": {"mean": 0.02, "low": -0.01, "high": 0.05},
        "fused-mic": {"mean": -0.2, "low": -0.3, "high": -0.1},
        "fused-arm": {"mean": 0.3, "low": None, "high": None},
    }
    said = verdict({"differences": gaps})
    assert "better than raw (+0.20)" in said
    assert "not distinguishable from untrained (+0.02) and arm (+0.30)" in said
    assert "worse than mic (-0.20)" in said


def test_pictures_are_well_formed_and_on_one_time_axis():
    log = body_log(1)
    svg = ElementTree.fromstring(recording(log, ("eye", "ear", "pad", "arm"), seconds=2.0))
    images = [e for e in svg.iter() if e.tag.endswith("image")]
    lines = [e for e in svg.iter() if e.tag.endswith("polyline")]
    assert len(images) == 10 + 1 + 1
    assert len(lines) == 3
    ends = [
        float(p.split(",")[0])
        for line in lines
        for p in (line.get("points", "").split()[0], line.get("points", "").split()[-1])
    ]
    assert min(ends) == pytest.approx(108, abs=1)
    assert max(ends) == pytest.approx(948, abs=6)


def test_a_sensor_without_data_in_the_span_says_so():
    log = body_log(1)
    kind, rate, times, frames = log.streams["eye"]
    log.streams = {**log.streams, "eye": (kind, rate, times + 100, frames)}
    assert "nothing recorded in this span" in recording(log, ("arm", "eye"), seconds=1.0)


def test_curves_and_intervals_survive_flat_and_single_values():
    for values in ([1.0, 1.0], [0.0, 0.0], [-3.0, 2.0]):
        ElementTree.fromstring(curves("t", {"a": (np.array([1.0, 2.0]), np.array(values))}))
    svg = intervals({"one": ({"mean": 0.4, "low": None, "high": None}, "red")}, "t")
    places = [float(e.get("cx", "nan")) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("circle")]
    assert not any(math.isnan(x) for x in places)


def test_the_recording_with_most_contact_is_shown():
    logs = [body_log(n) for n in range(3)]
    assert busiest(logs) is logs[0]
    times = np.arange(30) / 10
    for n, log in enumerate(logs):
        log.labels = {"contact": Label("contact", (times < n).astype(int), times, "max", ("no", "yes"))}
    assert busiest(logs) is logs[2]
