"""A log that is being recorded is embedded as it grows, to what it is embedded to in the end."""

import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ArrayLog, body_log
from test_embed import make_run, read

from multisense.embed import embed_logs, read_settings
from multisense.follow import follow
from multisense.logs import LogError, LogWriter, open_log

SECONDS = 3.0


def record(path: Path, log: ArrayLog, pace: float) -> None:
    """Appends the log in pieces of a tenth of a second, `pace` times as fast as it happened."""
    with LogWriter(path, flush_s=0.2) as writer:
        for name, (modality, rate, _, data) in log.streams.items():
            media = "eye.mp4" if name == "eye" else ""
            writer.add_sensor(name, modality, rate, data.shape[1:], data.dtype, media=media)
        for step in range(round(SECONDS * 10)):
            for name, (_, _, times, data) in log.streams.items():
                now = (times >= step / 10 - 1e-9) & (times < (step + 1) / 10 - 1e-9)
                writer.append(name, data[now], times[now] if name != "ear" else float(times[now][0]))
            time.sleep(0.1 / pace)


def test_a_recording_is_embedded_while_it_happens(tmp_path: Path):
    run, path = make_run(), tmp_path / "live.h5"
    writer = threading.Thread(target=record, args=(path, body_log(0), 2.0))
    writer.start()
    followed = follow(run, path, tmp_path / "live-embedded.h5", stride_s=0.5)
    writer.join()
    assert followed.windows == 5
    assert followed.latencies_s.shape == (5,)
    assert (followed.latencies_s > 0).all()
    assert "p95" in str(followed)
    embed_logs(run, [open_log(path)], tmp_path / "after.h5", stride_s=0.5)
    live, after = read(tmp_path / "live-embedded.h5"), read(tmp_path / "after.h5")
    assert live.keys() == after.keys()
    for name in live:
        np.testing.assert_allclose(live[name], after[name], atol=1e-5, err_msg=name)
    assert read_settings(tmp_path / "live-embedded.h5") == read_settings(tmp_path / "after.h5")


def test_a_sensor_that_comes_late_neither_skips_nor_repeats_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("multisense.follow.PATIENCE_S", 0.5)  # of the recording; after it, windows do without
    run, path, out = make_run(), tmp_path / "live.h5", tmp_path / "out.h5"
    log = body_log(0)
    late = log.streams["pad"]
    here = late[2] >= 1.7
    log.streams["pad"] = (*late[:2], late[2][here], late[3][here])
    writer = threading.Thread(target=record, args=(path, log, 1.0))
    writer.start()
    follow(run, path, out, stride_s=0.25)
    writer.join()
    starts = read(out)["live/starts_s"]
    assert starts[0] < 0.5  # it did not wait for ever
    assert (np.diff(starts) > 0).all()
    assert starts[-1] > 1.7
    after = embed_logs(run, [open_log(path)], tmp_path / "after.h5", stride_s=0.25).path
    assert set(np.round(read(after)["live/starts_s"], 6)) <= set(np.round(starts, 6))


def test_a_reader_of_the_output_is_waited_for(tmp_path: Path):
    run, path, out = make_run(), tmp_path / "live.h5", tmp_path / "out.h5"
    record(path, body_log(0), 100.0)

    def hold() -> None:
        while not out.exists():
            time.sleep(0.005)
        with h5py.File(out):
            time.sleep(0.5)

    reader = threading.Thread(target=hold)
    reader.start()
    assert follow(run, path, out).windows == 5
    reader.join()


def test_the_first_windows_do_not_wait_for_the_end(tmp_path: Path):
    run, path, out = make_run(), tmp_path / "live.h5", tmp_path / "out.h5"
    writer = threading.Thread(target=record, args=(path, body_log(0), 1.0))
    writer.start()
    follower = threading.Thread(target=follow, args=(run, path, out))
    follower.start()
    seen = 0
    while writer.is_alive() and not seen:
        time.sleep(0.05)
        if out.exists():
            try:
                with h5py.File(out) as file:
                    seen = len(file["live/starts_s"]) if "live/starts_s" in file else 0
            except OSError:  # it is being written
                continue
    assert seen
    assert writer.is_alive()
    writer.join()
    follower.join()


def test_what_cannot_be_followed_is_told(tmp_path: Path):
    run = make_run()
    with pytest.raises(LogError, match=r"nothing.h5: no readable log appeared in 0.2 s; is it being recorded"):
        follow(run, tmp_path / "nothing.h5", tmp_path / "out.h5", wait_s=0.2)
    (tmp_path / "there.h5").touch()
    with pytest.raises(ValueError, match=r"there.h5: exists already"):
        follow(run, tmp_path / "nothing.h5", tmp_path / "there.h5")
    with LogWriter(tmp_path / "short.h5") as writer:
        writer.add_sensor("arm", "proprio", 100.0, (2,), "float32")
        writer.append("arm", np.zeros((200, 2)), np.arange(200) / 100)
    with pytest.raises(LogError, match=r"sensor 'arm' has shape \(2,\), the run was made for \(3,\)"):
        follow(run, tmp_path / "short.h5", tmp_path / "out.h5")
