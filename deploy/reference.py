"""Writes docs/reference from the code: every setting, every command. python -m deploy.reference"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from monitor.commands.cli import app
from monitor.config import Config

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE = "Made by `python -m deploy.reference` from the code; a test checks that it is current.\n"


def configuration() -> str:
    """Every setting with its default and bounds, a table for each part of the file."""
    head = f"# Settings\n\n{MADE}\nEach table is a part of the one YAML file; [configuration](../configuration.md) shows it whole and says what belongs together.\n"
    return head + "".join(_tables("", Config))


def commands() -> str:
    """Every command with its options."""
    head = f"# Commands\n\n{MADE}\nMendable errors are one line and exit code 2. `barograph --version` says which one it is.\n"
    return head + "".join(_commands(typer.main.get_command(app), ["barograph"]))


def _tables(name: str, model: type[BaseModel]) -> Iterator[str]:
    rows, parts = [], []
    for field, info in model.model_fields.items():
        whole = f"{name}.{field}" if name else field
        inner = list(_models(info.annotation))
        if inner:
            rows.append(
                f"| [`{field}`](#{_anchor(whole)}) | a part of its own | {_default(info)} | {_cell(info.description or inner[0].__doc__)} |"
            )
        else:
            rows.append(f"| `{field}` | {_cell(_type(info))} | {_default(info)} | {_cell(info.description)} |")
        parts += [(whole, each) for each in inner]
    title = f"`{name}`" if name else "The whole file"
    yield (
        f"\n## {title}\n\n{' '.join((model.__doc__ or '').split())}\n\n| setting | type | default | what it is |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )
    for whole, each in parts:
        yield from _tables(whole, each)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in typing.get_args(annotation):
        yield from _models(each)


def _type(info: FieldInfo) -> str:
    bounds = [
        text
        for each in info.metadata
        for mark, text in (
            ("ge", f"at least {getattr(each, 'ge', None)}"), ("gt", f"more than {getattr(each, 'gt', None)}"), ("le", f"at most {getattr(each, 'le', None)}"),
            ("lt", f"less than {getattr(each, 'lt', None)}"), ("max_length", f"at most {getattr(each, 'max_length', None)} long"),
        )
        if getattr(each, mark, None) is not None
    ]  # fmt: skip
    return ", ".join([_named(info.annotation), *bounds])


def _named(annotation: Any) -> str:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in inside)
    if origin is typing.Annotated:
        return _named(inside[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_named(each) for each in inside)
    if origin is tuple and len(inside) == 2 and inside[1] is int:
        return "HOST:PORT"
    if origin in (tuple, list):
        return f"list of {_named(inside[0])}"
    if origin is dict:
        return f"{_named(inside[1])} by name"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a part of its own"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**needed**"
    if info.default_factory is not None:
        return "see there"
    value = info.default
    if isinstance(value, BaseModel):
        return "see there"
    if isinstance(value, Path):
        return f"`{value.stem}`" if value.suffix == ".yaml" else f"`{value}`"
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int):
        return f"`{value[0]}:{value[1]}`"
    said = {"None": "null", "True": "true", "False": "false", "()": "[]"}.get(str(value), str(value))
    return f"`{said}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _anchor(name: str) -> str:
    return name.replace(".", "").lower()


def _commands(command: Any, path: list[str]) -> Iterator[str]:
    """Typer brings its own click, so that nothing here can be asked of its classes."""
    for name, each in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(each, [*path, name])
    if hasattr(command, "commands") and (len(path) == 1 or not command.invoke_without_command):
        return
    arguments = [each.name.upper() for each in command.params if each.param_type_name == "argument"]
    yield f"\n## `{' '.join([*path, *arguments])}`\n\n{_cell(command.help)}\n"
    rows = [
        f"| {' '.join(f'`{word}`' for word in (*each.opts, *each.secondary_opts))} | {_cell(getattr(each, 'help', ''))} | {_fallback(each)} |"
        for each in command.params
    ]
    if rows:
        yield "\n| option | what it is | default |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def _fallback(parameter: Any) -> str:
    if parameter.required:
        return "**needed**"
    return "" if parameter.default in (None, "", ()) or callable(parameter.default) else f"`{parameter.default}`".lower()


PAGES = {"configuration.md": configuration, "commands.md": commands}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, made in PAGES.items():
        (FOLDER / name).write_text(made(), "utf-8")
