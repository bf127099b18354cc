"""One TOML file a stage, read into frozen dataclasses; a key that no field knows is an error, not a default."""

import dataclasses
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from flashvsr_cli.errors import UsageError
from flashvsr_cli.train.config import StageConfig

T = TypeVar("T")


def read_stage_config(path: Path, overrides: tuple[str, ...] = ()) -> StageConfig:
    """Read a stage's TOML.

    Args:
        path: the file.
        overrides: "section.key=value" with a TOML value, or a plain word for a string.

    Raises:
        UsageError: the file cannot be read, or a key or value is not known.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            _override(table, override)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Give a stage's TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", "Correct the line.") from error
    return build_config(StageConfig, table, path.name)


def _override(table: dict[str, Any], override: str) -> None:
    name, _, text = override.partition("=")
    *sections, key = name.split(".")
    for section in sections:
        table = table.setdefault(section, {})
    try:
        table[key] = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        table[key] = text


def build_config(kind: type[T], table: dict[str, Any], where: str) -> T:
    """A dataclass from a TOML table, nested ones included.

    Raises:
        UsageError: a key is unknown or missing, or a value has the wrong type.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise UsageError(f"{where}: there is no setting {unknown[0]!r}.", f"Known: {', '.join(sorted(hints))}.")
    try:
        return kind(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in table.items()})
    except TypeError as error:
        raise UsageError(f"{where}: {error}.", "Add what is missing.") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build_config(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        is_fine = value in arguments
    elif origin is tuple and isinstance(value, list):
        is_open = len(arguments) == 2 and arguments[1] is Ellipsis
        kinds = arguments[:1] * len(value) if is_open else arguments
        if len(kinds) == len(value):
            return tuple(_convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))
        is_fine = False
    elif origin is types.UnionType:
        is_fine = any(option is not type(None) and isinstance(value, option) for option in arguments)
    elif origin is dict:
        is_fine = isinstance(value, dict)
    elif hint is float:
        is_fine = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if is_fine else value
    else:
        is_fine = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not is_fine:
        raise UsageError(f"{where} = {value!r} is not possible.", f"Give {hint}.")
    return value
