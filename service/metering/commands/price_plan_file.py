"""Price plans in TOML or JSON files. What stands in them is the message PricePlan of the contract, field by field.

Whether prices make sense, the service says, by the name of the field. Here it is told on which line that stands.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomlkit
from google.protobuf.json_format import MessageToDict, ParseDict
from tomlkit.items import AoT

from faceid_metering import messages as pb
from metering.commands.common import FileError

FILE_BYTES_MAX = 1_000_000

Shape = type | Mapping[str, "Shape"] | list["Shape"]
"""Of a value: text, a number, a table with these fields, or a list of such values."""

TIERED_PRICE: Shape = {"tiers": [{"up_to": int, "unit_price": str}]}
API_PRICE: Shape = {
    "api": str,
    "per_call": {"unit_price": str},
    "graduated": TIERED_PRICE,
    "volume": TIERED_PRICE,
    "free_calls": int,
    "uncharged_result_codes": [str],
}
PRICE_PLAN: Shape = {"price_plan_id": str, "version": int, "currency": str, "prices": [API_PRICE]}
MODELS = ("per_call", "graduated", "volume")

Place = tuple[str | int, ...]
"""The way to a value: names in tables, numbers (from 0) in lists."""
Lines = Callable[[Place], int]
"""Tells the line of a value, or of what it is missing in."""

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+')
_MARK = "\ue000"
"""A character that has no meaning, which Unicode promises."""
_INT64 = range(-(2**63), 2**63)


class PricePlanFile(NamedTuple):
    """A price plan, and the file it was read from."""

    path: Path
    plan: pb.PricePlan
    lines: Lines

    def error(self, field: str, description: str) -> FileError:
        """Return the error for a field that the service names, such as `price_plan.prices[0].api`."""
        steps = _STEP.findall(field.removeprefix("price_plan"))
        return _error(
            self.path, self.lines, tuple(int(number) if number else name for name, number in steps), description
        )


def read_price_plan(path: Path) -> PricePlanFile:
    """Return the price plan in a file: JSON if its name ends in .json, else TOML.

    Raises:
        FileError: it is malformed; says the line, the field, and what to do.
        OSError: it cannot be read.

    """
    data = path.read_bytes()
    if len(data) > FILE_BYTES_MAX:
        raise FileError(f"{path}: {len(data):,} bytes are too many for a price plan; it may have {FILE_BYTES_MAX:,}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}, line {line}: is not UTF-8; save it as UTF-8") from error
    document: Any
    document, lines = (_read_json if path.suffix.lower() == ".json" else _read_toml)(path, text)
    try:
        _check(document, PRICE_PLAN, ())
    except _ShapeError as error:
        raise _error(path, lines, error.place, error.description) from error
    document.pop("version", None)  # the service sets it
    return PricePlanFile(path, ParseDict(document, pb.PricePlan()), lines)


def to_toml(plan: pb.PricePlan) -> str:
    """Return a file from which a price plan can be read again."""
    document = MessageToDict(plan, preserving_proto_field_name=True)
    version = document.pop("version", 0)
    for price in document.get("prices", ()):
        if "free_calls" in price:
            price["free_calls"] = int(price["free_calls"])  # 64-bit numbers are strings in protobuf's JSON
        for tier in (tier for model in MODELS for tier in price.get(model, {}).get("tiers", ()) if "up_to" in tier):
            tier["up_to"] = int(tier["up_to"])
    return f"# version {version}\n{tomlkit.dumps(document)}"


class _ShapeError(Exception):
    def __init__(self, place: Place, description: str) -> None:
        super().__init__(description)
        self.place = place
        self.description = description


def _check(value: object, shape: Shape, place: Place) -> None:
    """Raise _ShapeError unless a value has a shape."""
    if isinstance(shape, Mapping):
        _check_table(value, shape, place)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _ShapeError(place, "must be a list")
        for index, item in enumerate(value):
            _check(item, shape[0], (*place, index))
    elif shape is str and not _is_text(value):
        example = ', such as "0.0125": it is taken as it is written' if place[-1] == "unit_price" else ""
        raise _ShapeError(place, f"must be text in quotes{example}")
    elif shape is int and (not isinstance(value, int) or isinstance(value, bool) or value not in _INT64):
        raise _ShapeError(place, "must be a whole number")


def _check_table(value: object, shape: Mapping[str, Shape], place: Place) -> None:
    if not isinstance(value, dict):
        raise _ShapeError(place, f"must be a table with {', '.join(shape)}")
    for name, item in value.items():
        if name not in shape:
            raise _ShapeError((*place, name), f"is not known; there are {', '.join(shape)}")
        _check(item, shape[name], (*place, name))
    models = [name for name in value if name in MODELS]
    if len(models) > 1:
        raise _ShapeError((*place, models[1]), f"is a second price beside {models[0]}; give each api one")


def _is_text(value: object) -> bool:
    """Tell whether a value is text that can be sent; half of a surrogate pair, which JSON can hold, cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _error(path: Path, lines: Lines, place: Place, description: str) -> FileError:
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")
    return FileError(f"{path}, line {lines(place)}: {field}{': ' if field else ''}{description}")


def _read_toml(path: Path, text: str) -> tuple[object, Lines]:
    try:
        return tomllib.loads(text), lambda place: _line_in_toml(text, place)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FileError(f"{path}: {error}") from error


def _line_in_toml(text: str, place: Place) -> int:
    """Return the line of a value: tomlkit writes a file as it was, so a mark put in its place shows where it is."""
    document = tomlkit.parse(text)
    value: Any = document
    parent, last = None, None
    for step in place:
        if not _has(value, step):
            break
        parent, last, value = value, step, value[step]
    if isinstance(parent, AoT):  # its tables cannot be replaced by a mark, but their first values can
        parent, last = value, next(iter(value), _MARK)
    if parent is None:
        return 1
    parent[last] = _MARK
    return tomlkit.dumps(document).partition(_MARK)[0].count("\n") + 1


def _has(value: object, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(value, list) and step < len(value)
    return isinstance(value, dict) and step in value


def _read_json(path: Path, text: str) -> tuple[object, Lines]:
    try:
        return json.loads(text, object_pairs_hook=_table_of_pairs), lambda place: _line_in_json(text, place)
    except json.JSONDecodeError as error:
        raise FileError(f"{path}, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: {error}") from error


def _table_of_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} stands twice in one table")
    return table


def _line_in_json(text: str, place: Place) -> int:
    """Return the line of a value in JSON that is well formed."""
    starts: dict[Place, int] = {(): 0}
    here: list[str | int | None] = []  # one step for each table or list that is open; None: its name comes next
    for token in _JSON_TOKEN.finditer(text):
        symbol = token[0]
        if symbol in {"]", "}"}:
            here.pop()
        elif symbol == ",":
            here[-1] = here[-1] + 1 if isinstance(here[-1], int) else None
        elif here and here[-1] is None:
            here[-1] = json.loads(symbol)
        elif symbol != ":":
            starts[tuple(step for step in here if step is not None)] = token.start()
            if symbol in {"[", "{"}:
                here.append(0 if symbol == "[" else None)
    while place not in starts:
        place = place[:-1]
    return text.count("\n", 0, starts[place]) + 1
