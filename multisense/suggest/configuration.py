"""Logs -> the text of a configuration that trains as it is, and that a person can go on from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from multisense.config import ConfigError
from multisense.inspect.align import is_command
from multisense.inspect.info import sample_bytes
from multisense.logs.base import LogError, SensorLog
from multisense.logs.open import open_logs
from multisense.run import write_atomically
from multisense.suggest.kinds import by
from multisense.suggest.senses import Sense, clip_seconds, find_senses, lengths, without_slow
from multisense.suggest.settings import Setting, cut, is_ever_whole
from multisense.suggest.text import Line, render

HOLD_OUT_SHARE = 0.15
LEAST_LOGS = 4
"""With fewer, none can be spared."""
MEMORY_BYTES = 4e9
MODELS = ((0.1, 96, 3, 3), (1.0, 128, 3, 4), (10.0, 128, 4, 4), (50.0, 192, 4, 6), (np.inf, 256, 6, 8))
"""(hours of data up to which, width, depth, heads): a model of many weights learns few logs by heart."""
BATCH = 32
PASSES = 20
"""How often training sees every second, give or take."""
STEPS = 300, 5000
CLIPS_PER_S = 25
"""About 100 tokens a clip, on two cores."""
TESTS = ("test", "val", "validation", "held_out")
KIND_ORDER = ("video", "audio", "touch", "proprio")


def write_config(path: str, out: Path) -> None:
    """Write the configuration suggested for the logs at `path` into the new file `out`.

    Where `path` is, or holds, a folder `train` beside a folder `test`, the logs of the latter are the test logs.
    Raises LogError where the logs cannot be opened or learnt from, ConfigError where `out` exists.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"{out}: exists already; remove it or write elsewhere")
    train, test = _folders(path)
    text = suggest(open_logs(train), train, test, open_logs(test) if test else ())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)


def _folders(path: str) -> tuple[str, str | None]:
    """The places of the training logs and, if there is one, of the test logs."""
    folder = Path(path)
    for name in TESTS:
        if folder.name == "train" and folder.with_name(name).is_dir():
            return path, str(folder.with_name(name))
        if (folder / "train").is_dir() and (folder / name).is_dir():
            return str(folder / "train"), str(folder / name)
    return path, None


def suggest(logs: Sequence[SensorLog], train: str, test: str | None = None, others: Sequence[SensorLog] = ()) -> str:
    """The YAML text of a configuration for `logs`, which lie at `train`; `others` lie at `test`.

    Raises LogError where there is nothing to learn from.
    """
    held = [] if test else hold_out([log.name for log in logs])
    own = [log for log in logs if log.name not in held]
    every = [*logs, *others]
    senses, left_out = find_senses(own, every)
    _refuse_none(senses, left_out, train)
    seconds, why = clip_seconds(senses, own)
    senses, slow = without_slow(senses, seconds)
    cuts, refused = cut(senses, seconds)
    broken = [s.name for s in senses if s.name in cuts and not is_ever_whole(s, cuts[s.name], seconds, own)]
    refused |= dict.fromkeys(broken, "gaps or NaN in every token of it that was looked at")
    senses = sorted((s for s in senses if s.name not in refused), key=lambda s: KIND_ORDER.index(s.guess.kind))
    left_out |= slow | refused
    _refuse_none(senses, left_out, train)
    _refuse_strangers(senses, every)
    data = [Setting("clip_seconds", seconds, why), _in_memory(senses, own, cuts)]
    lines = [
        *_head(train, test, held, len(logs), data),
        *_sensors(senses, cuts),
        *_learning(senses, own, seconds),
    ]
    return render(lines, left_out, f"Written by `multisense init` for {len(logs)} logs in {train}")


