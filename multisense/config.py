"""YAML + `key.path=value` -> a typed, frozen tree; every error names the full key path and the nearest valid name."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator


class ConfigError(ValueError):
    """A configuration that cannot be used: says the key path, what was expected, what was found."""


class Config(BaseModel):
    """Base of every configuration record: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers may be written in several ways, but `depth: true` is a mistake and not 1."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        kinds = {wanted, *get_args(wanted)}
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError("input should be a number")
        return value


C = TypeVar("C", bound=Config)


def read_tree(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The YAML file as nested dicts with `key.path=value` overrides applied on top."""
    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not OmegaConf.is_dict(tree):
        raise ConfigError(
            f"{path}: expected a YAML mapping at the top, found {type(OmegaConf.to_object(tree)).__name__}"
        )
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override '{override}': expected key.path=value, for example model.depth=6")
        try:
            tree = OmegaConf.merge(tree, OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"override '{override}': {error}") from error
    try:
        resolved = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error}") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def parse(kind: type[C], tree: Any, at: str = "") -> C:
    """`tree` as a `kind`; `at` is the key path of the tree inside the whole configuration."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{at or 'configuration'}: expected a mapping of keys, found {tree!r}")
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, e, at) for e in error.errors())) from None


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest valid word, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def _explain(kind: type[BaseModel], error: Any, at: str) -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join([at, *path] if at else path)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key; {suggest(path[-1], _fields(kind, path[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: missing; it has no default"
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}; found {error['input']!r}"


def _fields(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Names that would have been valid below `path`."""
    for part in path:
        inner = kind.model_fields[part].annotation if part in kind.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)
