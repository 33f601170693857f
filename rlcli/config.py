"""One definition per option: a frozen dataclass drives flags, TOML keys, `--set`, help and `config.toml`.

Precedence: default < file < `--set` < flag. Unknown keys are errors that name the nearest known one.
Field types are `bool int float str Path Literal[...]`, `X | None` and `tuple[X, ...]` of those.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from rlcli.errors import InputError, UsageError, nearest, nearest_option

ConfigT = TypeVar("ConfigT")

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def opt(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    source: str = "",
    metavar: str = "",
    repeatable: bool = False,
) -> Any:
    """A dataclass field with its help, its bounds and where its default comes from.

    `repeatable` is for a tuple whose flag is given once per element.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {
        "help": help,
        "source": source,
        "metavar": metavar,
        "repeatable": repeatable,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """What a flag, a TOML key or a help line needs to know about one field."""

    name: str
    type: Any
    default: Any
    help: str
    source: str
    bounds: Mapping[str, float]
    metavar: str
    repeatable: bool

    @property
    def flag(self) -> str:
        return f"--set {self.name}" if "." in self.name else "--" + self.name.replace("_", "-")

    @property
    def type_name(self) -> str:
        """`int`, `float`, `a|b|c` for a Literal, `int,…` for a tuple."""
        return _type_name(self.type)


def options(config: type[Any]) -> list[Option]:
    """The options of a config dataclass, in definition order."""
    hints = typing.get_type_hints(config)
    return [
        Option(
            field.name,
            hints[field.name],
            field.default,
            field.metadata.get("help", ""),
            field.metadata.get("source", ""),
            field.metadata.get("bounds", {}),
            field.metadata.get("metavar") or _metavar(hints[field.name]),
            field.metadata.get("repeatable", False),
        )
        for field in dataclasses.fields(config)
    ]


def parse_count(text: str) -> int:
    """A whole number that may be written `100k`, `1.5M`, `1e6` or `1_000`. Raises `ValueError`."""
    from decimal import Decimal, InvalidOperation  # floats would make 1.005k a fraction

    plain = text.strip().replace("_", "").lower()
    suffix = plain[-1:] if plain[-1:].isalpha() else ""
    try:
        value = Decimal(plain[: len(plain) - len(suffix)]) * _SUFFIXES[suffix]
        if not value.is_finite() or abs(value) >= 2**63 or value != int(value):
            raise ValueError
    except (InvalidOperation, KeyError, ValueError):
        raise ValueError(f"{text!r} is not a whole number (examples: 500, 100k, 1e6)") from None
    return int(value)


def parse_value(text: str, kind: Any) -> Any:
    """`text` as `kind`; raises `ValueError` with a sentence a user understands."""
    if type(None) in typing.get_args(kind) and text.lower() in ("none", "null", ""):
        return None
    kind = _without_none(kind)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        parts = [part for part in text.strip("()[] ").split(",") if part.strip()]
        return tuple(parse_value(part.strip(), item) for part in parts)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        for choice in choices:
            if text == str(choice):
                return choice
        raise ValueError(f"{text!r} is none of its values; {nearest(text, map(str, choices))}")
    if kind is bool:
        lowered = text.lower()
        if lowered in ("true", "yes", "on", "1"):
            return True
        if lowered in ("false", "no", "off", "0"):
            return False
        raise ValueError(f"{text!r} is not true or false")
    if kind is int:
        return parse_count(text)
    if kind is float:
        try:
            return float(text.replace("_", ""))
        except ValueError:
            try:
                return float(parse_count(text))
            except ValueError:
                raise ValueError(f"{text!r} is not a number") from None
    return kind(text)


def resolve(
    config: type[ConfigT],
    *,
    file: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> ConfigT:
    """An instance of `config` from default < `file` < `sets` < `flags`; see `resolve_sections`."""
    resolved: ConfigT = resolve_sections({"": config}, file=file, sets=sets, flags=flags)[""]
    return resolved


def resolve_sections(
    configs: Mapping[str, type[Any]],
    *,
    file: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    scopes: Sequence[str] = (),
) -> dict[str, Any]:
    """One instance per section, from default < `file` < `sets` < `flags`.

    Option names are distinct over sections. `file` is TOML with the option names as keys, at top level or
    under their `[section]`. Tables and `sets` of `scopes` are passed over: they are `read_scope`'s. `sets`
    are `key=value` strings. `flags` maps names to parsed values; None means "not given". Raises `UsageError`
    for an unknown key, a value of the wrong type or outside its bounds; `InputError` for a file that cannot
    be read.
    """
    known = {option.name: option for config in configs.values() for option in options(config)}
    values: dict[str, Any] = {}
    if file is not None:
        for key, raw in _flat_toml(file, configs, scopes).items():
            option = _known(known, key, str(file))
            values[option.name] = _from_toml(raw, option, f"{file}: {key}")
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator:
            raise UsageError(f"--set {item!r} is not of the form key=value")
        if key.strip().partition(".")[0] in scopes:
            continue
        option = _known(known, key.strip(), "--set")
        try:
            values[option.name] = parse_value(text.strip(), option.type)
        except ValueError as err:
            raise UsageError(f"--set {key.strip()}: {err}") from err
    for name, value in (flags or {}).items():
        if value is not None:
            values[_known(known, name, "flags").name] = value
    for name, value in values.items():
        _check_bounds(known[name], value)
    return {
        section: config(**{o.name: values[o.name] for o in options(config) if o.name in values})
        for section, config in configs.items()
    }


def read_scope(scope: str, *, file: Path | None = None, sets: Sequence[str] = ()) -> dict[str, Any]:
    """What `[scope]` in a TOML `file` and `scope.key=value` in `sets` give, unparsed; `sets` win.

    For options of a thing that is itself an option, so that only its name says which there are; see
    `from_options`. Raises `InputError` for a file that cannot be read.
    """
    values: dict[str, Any] = dict(read_toml(file).get(scope, {})) if file is not None else {}
    for item in sets:
        key, _, text = item.partition("=")
        first, dot, rest = key.strip().partition(".")
        if dot and first == scope:
            values[rest.replace("-", "_")] = text.strip()
    return values


def from_options(config: type[ConfigT], values: Mapping[str, Any], scope: str) -> ConfigT:
    """An instance of `config` from what `read_scope` gave.

    Raises `UsageError` for an unknown key, a value of the wrong type or outside its bounds.
    """
    known = {option.name: option for option in options(config)}
    if values and not known:
        raise UsageError(f"{scope}.{next(iter(values))}: there are no {scope} options here")
    parsed = {}
    for key, raw in values.items():
        option = _known(known, key, scope)
        parsed[option.name] = _from_toml(raw, option, f"{scope}.{key}")
        _check_bounds(dataclasses.replace(option, name=f"{scope}.{option.name}"), parsed[option.name])
    return config(**parsed)


def _flat_toml(file: Path, sections: Mapping[str, Any], scopes: Sequence[str]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in read_toml(file).items():
        if isinstance(value, dict):
            if key in scopes:
                continue
            if key not in sections:
                raise UsageError(f"{file}: unknown table [{key}]; {nearest(key, [*sections, *scopes])}")
            names = [option.name for option in options(sections[key])]
            for name in value:
                if name.replace("-", "_") not in names:
                    raise UsageError(f"{file}: [{key}] has no option {name!r}; {_meant(name, names)}")
            flat.update(value)
        else:
            flat[key] = value
    return flat


def read_toml(file: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises `InputError` when it cannot be read or parsed."""
    import tomllib

    try:
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except OSError as err:
        raise InputError(f"cannot read the config file {file}: {err.strerror}", path=file) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise InputError(f"{file} is not valid TOML: {err}", path=file) from err


def to_dict(config: Any) -> dict[str, Any]:
    """The config as JSON-able values: tuples become lists, paths strings."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(config: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """The inverse of `to_dict`; unknown keys and wrong types raise `UsageError`."""
    known = {option.name: option for option in options(config)}
    return config(**{key: _from_toml(raw, _known(known, key, "config"), key) for key, raw in values.items()})


def to_toml(config: Any) -> str:
    """The config as a TOML table that `resolve(file=…)` reads back to an equal config."""
    lines = []
    for option in options(type(config)):
        value = _plain(getattr(config, option.name))
        if value is None:
            lines.append(f"# {option.name} is not set")
        else:
            lines.append(f"{option.name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON is TOML but for the delete character, which JSON leaves as it is."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _known(known: Mapping[str, Option], key: str, where: str) -> Option:
    name = key.replace("-", "_")
    if name not in known:
        raise UsageError(f"{where}: unknown option {key!r}; {_meant(name, known)}")
    return known[name]


def _meant(name: str, known: Iterable[str]) -> str:
    known = list(known)
    option = nearest_option(name.replace("-", "_"), known)
    return f"did you mean {option!r}?" if option else nearest(name, known)


def _from_toml(raw: Any, option: Option, where: str) -> Any:
    kind = _without_none(option.type)
    try:
        if raw is None and type(None) in typing.get_args(option.type):
            return None
        if typing.get_origin(kind) is tuple:
            if not isinstance(raw, list):
                raise ValueError(f"{raw!r} is not a list")
            item = dataclasses.replace(option, type=typing.get_args(kind)[0])
            return tuple(_from_toml(part, item, where) for part in raw)
        if isinstance(raw, str):
            return parse_value(raw, option.type)
        if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
            return float(raw)
        if kind is int and isinstance(raw, float) and raw.is_integer():
            return int(raw)
        if type(raw) is int and abs(raw) >= 2**63:
            raise ValueError(f"{raw} has more than 64 bits")
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        if raw in choices or (isinstance(kind, type) and type(raw) is kind):
            return raw
        raise ValueError(f"{raw!r} is not of type {_type_name(option.type)}")
    except ValueError as err:
        raise UsageError(f"{where}: {err}") from err


def _check_bounds(option: Option, value: Any) -> None:
    if value is None:
        return
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            raise UsageError(f"{option.flag} must be a finite number, got {item}")
        for name, bound in option.bounds.items():
            holds = {"ge": item >= bound, "gt": item > bound, "le": item <= bound, "lt": item < bound}[name]
            if not holds:
                sign = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}[name]
                raise UsageError(f"{option.flag} must be {sign} {bound:g}, got {item}")


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(arg for arg in typing.get_args(kind) if arg is not type(None))
    return kind


def _type_name(kind: Any) -> str:
    kind = _without_none(kind)
    if typing.get_origin(kind) is tuple:
        return f"{_type_name(typing.get_args(kind)[0])},…"
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, typing.get_args(kind)))
    return str(kind.__name__).lower()


def _metavar(kind: Any) -> str:
    name = _type_name(kind)
    return name if "|" in name else name.upper()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
