"""What `info` says, against logs whose content is known."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from multisense.inspect.info import info, info_tables, log_files, measured_hz, show_bytes
from multisense.logs import Recording, open_logs, write_log
from multisense.logs.foreign import ForeignLog, stamped
from multisense.types import SensorInfo


class Array:
    """Samples in memory."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data

    def read(self, first: int, last: int) -> np.ndarray:
        return self._data[first:last]


@pytest.fixture
def two_logs(tmp_path: Path) -> Path:
    """'a' has 40 frames at 20 Hz and 300 readings of 3 floats, taken 1 % faster than the 100 Hz they claim; 'ab' half."""
    for name, share in (("a", 1), ("ab", 2)):
        frames, rows = 40 // share, 300 // share
        recordings = {
            "eye": Recording(
                "video", 20.0, np.zeros((frames, 32, 48, 3), np.uint8), np.arange(frames) / 20, media="e.mp4"
            ),
            "arm": Recording("proprio", 100.0, np.zeros((rows, 3), np.float32), np.arange(rows) / 101, units="rad"),
        }
        write_log(tmp_path / f"{name}.h5", recordings)
    return tmp_path


def test_facts_of_each_sensor(two_logs: Path):
    facts = info(open_logs(two_logs))
    first = {sensor.sensor: sensor for sensor in facts.logs[0].sensors}
    assert first["eye"].shape == (32, 48, 3)
    assert first["eye"].bytes == 40 * 32 * 48 * 3
    assert first["eye"].hours == pytest.approx(2 / 3600)
    assert first["arm"].rate_hz == 100
    assert first["arm"].measured_hz == pytest.approx(101)
    assert (first["arm"].units, first["arm"].bytes) == ("rad", 300 * 12)


def test_totals_are_the_sums_and_files_are_counted_once(two_logs: Path):
    facts = info(open_logs(two_logs))
    on_disk = {file.name: file.stat().st_size for file in two_logs.iterdir()}
    assert facts.bytes == 60 * 32 * 48 * 3 + 450 * 12
    assert facts.logs[0].stored_bytes == on_disk["a.h5"] + on_disk["a.e.mp4"]  # not those of 'ab'
    assert facts.stored_bytes == sum(on_disk.values())
    assert facts.hours == pytest.approx(sum(log.hours for log in facts.logs))


def test_logs_that_share_their_files_have_no_stored_bytes_of_their_own(two_logs: Path):
    data = Array(np.zeros((10, 2)))
    logs = [
        ForeignLog(n, str(two_logs / "a.h5"), [stamped("imu", np.arange(10.0), data, (2,), "float64", n)]) for n in "xy"
    ]
    facts = info(logs)
    assert [log.stored_bytes for log in facts.logs] == [None, None]
    assert facts.stored_bytes == sum(file.stat().st_size for file in log_files(str(two_logs / "a.h5")))


def test_what_a_reader_skipped_and_decided_is_told(tmp_path: Path):
    sensor = stamped("imu", np.arange(10.0), Array(np.zeros((10, 2))), (2,), "float64", "x")
    log = ForeignLog("x", str(tmp_path), [sensor], skipped={"text": "no numbers"}, notes={"imu": "bag time"})
    facts = info([log])
    assert facts.logs[0].skipped == {"text": "no numbers"}
    assert facts.logs[0].sensors[0].note == "bag time"
    shown = render(info_tables(facts))
    assert "no numbers" in shown
    assert "bag time" in shown


def test_a_rate_is_shown_as_measured_where_samples_are_missing(tmp_path: Path):
    times = np.concatenate([np.arange(100), np.arange(200, 300)]) / 100  # a gap of one second in three
    sensors = [stamped(n, t, Array(np.zeros((len(t), 2))), (2,), "float64", "x") for n, t in
               (("gap", times), ("whole", np.arange(300) / 100))]  # fmt: skip
    shown = render(info_tables(info([ForeignLog("x", str(tmp_path), sensors)])))
    assert "100 (66.6)" in shown
    assert shown.count("(") == 1


def test_as_json_and_as_tables(two_logs: Path):
    facts = info(open_logs(two_logs))
    tree = json.loads(json.dumps(facts.as_dict()))
    assert tree["total"] == {
        "logs": 2, "sensors": 2, "hours": facts.hours, "bytes": facts.bytes, "stored_bytes": facts.stored_bytes,
    }  # fmt: skip
    assert tree["logs"][1]["sensors"][0]["channels"] == []
    shown = render(info_tables(facts))
    for text in ("32 x 48 x 3", "rad", "video", show_bytes(facts.bytes)):
        assert text in shown


def test_a_single_sample_has_no_rate():
    assert measured_hz(SensorInfo("x", "", 10.0, (), "float32", 5.0, 5.1, 1)) is None


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1536, "1.54 kB"), (2e15, "2 PB")])
def test_bytes_for_people(count: float, text: str):
    assert show_bytes(count) == text


def render(tables: list) -> str:
    console = Console(width=200, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()
