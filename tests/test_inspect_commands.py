"""`info`, `check`, `align` and `import` as a user types them, on logs with a planted fault."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import body_log, body_tree
from test_cli import run

from multisense.logs import Recording, open_logs, write_log


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
    assert all(word in shown for word in ("eye", "ear", "pad", "arm", "8000"))
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
        self.addresses += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")]
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
