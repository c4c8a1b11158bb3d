"""YAML to validated configuration; unknown keys and presets are errors that name the nearest known one.

A mapping that holds ``preset: NAME`` (or a plain string where a mapping is expected) starts from
``configs/<group>/NAME.yaml`` and overlays its other keys. Presets are looked for beside the experiment's own file
first, then among those shipped with the package.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.records import MedaugError

T = TypeVar("T")
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # of a model, of a dataclass


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        MedaugError: no such file, no valid YAML, or no mapping.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MedaugError(f"configuration {path}: no such file; shipped ones lie in configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MedaugError(f"configuration {path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise MedaugError(f"configuration {path}: holds {type(data).__name__}, expected a mapping (key: value)")
    return data


def preset_folders(beside: Path | None) -> list[Path]:
    """Where presets are looked for: the ``configs`` folder around an experiment's file, then the shipped one."""
    shipped = Path(__file__).resolve().parents[1] / "configs"
    return [shipped] if beside is None else [beside.resolve().parent.parent, shipped]


def preset_names(group: str, beside: Path | None = None) -> list[str]:
    """Names of the presets in a group ("gan", "data", "classifier", ...)."""
    return sorted({file.stem for folder in preset_folders(beside) for file in (folder / group).glob("*.yaml")})


def expand_preset(group: str, value: Any, beside: Path | None, where: str) -> dict[str, Any]:
    """Resolves ``NAME`` or ``{preset: NAME, key: value}`` to a plain mapping with ``name`` filled in.

    Raises:
        MedaugError: unknown preset (names the nearest), or a value that is neither a string nor a mapping.
    """
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, Mapping):
        raise MedaugError(f"{where}: {value!r} is a {type(value).__name__}, expected a preset's name or a mapping")
    own = dict(value)
    name = own.pop("preset", None)
    if name is None:
        return own
    for folder in preset_folders(beside):
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return {"name": str(name), **merge(read_yaml(file), own)}
    known = preset_names(group, beside)
    raise MedaugError(f"{where}: unknown {group} {str(name)!r}{nearest(str(name), known)}; known: {', '.join(known)}")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``; mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Applies ``a.b=c`` overrides; the value is read as YAML, a number in the path indexes a list.

    Raises:
        MedaugError: an override without "=", or a path that runs into a plain value.
    """
    result: dict[str, Any] = copy.deepcopy(dict(data))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise MedaugError(f"--set {override}: expected KEY.KEY=VALUE, e.g. --set seed=7")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise MedaugError(f"--set {override}: the value is not valid YAML; quote it") from None
        keys = path.split(".")
        node: Any = result
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(node, list) and key.isdigit() and int(key) < len(node):
                index: Any = int(key)
            elif isinstance(node, dict):
                index = key
                if not last:
                    node.setdefault(key, {})
            else:
                raise MedaugError(f"--set {override}: there is no {'.'.join(keys[: depth + 1])} to set")
            if last:
                node[index] = value
            else:
                if node[index] is None:  # a preset with nothing overlaid
                    node[index] = {}
                elif isinstance(node[index], str):  # a preset's short form
                    node[index] = {"preset": node[index]}
                node = node[index]
    return result


def validate(model: type[T], data: Any, where: str) -> T:
    """Validates plain data against a pydantic model or a dataclass.

    Args:
        model: the type; unknown keys must be forbidden by its own configuration.
        data: plain data.
        where: named in the message, e.g. the YAML file.

    Raises:
        MedaugError: the first fault, one line: where, key, what was expected, what was found; the nearest known key.
    """
    try:
        return TypeAdapter(model).validate_python(data)
    except ValidationError as error:
        # An unknown key before a missing one: the first is often the second, misspelt.
        first = min(error.errors(include_url=False), key=lambda fault: fault["type"] not in UNKNOWN_KEY)
        location = [str(part) for part in first["loc"]]
        key = ".".join(location)
        others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] in UNKNOWN_KEY:
            known = _fields_at(model, location[:-1])
            guess = nearest(location[-1], known)
            listing = f"; known: {', '.join(known)}" if known and not guess else ""
            raise MedaugError(f"{where}: unknown key {key!r}{guess}{listing}{others}") from None
        message = first["msg"].removeprefix("Value error, ")
        found = f" (found {first['input']!r})" if first["type"] != "missing" and len(repr(first["input"])) < 80 else ""
        raise MedaugError(f"{where}: {key or 'configuration'}: {message}{found}{others}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or an empty text."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _fields_at(model: Any, location: list[str]) -> list[str]:
    """Field names of the model that the location leads to; list indices and unions are stepped over."""
    models = [model]
    for part in location:
        below = []
        for candidate in models:
            hints = _field_types(candidate)
            below += _models_in(hints[part]) if part in hints else [candidate] if part.isdigit() else []
        models = below or models
    return sorted({name for candidate in models for name in _field_types(candidate)})


def _field_types(model: Any) -> dict[str, Any]:
    if hasattr(model, "model_fields"):
        return {name: info.annotation for name, info in model.model_fields.items()}
    if dataclasses.is_dataclass(model):
        from typing import get_type_hints

        return {name: hint for name, hint in get_type_hints(model).items() if name in model.__dataclass_fields__}
    return {}


def _models_in(hint: Any) -> list[Any]:
    found = [hint] if _field_types(hint) else []
    for argument in get_args(hint):
        found += _models_in(argument)
    return found
