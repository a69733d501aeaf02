"""A YAML text as a frozen pydantic model, with errors that say file, line, column and the nearest known key."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

# What is within both is read in about a tenth of a second: several hundred rules.
MAX_BYTES = 256 << 10
MAX_VALUES = 15_000
MAX_DEPTH = 32
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What pydantic calls by Python's names.
_EXPECTED = {
    "tuple_type": "a list", "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping", "string_type": "a text",
    "int_type": "a whole number", "float_type": "a number",
}  # fmt: skip
_KINDS = {list: "a list", dict: "a mapping", type(None): "nothing", bool: "true or false"}

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str | int, ...]
Mark = tuple[int, int]


class DocumentError(Exception):
    """Where a document is wrong, what was found, and what was expected."""


@dataclass(frozen=True)
class Document(Generic[Model]):
    """A document that was read, and where each of its values stands."""

    model: Model
    name: str
    text: str
    marks: dict[Path, Mark]  # where a key, or an item of a list, stands
    values: dict[Path, tuple[int, int, bool]]  # where a plain value begins, and whether a column inside it can be told

    def at(self, path: Path, offset: int = 0) -> str:
        """`file:line:column` of a value, `offset` characters into it; of the nearest thing around it when it is not in the text."""
        if path in self.values:
            line, column, exact = self.values[path]
            return f"{self.name}:{line}:{column + offset if exact else column}"
        while path not in self.marks:
            path = path[:-1]
        return "{}:{}:{}".format(self.name, *self.marks[path])


def parse(text: str, model: type[Model], name: str) -> Model:
    """Read `text` as `model`; `name` is the file's name for messages. Raises DocumentError."""
    return read(text, model, name).model


def read(text: str, model: type[Model], name: str) -> Document[Model]:
    """Like `parse`, with the places of the values."""
    if len(text) > MAX_BYTES:
        raise DocumentError(f"{name}: {len(text)} characters; expected at most {MAX_BYTES}")
    try:
        # Anchors are refused: nothing here needs them, and nested ones grow without bound (the YAML bomb).
        depth = 0
        for number, event in enumerate(yaml.parse(text, LOADER)):
            if number > MAX_VALUES:
                raise DocumentError(f"{name}:{_at(event.start_mark)}: more than {MAX_VALUES} keys and values")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise DocumentError(f"{name}:{_at(event.start_mark)}: nested too deeply; expected at most {MAX_DEPTH} levels")
            if isinstance(event, yaml.AliasEvent):
                raise DocumentError(f"{name}:{_at(event.start_mark)}: aliases (*{event.anchor}) are not supported")
        loader = LOADER(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        where = _at(error.problem_mark) if error.problem_mark else "1:1"
        raise DocumentError(f"{name}:{where}: not YAML: {error.problem}") from None
    except UnicodeEncodeError:
        raise DocumentError(f"{name}: half of a surrogate pair; expected UTF-8") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise DocumentError(f"{name}: nested too deeply; expected at most {MAX_DEPTH} levels") from None
    marks: dict[Path, Mark] = {(): (1, 1)}
    values: dict[Path, tuple[int, int, bool]] = {}
    data = {} if node is None else _build(loader, node, (), marks, values, name)
    if not isinstance(data, dict):
        raise DocumentError(f"{name}:1:1: expected a mapping of {', '.join(model.model_fields)}")
    try:
        return Document(model.model_validate(data), name, text, marks, values)
    except ValidationError as error:
        raise DocumentError("; ".join(_explain(item, model, marks, name) for item in error.errors(include_url=False)[:3])) from None


def _at(mark: Any) -> str:
    return f"{mark.line + 1}:{mark.column + 1}"


def _build(loader: Any, node: Any, path: Path, marks: dict[Path, Mark], values: dict[Path, tuple[int, int, bool]], name: str) -> Any:
    marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                raise DocumentError(f"{name}:{_at(key_node.start_mark)}: a key must be a plain word")
            if key in mapping:
                raise DocumentError(f"{name}:{_at(key_node.start_mark)}: key '{key}' stands twice")
            marks[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            mapping[key] = _build(loader, value_node, (*path, key), marks, values, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), marks, values, name) for i, item in enumerate(node.value)]
    if node.tag.endswith(":int") and node.value[:2].lower() in ("0x", "0b", "0o"):
        raise DocumentError(f"{name}:{_at(node.start_mark)}: {node.value[:40]} is a number in another base; put quotes around a text")
    one_line = node.start_mark.line == node.end_mark.line
    values[path] = (
        node.start_mark.line + 1,
        node.start_mark.column + 1 + (node.style in ("'", '"')),
        one_line and node.style not in ("|", ">"),
    )
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError, OverflowError):
        raise DocumentError(f"{name}:{_at(node.start_mark)}: cannot read the value {node.value[:40]!r}") from None


def _explain(item: Any, model: type[BaseModel], marks: dict[Path, Mark], name: str) -> str:
    path: Path = tuple(item["loc"])
    known = path
    while known not in marks:
        known = known[:-1]
    line, column = marks[known]
    label = ".".join(str(part) for part in path if part in known or item["type"] == "missing") or "the document"
    where = f"{name}:{line}:{column}"
    if item["type"] == "extra_forbidden":
        if moved := _moved(model, path):
            return f"{where}: '{label}' is no longer there; {moved}"
        keys = sorted(_fields(model, path[:-1]))
        near = difflib.get_close_matches(str(path[-1]), keys, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of: {', '.join(keys)}"
        return f"{where}: unknown key '{label}'; {hint}"
    if item["type"] == "missing":
        return f"{where}: '{label}' is missing"
    if item["type"] in _EXPECTED:
        given = item["input"]
        return f"{where}: '{label}': expected {_EXPECTED[item['type']]}, got {_KINDS.get(type(given), repr(given)[:40])}"
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{where}: '{label}': {message[:1].lower() + message[1:]}"


def _moved(model: type[BaseModel], path: Path) -> str:
    """What became of a key of an earlier version, where its model says so as MOVED."""
    return next((moved for kind in _kinds(model, path[:-1]) if (moved := getattr(kind, "MOVED", {}).get(path[-1]))), "")


def _fields(model: type[BaseModel], path: Path) -> set[str]:
    """The keys that may stand at `path`."""
    return {info.alias or field for kind in _kinds(model, path) for field, info in kind.model_fields.items()}


def _kinds(model: type[BaseModel], path: Path) -> set[type[BaseModel]]:
    """The models that may stand at `path`."""
    kinds: set[type[BaseModel]] = {model}
    for part in path:
        deeper: set[type[BaseModel]] = set()
        for kind in kinds:
            by_key = {info.alias or field: info.annotation for field, info in kind.model_fields.items()}
            if isinstance(part, str) and part in by_key:
                deeper.update(_models(by_key[part]))
        kinds = deeper or kinds
    return kinds


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)