def hold_out(names: Sequence[str]) -> list[str]:
    """A share of the names, at even steps: names often begin with what a log is about."""
    count = max(round(HOLD_OUT_SHARE * len(names)), 1) if len(names) >= LEAST_LOGS else 0
    return [sorted(names)[(i + 1) * len(names) // count - 1] for i in range(count)]


def _refuse_none(senses: Sequence[Sense], left_out: Mapping[str, str], train: str) -> None:
    if not senses:
        shown = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise LogError(f"{train}: found no sensor that can be learnt from ({shown}); expected at least one")


def _refuse_strangers(senses: Sequence[Sense], logs: Sequence[SensorLog]) -> None:
    strangers = [log for log in logs if not any(sense.name in log.sensors for sense in senses)]
    if strangers:
        raise LogError(
            f"{strangers[0].path}: {len(strangers)} of {len(logs)} logs have none of the sensors "
            f"{[sense.name for sense in senses]} of the others, but {list(strangers[0].sensors)}; keep logs of one body "
            f"in a folder of their own"
        )


def _in_memory(senses: Sequence[Sense], logs: Sequence[SensorLog], cuts: Mapping[str, list[Setting]]) -> Setting:
    """Whether the logs, decoded, fit: frames at the size chosen, at the rate recorded, and every time stamp."""
    total = 0.0
    for sense in senses:
        size = next((setting.value for setting in cuts[sense.name] if setting.key == "size"), None)
        sample = sample_bytes(sense.info) if size is None else 3 * size[0] * size[1]
        total += sum(info.count for info in sense.infos) * (sample + 8)
    shown = f"{total / 1e9:.2g} GB decoded" if total >= 1e8 else f"{total / 1e6:.2g} MB decoded"
    if total < MEMORY_BYTES:
        return Setting("in_memory", True, f"{shown}, read once")
    return Setting("in_memory", False, f"{shown}; faster from `multisense import --size 64x64`")


def _head(train: str, test: str | None, held: Sequence[str], count: int, data: Sequence[Setting]) -> list[Line]:
    lines: list[Line] = [
        (0, Setting("data", None, "")),
        (1, Setting("train", train, "seen from where the command is run")),
    ]
    if test:
        lines.append((1, Setting("test", test, "a folder of its own, never trained on")))
    elif held:
        why = f"{len(held)} of {count} logs, never trained on: `ablate` asks them"
        lines += [(1, Setting("hold_out", None, why)), *((2, Setting("-", name, "")) for name in held)]
    else:
        lines.append((1, Setting("hold_out", [], f"doubtful: {count} log(s) are too few to spare one for tests")))
    return [*lines, *((1, setting) for setting in data)]


def _sensors(senses: Sequence[Sense], cuts: Mapping[str, list[Setting]]) -> list[Line]:
    lines: list[Line] = [(0, Setting("sensors", None, ""))]
    for sense in senses:
        units = f" ({sense.info.units})" if sense.info.units else ""
        doubt = "; doubtful: by its name a command, no sense" if is_command(sense.name) else ""
        lines.append((1, Setting(sense.name, None, f"{by(sense.info.shape)} {sense.info.dtype}{units}{doubt}")))
        lines += [(2, setting) for setting in cuts[sense.name]]
    return lines


def _learning(senses: Sequence[Sense], logs: Sequence[SensorLog], seconds: float) -> list[Line]:
    """Model, objective and training, from how much data there is."""
    total = sum(lengths(senses, logs))
    width, depth, heads = next(model[1:] for model in MODELS if total / 3600 <= model[0])
    steps = int(np.clip(round(PASSES * total / seconds / BATCH, -2), *STEPS))
    many = len(logs) >= 4 * BATCH
    minutes = steps * BATCH / CLIPS_PER_S / 60
    return [
        (0, Setting("model", None, f"for {_duration(total)} of data")),
        (1, Setting("width", width, "numbers in a token")),
        (1, Setting("depth", depth, "blocks")),
        (1, Setting("heads", heads, "of attention in a block")),
        (1, Setting("step_s", float(f"{seconds / 10:.3g}"), "seconds in a step of the per-time embedding")),
        (0, Setting("objective", None, "")),
        (1, Setting("signal", 5.0, "also predict the hidden signal itself: keeps few logs from teaching only what is easy")),
        (1, Setting("contrast", 0.3 if many else 0.1,
                    "also tell clips apart" + ("" if many else "; little, as many clips of a batch are of one log"))),
        (1, Setting("masks", {"masks_per_clip": 2}, "two share a pass of the teacher")),
        (0, Setting("train", None, "")),
        (1, Setting("steps", steps, f"{_passes(steps, total / seconds)}; about {minutes:.0f} minutes on two cores")),
        (1, Setting("batch_size", BATCH, "clips a step, for a laptop's memory")),
    ]  # fmt: skip


def _passes(steps: int, clips: float) -> str:
    """How often every second is seen, and why not PASSES times."""
    passes = f"every second is seen about {float(f'{steps * BATCH / clips:.2g}'):g} times"
    bound = {STEPS[0]: ", for fewer steps teach little", STEPS[1]: ", for more steps take hours"}
    return passes + bound.get(steps, "")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.3g} hours" if seconds >= 3600 else f"{seconds / 60:.3g} minutes"
