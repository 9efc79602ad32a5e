"""The report: one page that loads nothing, parses, and says what the numbers allow."""

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import body_log
from test_evaluate_ablation import planted

from multisense.evaluate.report import Findings, read_metrics, verdict, write_report
from multisense.inspect.pictures import curves, intervals, recording
from multisense.types import Label

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Strict(HTMLParser):
    """Every element that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def retrieval(names: tuple[str, ...]) -> dict:
    recall = {k: {"mean": 0.4, "low": 0.3, "high": 0.5, "chance": int(k) / 50} for k in ("1", "5", "10")}
    entry = {"skill": 0.3, "recall": recall, "median_rank": 7.0, "chance_rank": 25.5}
    return {"pairs": {f"{a}>{b}": entry for a in names for b in names if a != b}, "mean": entry, "gallery": 50}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("report")
    (out / "metrics.jsonl").write_text(
        '{"step": 10, "loss": 1.0, "skill/eye": 0.1}\n{"step": 20, "loss": 0.5, "rank/eye": 9}\n'
    )
    log = body_log(3)
    times = np.arange(30) / 10
    log.labels = {"contact": Label("contact", (times > 1).astype(int), times, "max", ("no", "yes"))}
    found = Findings(
        "a <title> & more", log, ("eye", "ear", "pad", "arm"), read_metrics(out), planted()[0],
        retrieval(("eye", "ear")), {"train": 12.0}, {"seed": 0},
    )  # fmt: skip
    write_report(found, out / "report.html")
    return (out / "report.html").read_text()


def test_the_page_loads_nothing_and_is_well_formed(page):
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert all(link.startswith("data:image/png;base64,") for link in parser.links)
    assert "script" not in parser.seen
    assert not re.search(r"@import|url\(|https?://", page)
    assert "a &lt;title&gt; &amp; more" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_holds_every_part(page):
    for words in ("What was recorded", "What was learned", "Which sense mattered", "Does one sense know another"):
        assert words in page
    assert "multisense ablate" in page
    assert page.count("<svg") == 5, "recording, loss, skill, rank, overview"


def test_theverdict_says_no_more_than_the_intervals():
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
