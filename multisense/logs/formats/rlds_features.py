"""What a `features.json` of TFDS says: which features of an episode are sensors, which are labels, and their shapes."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from multisense.logs.base import log_error

FLAGS = ("is_first", "is_last", "is_terminal", "reward", "discount")
MAX_JSON = 1 << 24
"""Bytes above which a JSON file is refused."""


@dataclass(frozen=True)
class Signal:
    """A feature of `features.json` that is a sensor or a label."""

    key: str
    name: str
    kind: Literal["image", "numbers", "text"]
    shape: tuple[int, ...] = ()
    """Of a sample; -1 for a side that differs between data of this feature."""
    dtype: str = "uint8"


def signals_of(content: dict[str, Any], where: str) -> tuple[tuple[Signal, ...], dict[str, str]]:
    """(sensors and labels, {key: why it is neither})."""
    made = {key: _signal(key, node) for key, node in _leaves(content)}
    signals = [made[key] for key in sorted(made)]
    steps = [signal for signal in signals if isinstance(signal, Signal)]
    if not steps:
        fix = "Take the features.json that TFDS wrote with this data set."
        raise log_error(where, f"features {sorted(made)[:20]}", "steps/observation or steps/action", fix)
    return tuple(steps), {key: reason for key, reason in sorted(made.items()) if isinstance(reason, str)}


def _leaves(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, description) of the features inside the dictionaries and the one sequence of steps."""
    stack = [("", content)]
    while stack:
        key, node = stack.pop()
        children = _inside(node, "featuresDict", "features")
        if children:
            pairs = [(f"{key}/{name}".removeprefix("/"), child) for name, child in children.items()]
            stack += [(name, child) for name, child in pairs if isinstance(child, dict)]
        elif key == "steps":
            stack += [("steps/", child) for child in [_inside(node, "sequence", "feature")] if child]
        elif key:
            yield key.replace("//", "/"), node


def _signal(key: str, node: dict[str, Any]) -> Signal | str:
    group, _, name = key.partition("/")
    name = name.removeprefix("observation/").replace("/", "_")
    kind = next((kind for kind in ("image", "text", "tensor") if kind in node), "")
    if group != "steps" or name in FLAGS:
        return "bookkeeping"
    if kind == "text" and "instruction" in name:
        return Signal(key, name, "text")
    if not key.startswith(("steps/observation/", "steps/action")):
        return "neither an observation nor an action"
    shape, dtype = _shape(node.get(kind)), str(_inside(node, kind).get("dtype", "uint8"))
    if shape is None or kind not in ("image", "tensor"):
        return f"a {kind or 'feature'} without numbers"
    if kind == "image":
        is_rgb = dtype == "uint8" and len(shape) == 3 and shape[2] in (1, 3)
        return Signal(key, name, "image", shape) if is_rgb else f"an image of {dtype} and shape {shape}"
    if node["tensor"].get("encoding", "none") != "none" or not re.fullmatch(r"(float|int|uint)(8|16|32|64)", dtype):
        return f"a tensor of {dtype}, encoded by {node['tensor'].get('encoding', 'none')}"
    if not dtype.startswith("float") and math.prod(shape) == 1:
        return f"a single {dtype}"
    return Signal(key, name, "numbers", shape or (1,), dtype) if min(shape, default=1) > 0 else "a changing shape"


def _shape(node: Any) -> tuple[int, ...] | None:
    sides = _inside(node, "shape").get("dimensions", []) if isinstance(node, dict) else None
    good = isinstance(sides, list) and all(re.fullmatch(r"-?\d{1,9}", str(side)) for side in sides)
    return tuple(int(side) for side in sides) if good and sides is not None else None


def _inside(node: Any, *keys: str) -> dict[str, Any]:
    """The dictionary that a path of keys leads to; empty where there is none."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises LogError where there is none, or it is absurdly large or deep."""
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for its writer
            raise OSError("not a file")
        text = path.read_bytes() if path.stat().st_size <= MAX_JSON else None
    except OSError as error:
        raise log_error(str(path), "no readable file", "it, beside the TFRecord shards", "Copy it too.") from error
    if text is None:
        raise log_error(str(path), f"more than {MAX_JSON} bytes", "a description", "Check what this file is.")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise log_error(str(path), f"invalid JSON ({error})", "valid JSON", "Copy it again.") from error
    if not isinstance(content, dict):
        raise log_error(str(path), f"a {type(content).__name__}", "a JSON object", "Copy it again.")
    return content
