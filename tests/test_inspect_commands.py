"""`info`, `check`, `align` and `import` as a user types them, on logs with a planted fault."""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import body_log, body_tree, vector
from rich.console import Console
from test_cli import run
from test_inspect_align import body, stamped

from multisense.logs import LogWriter, Recording, open_logs, write_log


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for number in range(8):
        log = body_log(number)
        streams = {n: Recording(m, r, d, times_s=t) for n, (m, r, t, d) in log.streams.items()}
        write_log(folder / f"{log.name}.h5", streams, log.labels.values())
    return folder


@pytest.fixture
def faulty(clean: Path, tmp_path: Path) -> Path:
    """One log in which the arm reads NaN for a while."""
    shutil.copytree(clean, tmp_path / "faulty")
    log = body_log(9)
    streams = {n: Recording(m, r, d.copy(), times_s=t) for n, (m, r, t, d) in log.streams.items()}
    streams["arm"].data[100:150] = np.nan
    write_log(tmp_path / "faulty" / "bad.h5", streams)
    return tmp_path / "faulty"


def test_info_prints_tables_or_json(clean: Path, monkeypatch, capsys):
    status, shown, _ = run(monkeypatch, capsys, "info", clean)
    assert status == 0
    assert all(word in shown for word in ("eye", "ear", "pad", "arm", "8,000"))
    status, shown, _ = run(monkeypatch, capsys, "info", clean, "--json")
    tree = json.loads(shown)
    assert tree["total"]["logs"] == 8
    assert tree["total"]["hours"] == pytest.approx(8 * 3 / 3600, rel=0.05)


def test_bandwidth_counts_the_tokens_of_a_run(clean: Path, tmp_path: Path, monkeypatch, capsys):
    tree = body_tree(steps=1, batch_size=2)
    tree["data"]["train"] = str(clean)
    (tmp_path / "body.yaml").write_text(json.dumps(tree))
    assert run(monkeypatch, capsys, "train", tmp_path / "body.yaml", "--out", tmp_path / "run")[0] == 0
    words = ("info", clean, "--json", "--bandwidth", "--run", tmp_path / "run", "--picture", tmp_path / "b.png")
    status, shown, said = run(monkeypatch, capsys, *words)
    assert status == 0, said
    found = json.loads(shown)["bandwidth"]["modalities"]
    assert found["proprio"]["tokens"] == 5  # patches of 0.2 s
    assert found["proprio"]["token_bytes"] == 5 * 32 * 2
    assert found["video"]["lossless"] < found["video"]["raw"]
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_check_of_clean_logs_ends_with_0(clean: Path, monkeypatch, capsys):
    status, shown, _ = run(monkeypatch, capsys, "check", clean, "--no-clocks")
    assert status == 0, shown


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.faults = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.addresses += [v for k, v in attrs if k in ("src", "href") and not v.startswith(("data:", "#"))]
        self.faults += given.get("class") == "fault"


def test_check_names_the_fault_ends_with_1_and_marks_it_on_the_page(faulty: Path, tmp_path: Path, monkeypatch, capsys):
    page = tmp_path / "check.html"
    status, shown, _ = run(monkeypatch, capsys, "check", faulty, "--html", page)
    assert status == 1
    assert "nan" in shown
    read = Page(page.read_text())
    assert read.addresses == []
    assert read.faults >= 1
    assert "bad" in page.read_text()


