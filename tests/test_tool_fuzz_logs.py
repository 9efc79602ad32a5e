"""The tool that damages logs: it sees what no reader may do, and in a short run no reader does it."""

import importlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
for package in ("pyarrow", "rosbags", "mcap", "mcap_protobuf", "zarr", "pyxdf", "pyulog", "google.protobuf"):
    pytest.importorskip(package)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the tool asks Linux what is opened"),
]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("fuzz_logs")


def fill() -> None:
    np.ones(1 << 30)


def connect() -> None:
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", 9), timeout=0.1)


OUTSIDE = Path("yard", "outside", "secret.h5")
CRIMES: dict[str, tuple[Callable[[Path], object], str]] = {
    "raises": (lambda root: [][0], "IndexError"),
    "hangs": (lambda root: time.sleep(60), "no end"),
    "crashes": (lambda root: os.abort(), "killed by SIGABRT"),
    "fills": (lambda root: fill(), "MemoryError"),
    "looks outside": (lambda root: h5py.File(root / OUTSIDE).close(), r"opened or made outside: secret\.h5"),
    "reads outside": (lambda root: (root / "other").read_bytes(), "what no reader may do: .*other"),
    "writes": (lambda root: (root / "yard" / "new").write_text("x"), "opened or made outside: new"),
    "calls": (lambda root: connect(), r"socket\.connect"),
}


@pytest.mark.parametrize("name", CRIMES)
def test_what_no_reader_may_do_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: ModuleType, name: str
) -> None:
    crime, seen = CRIMES[name]
    (tmp_path / "other").touch()
    yard = tool.Yard(tmp_path)
    yard.prepare("xdf")
    monkeypatch.setattr(tool, "SECONDS", 2)
    monkeypatch.setattr(tool, "read_all", lambda path: (bool(crime(tmp_path)) + 1, ""))
    outcome = tool.run_case(yard, 0, "xdf")
    assert outcome.kind == "failure"
    assert re.search(seen, outcome.detail, re.DOTALL)


def test_damage_of_any_format_gives_data_or_a_log_error(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "fuzz_logs.py"), "--mutations", "60", "--seed", "7"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--out", str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nall " in done.stdout
    assert not list(tmp_path.iterdir())
