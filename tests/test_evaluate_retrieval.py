"""Retrieval from any sensors to any other: routes, ranks by brute force, both ways, the table."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import body_log
from rich.console import Console
from test_embed import make_run

from multisense.clips import Windows, collate
from multisense.embed import weights_fingerprint
from multisense.evaluate.retrieval import flat, pairs, places, ranks, retrieve, similarity
from multisense.evaluate.retrieval_table import rich_table, routes_of
from multisense.report.retrieval import retrieval_table as retrieval_html
from multisense.run import Run


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


def brute_force(query: np.ndarray, gallery: np.ndarray) -> list[float]:
    """Rank of entry i for query i by sorting all cosines, in plain loops."""
    centre = gallery.mean(0)
    found = []
    for i, q in enumerate(query - centre):
        cosines = [q @ g / np.linalg.norm(q) / np.linalg.norm(g) for g in gallery - centre]
        found.append(1 + sum(c > cosines[i] for c in cosines))
    return found


def test_ranks_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(40, 7)) + 3
    query = gallery + rng.normal(size=(40, 7))
    assert ranks(query, gallery).tolist() == brute_force(query, gallery)


def test_routes_are_both_ways():
    names = ("eye", "ear", "arm")
    asked = routes_of(names, ["arm", "eye"], ["ear"])
    assert asked == [(("eye", "arm"), ("ear",)), (("ear",), ("eye", "arm"))]
    assert routes_of(names, None, ["ear"]) == asked
    assert routes_of(names, ["eye"]) == [
        (("eye",), ("ear",)), (("ear",), ("eye",)), (("eye",), ("arm",)), (("arm",), ("eye",))
    ]  # fmt: skip
    everything = routes_of(names)
    assert everything[:6] == pairs(names)
    assert len(everything) == len(set(everything)) == 6 + 3 + 3
    assert len(routes_of(names[:2])) == 2
    for wrong in (([], ["nose"]), (["eye"], ["eye"]), (list(names), None)):
        with pytest.raises(ValueError, match="expected different sensors of"):
            routes_of(names, *wrong)


def test_several_senses_to_one_and_back_agree_with_the_model_asked_by_hand(run):
    logs = [body_log(n, seconds=1.0) for n in range(12)]
    route = ("eye", "pad"), ("arm",)
    found = retrieve(run, logs, routes=[route, route[::-1]])
    windows = Windows(logs, run.grids, 1.0, 1.0)
    batch = collate([windows[i] for i in range(len(windows))])

    def sides(context: tuple[str, ...], target: str) -> list[np.ndarray]:
        predicted, truth, valid = run.objective.predict_sensor(batch, context, target)
        return [flat(x, valid) for x in (predicted, truth)]

    there = brute_force(*sides(*route[:1], "arm"))
    entry = found["pairs"]["eye+pad>arm"]
    assert entry["median_rank"] == np.median(there)
    for k in (1, 5, 10):
        assert entry["recall"][str(k)]["mean"] == pytest.approx(np.mean(np.array(there) <= k))
        assert entry["recall"][str(k)]["chance"] == pytest.approx(k / 12)
    cosines = np.mean([similarity(*sides(("arm",), name)) for name in route[0]], axis=0)
    own = np.array([1 + sum(c > row[i] for c in row) for i, row in enumerate(cosines)])
    assert found["pairs"]["arm>eye+pad"]["median_rank"] == np.median(own)
    assert (places(cosines) == own).all()
    assert set(found["means"]) == {"several > one", "one > several"}
    assert found["means"]["several > one"] == entry == found["mean"]


def test_logs_without_a_sensor_are_in_no_gallery_of_it(run):
    logs = [body_log(n, seconds=1.0) for n in range(15)]
    whole = logs[:12]
    for log in logs[12:]:
        log.streams = {name: stream for name, stream in log.streams.items() if name != "arm"}
    routes = [(("eye",), ("arm",)), (("arm",), ("eye",)), (("eye",), ("ear",)), (("eye",), ("arm", "ear"))]
    routes += [(("arm", "pad"), ("eye",))]
    mixed, clean = (retrieve(run, some, routes=routes)["pairs"] for some in (logs, whole))
    for route in ("eye>arm", "arm>eye", "eye>arm+ear"):
        assert mixed[route]["size"] == 12
        assert mixed[route]["recall"]["1"]["chance"] == pytest.approx(1 / 12)
        assert mixed[route]["median_rank"] == clean[route]["median_rank"]
        assert mixed[route]["recall"]["5"]["mean"] == pytest.approx(clean[route]["recall"]["5"]["mean"])
    assert mixed["eye>ear"]["size"] == mixed["arm+pad>eye"]["size"] == 15


def test_what_no_log_has_is_not_known_and_the_table_shows_it(run):
    logs = [body_log(n, seconds=1.0) for n in range(11)]
    for log in logs:
        log.streams = {name: stream for name, stream in log.streams.items() if name != "arm"}
    for routes in ([(("eye",), ("arm",))], [(("eye",), ("arm",)), (("eye",), ("ear",))]):
        found = retrieve(run, logs, routes=routes)
        entry = found["pairs"]["eye>arm"]
        assert (entry["skill"], entry["median_rank"], entry["recall"]["1"]["mean"], entry["size"]) == (None,) * 3 + (0,)
        shown = io.StringIO()
        Console(file=shown, width=80).print(rich_table(json.loads(json.dumps(found, allow_nan=False))))
        assert next(x for x in shown.getvalue().splitlines() if x.startswith("eye")).split()[2:] == ["-"] * 5
        assert "eye → arm" in retrieval_html(found)
    assert found["mean"]["skill"] == found["pairs"]["eye>ear"]["skill"]


def test_retrieval_says_what_it_was_made_of(run):
    logs = [body_log(n, seconds=1.0) for n in range(11)]
    found, other = (retrieve(run, some, routes=[(("eye",), ("arm",))], seed=3) for some in (logs, logs[1:]))
    made = found["provenance"]
    assert made["weights"] == weights_fingerprint(run.model)
    assert made["retrieval"]["seed"] == 3
    assert made["retrieval"]["logs"]["test"]["count"] == 11
    assert made["retrieval"]["logs"] != other["provenance"]["retrieval"]["logs"]


def test_the_tables_say_whether_windows_or_recordings_are_told_apart(run):
    words = {3: "9 windows of 3 recordings", 11: "those of 11 recordings"}
    for count, among in words.items():
        found = retrieve(run, [body_log(n, seconds=3.0) for n in range(count)], routes=[(("eye",), ("arm",))])
        assert found["among"] == among
        assert str(rich_table(found).title).endswith(f"among {among}")
        assert f"among {among}" in retrieval_html(found)


def test_what_is_not_in_the_context_cannot_change_a_route(run):
    logs = [body_log(n, seconds=1.0) for n in range(11)]
    route = ("eye", "pad"), ("arm",)
    before = retrieve(run, logs, routes=[route])
    for log in logs:
        kind, rate, times, sound = log.streams["ear"]
        log.streams = {**log.streams, "ear": (kind, rate, times, np.zeros_like(sound))}
    assert retrieve(run, logs, routes=[route])["pairs"] == before["pairs"]


def test_the_true_latents_find_themselves_and_the_table_shows_it(run, monkeypatch):
    def truth(batch, context, target):
        tokens = run.objective.predict_tokens(run.objective.teacher.tokenize(batch), context, target)
        return tokens[1], tokens[1], tokens[2]

    monkeypatch.setattr(run.objective, "predict_sensor", truth)
    found = retrieve(run, [body_log(n) for n in range(12)], routes=routes_of(run.model.names))
    assert all(entry["recall"]["1"]["mean"] == 1.0 for entry in found["pairs"].values())
    assert all(entry["skill"] == pytest.approx(1.0) for entry in found["pairs"].values())
    shown = io.StringIO()
    Console(file=shown, width=80).print(rich_table(found))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert next(line for line in lines if line.startswith("chance")).split() == [
        "chance",
        ".08",
        ".42",
        ".83",
        "6.5",
        ".00",
    ]
    assert sum(line.startswith("mean") for line in lines) == 3
    assert torch.is_grad_enabled()