def damaged(video: Path) -> None:
    data = bytearray(video.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    video.write_bytes(data)


def test_findings_are_shown_though_a_video_is_damaged(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("multisense.cli.console", Console(width=200))
    for number in range(3):
        log = body_log(number)
        streams = {n: Recording(m, r, d, times_s=t) for n, (m, r, t, d) in log.streams.items()}
        write_log(tmp_path / f"{number}.h5", {**streams, "eye": replace(streams["eye"], media="eye.mp4")})
    damaged(tmp_path / "1.eye.mp4")
    status, shown, said = run(monkeypatch, capsys, "check", tmp_path)
    assert status == 1, said
    assert "cannot decode" in shown
    assert "clocks against arm" in shown  # of the other logs


def test_a_log_of_another_shape_does_not_end_the_comparison(clean: Path, tmp_path: Path, monkeypatch, capsys):
    shutil.copytree(clean, tmp_path / "logs")
    log = body_log(9)
    streams = {n: Recording(m, r, d, times_s=t) for n, (m, r, t, d) in log.streams.items()}
    streams["arm"] = replace(streams["arm"], data=streams["arm"].data[:, :2])
    write_log(tmp_path / "logs" / "odd.h5", streams)
    status, shown, said = run(monkeypatch, capsys, "check", tmp_path / "logs")
    assert status == 1, said
    assert "expected (3,) as in most logs" in " ".join(shown.split())
    assert "clocks against arm" in shown


def test_info_of_nothing_readable_is_an_error_without_empty_tables(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    status, shown, _ = run(monkeypatch, capsys, "info", tmp_path)
    assert status == 1
    assert shown.startswith("unreadable: a")


def test_no_clocks_to_compare_is_said(tmp_path: Path, monkeypatch, capsys):
    write_log(tmp_path / "a.h5", {"arm": vector()})
    status, shown, _ = run(monkeypatch, capsys, "check", tmp_path)
    assert status == 0
    assert "clocks not compared: sensors without errors, in 1 log: 1, of two needed" in shown


@pytest.mark.filterwarnings("ignore::multisense.logs.RecorderWarning")
def test_an_unfinished_recording_is_checked_and_what_it_lost_is_told(tmp_path: Path, monkeypatch, capsys):
    """A live log is to a reader what a killed one is."""
    monkeypatch.setattr("multisense.cli.console", Console(width=200))
    rng = np.random.default_rng(0)
    with LogWriter(tmp_path / "live.h5", queue_bytes=1, patience_s=60.0) as writer:
        writer.add_sensor("arm", "proprio", 100.0, (2,), "float64")
        writer.add_sensor("eye", "video", 20.0, (64, 64, 3), "uint8", media="eye.mp4")
        writer.append("eye", rng.integers(0, 255, (40, 64, 64, 3), np.uint8), np.arange(40) / 20)
        writer.append("arm", rng.normal(size=(200, 2)), np.arange(200) / 100)
        writer.flush()
        for command in ("check", "info"):
            status, shown, said = run(monkeypatch, capsys, command, tmp_path)
            assert status == 0, said
            assert "ends with what was flushed last" in shown
        writer._patience_s, second = 0.0, 2
        while not writer.stats["arm"].dropped:
            writer.append("arm", rng.normal(size=(100, 2)), second + np.arange(100) / 100)
            second += 1
    for command in ("check", "info"):
        status, shown, said = run(monkeypatch, capsys, command, tmp_path)
        assert status == 0, said
        assert "100 samples left out while recording" in shown
        assert "flushed last" not in shown


def test_a_sensor_that_is_late_is_a_warning_also_on_the_page(tmp_path: Path, monkeypatch, capsys):
    for number in range(12):
        log = stamped(body(number), "ear", 0.25)
        streams = {n: Recording(m, r, d, times_s=t) for n, (m, r, t, d) in log.streams.items() if n != "eye"}
        write_log(tmp_path / "logs" / f"{log.name}.h5", streams)
    page = tmp_path / "page.html"
    status, shown, said = run(monkeypatch, capsys, "check", tmp_path / "logs", "--html", page)
    assert status == 0, said
    assert "warning" in shown
    assert "too late beside arm" in " ".join(shown.split())
    assert "skin" not in shown.partition("warning")[2]
    assert "<td class=warning>ear</td>" in page.read_text()
    assert "<td>skin</td>" in page.read_text()


def test_align_says_undetermined_with_a_reason(clean: Path, monkeypatch, capsys):
    status, shown, said = run(monkeypatch, capsys, "align", clean, "--sensors", "arm,pad,ear")
    assert status == 0, said
    assert "undetermined" in shown or "ms" in shown
    status, _, said = run(monkeypatch, capsys, "align", clean, "--reference", "nose")
    assert status == 1
    assert "reference 'nose'" in said


def test_import_makes_native_logs_at_a_size(clean: Path, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "native"
    status, shown, said = run(monkeypatch, capsys, "import", clean, "--out", out, "--size", "16x16", "--workers", 1)
    assert status == 0, said
    assert "8 logs" in shown
    assert open_logs(out)[0].sensors["eye"].shape == (16, 16, 3)
    assert (out / "manifest.json").exists()
    status, _, said = run(monkeypatch, capsys, "import", clean, "--out", out, "--size", "16")
    assert status == 1
    assert "HEIGHTxWIDTH" in said
