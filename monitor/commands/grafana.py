"""`barograph grafana`: dashboards and what they need, in a Grafana."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from monitor.errors import BarographError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Dashboards, and what they need, in a Grafana.")
TOKEN, USER, PASSWORD = "GRAFANA_TOKEN", "GRAFANA_USER", "GRAFANA_PASSWORD"
MISSING = "this needs the extra grafana: pip install 'barograph[grafana]'"


@app.command()
def provision(
    url: Annotated[str, typer.Option(help="Of Grafana.")] = "http://127.0.0.1:3000",
    prometheus: Annotated[
        str, typer.Option(help="Of the Prometheus that scrapes Barograph, as Grafana reaches it.")
    ] = "http://127.0.0.1:9090",
    webhook: Annotated[str | None, typer.Option(help="Where Grafana's alerts go: makes a contact point.")] = None,
    annotate: Annotated[Path | None, typer.Option(help="A ledger: its armed verdicts become annotations.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 184, help="How far back they are looked for.")] = 24,
) -> None:
    """Make or bring up to date: folder, data source, three dashboards, contact point, annotations. Doing it twice changes nothing.

    The credential comes from GRAFANA_TOKEN, a service account's with the role Admin, or from GRAFANA_USER and GRAFANA_PASSWORD.
    """
    try:
        from monitor.grafana.provision import Grafana
    except ImportError:
        raise BarographError(MISSING) from None
    console = Console()
    Grafana(url, _credential(), lambda line: console.print(line, highlight=False)).provision(
        prometheus, webhook, _verdicts(annotate, hours) if annotate is not None else ()
    )
    console.print(f"{url.rstrip('/')}/d/barograph-fleet", highlight=False)


@app.command()
def export(folder: Annotated[Path, typer.Argument(help="Where the files go, for Grafana's own provisioning.")]) -> None:
    """Write the dashboards as JSON files."""
    try:
        from monitor.grafana.dashboards import dashboards
    except ImportError:
        raise BarographError(MISSING) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in dashboards().items():
            (folder / f"{name}.json").write_text(text, "utf-8")
    except OSError as error:
        raise BarographError(f"{folder}: {error.strerror}; expected a folder that can be written") from None
    print(f"written: {folder}")


def _credential() -> str | tuple[str, str]:
    if token := os.environ.get(TOKEN):
        return token
    if user := os.environ.get(USER):
        return user, os.environ.get(PASSWORD, "")
    raise BarographError(f"no credential for Grafana; expected {TOKEN}, or {USER} and {PASSWORD}, in the environment")


def _verdicts(ledger: Path, hours: float) -> list[dict[str, Any]]:
    from monitor.audit.reader import records

    since = time.time() - 3600 * hours
    return [
        each for each in records(ledger)
        if (each.get("kind"), each.get("event"), each.get("mode")) == ("verdict", "fired", "armed") and each["time"] >= since
    ]  # fmt: skip
