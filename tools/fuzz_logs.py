"""Damage logs and read them: `python tools/fuzz_logs.py --mutations 2000 --seed 0 [--format ros1] [--replay CASE]`.

A small valid log of every format is changed by chance, as wear or malice would, and then opened with `survey_logs` and
read, each time in a process of its own with 10 s and 1 GiB more memory than before. It must give data that agree with what
the log says of itself, or LogError; nothing beside its folder may be opened or made. Everything else is a failure, kept
below --out with its case number, by which --replay repeats it in sight. Links of the file system to other folders are not
tried: they are the user's own, and a downloaded data set is made of them.

Linux only: it forks, and the kernel tells what is opened.
"""

import argparse
import ctypes
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fuzz_mutations import mutate
from fuzz_seeds import FORMATS

from multisense.logs import LogError, SensorLog, survey_logs
from multisense.logs.pool import POOL

SECONDS, MORE_BYTES = 10, 1 << 30
WHOLE_BYTES = 1 << 26
"""A sensor that says it is no larger is read as a whole."""
OPENED, WRITTEN, MADE = 0x20, 0x2, 0x100 | 0x80 | 0x200
"""Of inotify: IN_OPEN, IN_MODIFY, IN_CREATE | IN_MOVED_TO | IN_DELETE."""
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "os.remove", "os.rename", "os.rmdir")
"""Audit events that no reader may cause."""
CASES = 10**6
"""Case numbers of one seed."""


@dataclass(frozen=True)
class Outcome:
    kind: str
    """One of data, LogError and failure."""
    detail: str
    seconds: float
    grown_bytes: int


class Yard:
    """A folder with the log under test (`case`), and one beside it that nobody may look into (`outside`)."""

    def __init__(self, root: Path) -> None:
        self.root, self.case, self.outside, self.seeds = (root / n for n in ("", "yard/case", "yard/outside", "seeds"))
        self.memory = self.root / "memory"
        self.outside.mkdir(parents=True)
        write_bait(self.outside)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._events = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch(self.outside, OPENED | WRITTEN | MADE)
        self._watch(self.root / "yard", MADE)

    def prepare(self, form: str) -> None:
        """Write the valid log of a format, unless it is there."""
        if not (self.seeds / form).exists():
            (self.seeds / form).mkdir(parents=True)
            FORMATS[form](self.seeds / form)

    def fresh(self, form: str) -> None:
        """Put a copy of the valid log to the place of the case."""
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.seeds / form, self.case)
        self.disturbed()

    def disturbed(self) -> str:
        """The names that were opened or made where nothing may be, since the last call."""
        names = []
        try:
            data = os.read(self._events, 1 << 16)
        except BlockingIOError:
            return ""
        while data:
            _, mask, _, length = struct.unpack_from("<iIII", data)
            names.append(f"{data[16 : 16 + length].rstrip(bytes(1)).decode()} ({mask:#x})")
            data = data[16 + length :]
        return ", ".join(sorted(set(names)))

    def _watch(self, folder: Path, mask: int) -> None:
        if self._libc.inotify_add_watch(self._events, str(folder).encode(), mask) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")


def write_bait(folder: Path) -> None:
    """Valid files that a hostile name may lead to."""
    FORMATS["native"](folder)
    (folder / "body.h5").rename(folder / "secret.h5")
    next(folder.glob("*.mp4")).rename(folder / "secret.mp4")
    (folder / "secret.txt").write_bytes(np.arange(100.0).tobytes())


def run_case(yard: Yard, number: int, form: str) -> Outcome:
    """One mutation, read by a child of this process; the mutated log stays in `yard.case`."""
    out, answer = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.close(out)
        try:
            attempt(yard, number, form, lambda text: os.write(answer, text.encode(errors="replace")[:30_000]))
        except BaseException:
            traceback.print_exc()
        finally:  # a child must not go on as if it were its parent
            os._exit(0)
    os.close(answer)
    with os.fdopen(out, "rb") as lines:
        text = lines.read().decode(errors="replace")
    _, status, usage = os.wait4(child, 0)
    seconds, (before, _, text) = time.monotonic() - began, text.partition("\n")
    grown = usage.ru_maxrss * 1024 - int(before or 0)
    kind, _, detail = text.rpartition("\0")[2].partition("\n")
    if not kind:
        kind, detail = "failure", f"no answer\n{text}"
    if os.WIFSIGNALED(status):
        what = signal.Signals(os.WTERMSIG(status)).name
        kind, detail = "failure", f"{'no end after 10 s' if what == 'SIGALRM' else f'killed by {what}'}\n{text}"
    if grown > MORE_BYTES:
        kind, detail = "failure", f"{grown >> 20} MiB of memory\n{text}"
    if names := yard.disturbed():
        kind, detail = "failure", f"opened or made outside: {names}\n{text}"
    return Outcome(kind, detail, seconds, max(grown, 0))


