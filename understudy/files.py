"""Reading YAML and JSON that people write, with errors that they can act on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from understudy.quantities import ConfigError


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, or of a JSON file by its name.

    Raises:
        ConfigError: it cannot be read, or is not YAML (or JSON); names the line.
    """
    try:
        text = path.read_text()
        if path.suffix == ".json":
            return json.loads(text)  # not quite YAML: tabs, and numbers such as 1e9
        return yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error


def write_text(path: Path, text: str) -> None:
    """Raises ConfigError where the file cannot be written."""
    try:
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def read_option(text: str, option: str, *, names: Sequence[str] = (), example: str) -> tuple[Any, str]:
    """The value of an option that takes JSON, a YAML file's name, or one of `names`; and what to call it in an error.

    Raises:
        ConfigError: none of these, or not a mapping of settings.
    """
    raw: Any
    if text in names:
        return text, option
    if text.lstrip().startswith("{"):
        try:
            raw, source = json.loads(text), option
        except json.JSONDecodeError as error:
            raise ConfigError(f"{option}: not valid JSON: {error.msg}") from error
    elif names and not Path(text).exists():
        raise ConfigError(f"{option}: '{text}' is none of {', '.join(names)}, and no file of that name is there")
    else:
        raw, source = read_yaml(Path(text)), text
    if raw not in names and not isinstance(raw, dict):
        raise ConfigError(f"{source} must be a mapping of settings such as '{example}'")
    return raw, source


def explain(
    error: ValidationError, source: str, kind: type[BaseModel], parts: Mapping[str, type[BaseModel]]
) -> ConfigError:
    """One line per mistake: where it is, what is wrong, and for an unknown key the keys that there are.

    Args:
        source: the file's name, or `options`.
        kind: what was to be read.
        parts: by key of `kind`, what the items of that key's list are.
    """
    return ConfigError("\n".join(_line(problem, source, kind, parts) for problem in error.errors()[:8]))


def _line(problem: Any, source: str, kind: type[BaseModel], parts: Mapping[str, type[BaseModel]]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = next((part for key, part in parts.items() if key in problem["loc"]), kind)
        return f"{source}: '{where}' is not a setting; there are: {', '.join(known.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{source}: {where + ': ' if where else ''}{message}"
