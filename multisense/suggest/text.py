"""YAML with a comment on every line; what comes out of logs is quoted, whatever it holds."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from multisense.suggest.settings import Setting

Line = tuple[int, Setting]
"""(how deep it stands, what it says). A value of None opens a block; the key "-" is an item of a list."""
PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
NO_STRINGS = re.compile(r"y|yes|n|no|on|off|true|false|null|\.(inf|nan)", re.IGNORECASE)
WIDEST = 44
"""Comments stand in one column, beyond which a long line pushes its own."""


def render(lines: Sequence[Line], left_out: Mapping[str, str], title: str) -> str:
    """The whole text; `left_out` are names of sensors with the reasons, as comments at the end."""
    written = [(f"{'  ' * depth}{_entry(setting)}", setting.why) for depth, setting in lines]
    column = min(max(len(text) for text, _ in written), WIDEST)
    rows = [f"# {_one_line(title)}", "# A first guess: every line says why. What is marked `doubtful` wants a look."]
    rows += [f"{text:<{column}}  # {_one_line(why)}" if why else text for text, why in written]
    rows += ["", "# sensors not used:"] if left_out else []
    rows += [f"#   {_one_line(name)}: {_one_line(why)}" for name, why in left_out.items()]
    return "\n".join(rows) + "\n"


def _entry(setting: Setting) -> str:
    if setting.key == "-":
        return f"- {_value(setting.value)}"
    value = "" if setting.value is None else f" {_value(setting.value)}"
    return f"{scalar(setting.key)}:{value}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(key))}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return scalar(value.replace("${", "\\${") if isinstance(value, str) else value)  # else it would name a variable


def scalar(value: Any) -> str:
    """A string, number or truth value as YAML 1.1 reads it back."""
    if isinstance(value, str):
        if PLAIN.fullmatch(value) and not NO_STRINGS.fullmatch(value):
            return value
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(value)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:300]
