"""The kinds of sensor. Each is one module with `Config`, `Tokenizer` and `example`; nothing else lists them."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from multisense.config import ConfigError, parse, suggest
from multisense.modalities.base import SensorConfig


def kinds() -> list[str]:
    """Names of the kinds in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def modality(kind: str, at: str = "kind", importing: bool = True) -> ModuleType:
    """The module of a kind: a file here, or a module `multisense_<kind>` from outside the package.

    Only these two names are ever imported, so a configuration cannot make us run an arbitrary module. Who wrote it may
    have put a `multisense_<kind>` beside it all the same: what comes with somebody's weights is read without `importing`,
    and a kind from outside is then one whose module was imported before. Raises ConfigError for any other.
    """
    if not str(kind).isidentifier():
        raise ConfigError(f"{at}: expected the name of a modality, found {kind!r}; {suggest(kind, kinds())}")
    if kind in kinds():
        return importlib.import_module(f"{__name__}.{kind}")
    outside = f"multisense_{kind}"
    if not importing and outside not in sys.modules:
        raise ConfigError(
            f"{at}: unknown modality '{kind}'; {suggest(kind, kinds())} (weights of others make nothing be imported: where "
            f"you have this kind and trust it, `import {outside}` first)"
        )
    if importlib.util.find_spec(outside) is None:
        raise ConfigError(
            f"{at}: unknown modality '{kind}'; {suggest(kind, kinds())} (a kind of your own is an importable module "
            f"'{outside}' with Config, Tokenizer and example)"
        )
    return importlib.import_module(outside)


def parse_sensors(tree: Mapping[str, Any], importing: bool = True) -> dict[str, SensorConfig]:
    """Settings by sensor name -> configurations, each parsed by its own kind's `Config`, which is found as `modality` says.
    Raises ConfigError."""
    typed: dict[str, SensorConfig] = {}
    for name, settings in tree.items():
        at = f"sensors.{name}"
        if not isinstance(settings, Mapping) or "kind" not in settings:
            raise ConfigError(f"{at}.kind: missing; expected a mapping with the sensor's modality, found {settings!r}")
        typed[str(name)] = parse(modality(settings["kind"], f"{at}.kind", importing).Config, settings, at)
    return typed
