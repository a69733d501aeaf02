"""`barograph topics`: the topics that the configuration names."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from monitor.commands.audit import ConfigOption
from monitor.config import Config
from monitor.errors import BarographError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The Kafka topics that the configuration names.")


@app.callback()
def _group() -> None:
    """One command only, so far; without this Typer would make it the group itself."""


@app.command()
def create(
    config: ConfigOption = None,
    partitions: Annotated[
        int, typer.Option(min=1, max=10_000, help="Of scores, verdicts and audit; the others have one, for their order.")
    ] = 6,
    replicas: Annotated[int, typer.Option(min=1, max=10, help="How many brokers keep each.")] = 1,
) -> None:
    """Make the topics that are not there yet. Run with rights that the sidecar itself need not have."""
    from monitor.sinks.topics import create as make

    kafka = Config.load(config).sidecar.kafka
    if kafka is None:
        raise BarographError("the configuration has no sidecar.kafka; expected at least sidecar: {kafka: {bootstrap: HOST:PORT}}")
    console = Console()
    for name, how in make(kafka, partitions, replicas).items():
        console.print(f"{name}: {how}", highlight=False)