def attempt(yard: Yard, number: int, form: str, say: Callable[[str], object]) -> None:
    """In the child: mutate, read, and say what came of it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.environ["MULTISENSE_CACHE"] = str(yard.memory)
    yard.fresh(form)
    what = mutate(yard.case, yard.outside, np.random.default_rng(number)).replace("\0", "\\0")
    yard.disturbed()
    say(f"{resident_bytes()}\n{what}\0")
    limit = virtual_bytes() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    guard = Guard(yard)
    sys.addaudithook(guard)
    signal.alarm(SECONDS)
    try:
        read_count, error = read_all(target(yard.case, number))
    except LogError as refused:
        read_count, error = 0, str(refused)
    except BaseException:
        say(f"failure\n{traceback.format_exc()[-8000:]}\n{what}")
        return
    if guard.broken:
        say(f"failure\nwhat no reader may do: {guard.broken}\n{what}")
        return
    say(f"data\n{read_count} sensors\n{what}" if read_count else f"LogError\n{error[:500]}\n{what}")


class Guard:
    """An audit hook: no file is opened outside the log's folder, but those of Python and its packages; none is written,
    but what multisense remembers."""

    def __init__(self, yard: Yard) -> None:
        self.memory = os.path.realpath(yard.memory)
        homes = (yard.case, sys.prefix, sys.base_prefix, Path(__file__).parents[1], "/proc/self", "/dev/null")
        self.allowed = tuple(os.path.realpath(home) for home in homes)
        self.broken: list[str] = []

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in FORBIDDEN and not str(next(iter(arguments), "")).startswith(self.memory):
            self.broken.append(f"{event} {arguments!r:.200}")
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            is_writing = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)) and not path.startswith("/dev/")
            if not path.startswith(self.memory) and (is_writing or not path.startswith(self.allowed)):
                self.broken.append(f"open {path} (mode {arguments[1]}, flags {arguments[2]})")


def target(case: Path, number: int) -> Path:
    """The folder, or the one file or folder in it."""
    inner = sorted(case.iterdir())
    return inner[0] if len(inner) == 1 and number // len(FORMATS) % 2 else case


def read_all(path: Path) -> tuple[int, str]:
    """How many sensors gave data, and an error of those that did not."""
    logs, errors = survey_logs(path)
    count, said = 0, [str(error) for error in errors.values()]
    for log in logs[:4]:
        log.fingerprint()
        for name in log.sensors:
            try:
                count += read_sensor(log, name)
            except LogError as error:
                said.append(str(error))
    return count, "\n".join(said)


def read_sensor(log: SensorLog, name: str) -> bool:
    """Read the beginning, the middle and, where it is small, the whole; they must be as the log says."""
    info = log.sensors[name]
    middle = (info.start_s + info.stop_s) / 2
    ranges = [
        (info.start_s, info.start_s + min(1.0, 50 / info.rate_hz)),
        (middle, middle + min(0.5, 20 / info.rate_hz)),
    ]
    size = info.count * int(np.prod([int(side) for side in info.shape], dtype=object)) * np.dtype(info.dtype).itemsize
    if size <= WHOLE_BYTES:
        ranges.append((-np.inf, np.inf))
    for start, stop in ranges:
        stream = log.read(name, start, stop)
        times = stream.times_s
        assert times.dtype == np.float64
        assert np.isfinite(times).all()
        assert (np.diff(times) > 0).all(), f"{name}: times that do not increase"
        assert ((times >= start) & (times < stop)).all(), f"{name}: times outside [{start}, {stop})"
        assert stream.data.shape == (len(times), *info.shape), f"{name}: {stream.data.shape} for {info}"
        assert stream.data.dtype == info.dtype, f"{name}: {stream.data.dtype} for {info}"
    assert size > WHOLE_BYTES or len(times) == info.count, f"{name}: {len(times)} of {info}"
    return True


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def warm(yard: Yard, forms: Iterable[str]) -> None:
    """Write and read each valid log once, so that no child has to import what its readers need."""
    for form in forms:
        yard.prepare(form)
        count, error = read_all(yard.seeds / form)
        if error or not count:
            raise SystemExit(f"{form}: the undamaged log gives {count} sensors and {error!r}")
    POOL.close()


def keep(yard: Yard, folder: Path, number: int, outcome: Outcome) -> None:
    place = folder / str(number)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "report.txt").write_text(outcome.detail)
    for file in yard.case.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 24:
            copy = place / "case" / file.relative_to(yard.case)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def report(outcomes: dict[str, list[Outcome]]) -> None:
    print(f"{'format':12} {'data':>6} {'LogError':>9} {'failure':>8} {'worst s':>8} {'worst MiB':>10}")
    rows = [*outcomes.items(), ("all", [outcome for found in outcomes.values() for outcome in found])]
    for form, found in rows:
        kinds = Counter(outcome.kind for outcome in found)
        seconds, grown = max(o.seconds for o in found), max(o.grown_bytes for o in found) >> 20
        counts = f"{kinds['data']:6} {kinds['LogError']:9} {kinds['failure']:8}"
        print(f"{form:12} {counts} {seconds:8.2f} {grown:10}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=sorted(FORMATS), help="only this one")
    parser.add_argument("--replay", type=int, metavar="CASE", help="run one case and print what it says")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failures are kept")
    given = parser.parse_args()
    first, names = given.seed * CASES, list(FORMATS)
    numbers: Iterable[int] = range(first, first + CASES)
    if given.format:
        numbers = numbers[names.index(given.format) :: len(names)]
    numbers = [given.replay] if given.replay is not None else numbers[: given.mutations]
    form_of = {number: names[number % CASES % len(names)] for number in numbers}
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as root:
        yard = Yard(Path(root))
        warm(yard, dict.fromkeys(form_of.values()))
        for number, form in form_of.items():
            outcome = run_case(yard, number, form)
            outcomes[form].append(outcome)
            if outcome.kind == "failure":
                keep(yard, given.out, number, outcome)
            if outcome.kind == "failure" or given.replay is not None or outcome.seconds > SECONDS / 2:
                print(
                    f"case {number} ({form}): {outcome.kind} in {outcome.seconds:.1f} s, {outcome.detail.strip()}\n",
                    flush=True,
                )
    report(outcomes)
    if any(outcome.kind == "failure" for found in outcomes.values() for outcome in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
