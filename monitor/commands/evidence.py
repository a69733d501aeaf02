"""`barograph audit query`, `report`, `incident`, `check`, `export` and `technical-file`: what a ledger says, for those who ask it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.commands.audit import ConfigOption, app, configured
from monitor.commands.custody import ReasonOption, act
from monitor.errors import BarographError

CopyOption = Annotated[
    Path | None, typer.Option("--copy", help="A copy of a ledger, such as an auditor's: nothing is recorded, as nobody writes there.")
]
KeyOption = Annotated[
    list[str] | None, typer.Option("--key", "-k", help="The log's vkey; by default the configured one, which is the keeper's word.")
]


MAX_CHECKED = 1 << 20  # bytes of a record or a proof


class Form(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def moment(text: str) -> float:
    """A date or a time of ISO 8601, UTC where it names no zone, in seconds since 1970. Raises BarographError."""
    try:
        found = datetime.fromisoformat(text)
        if not 1970 <= found.year < 9999:
            raise ValueError
    except ValueError:
        raise BarographError(f"'{text[:64]}' is no time; expected such as 2026-11-26 or 2026-11-26T14:00:00+01:00") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


@app.command()
def query(
    sql: Annotated[str | None, typer.Argument(help="One SELECT over generations, replies, coverage, verdicts, actions, operators, failures.")] = None,
    view: Annotated[str | None, typer.Option(help="Instead of SQL: a view's last rows.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="With --view: COLUMN=VALUE; may be given often.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="With --view: not before this time.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="With --view: before this time.")] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="With --view: how many rows.")] = 50,
    form: Annotated[Form, typer.Option("--format", "-f", help="How the result is written.")] = Form.TABLE,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file for it; csv and json go to the terminal without one.")] = None,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why: the ledger keeps it with your name and the question.")] = "a look",
    copy: CopyOption = None,
    config: ConfigOption = None,
) -> None:  # fmt: skip
    """Ask the ledger in SQL, read-only. Each question is itself recorded. No score is ever told or added up by natural person."""
    from monitor.audit.query import Tables, filtered

    if (sql is None) == (view is None):
        raise BarographError(
            'expected either SQL or --view; such as: barograph audit query "SELECT rule, count(*) FROM verdicts GROUP BY rule"'
        )
    if sql is None:
        pairs = [each.partition("=") for each in where or []]
        if wrong := [name for name, sign, _ in pairs if not sign]:
            raise BarographError(f"--where {wrong[0][:64]}: expected COLUMN=VALUE")
        moments = (moment(since) if since else None, moment(until) if until else None)
        sql = filtered(view or "", {name: value for name, _, value in pairs}, *moments, last)
    if form is (Form.PARQUET if out is None else Form.TABLE):
        raise BarographError("a table is for a terminal and parquet for a file: --out goes with --format csv, json or parquet")
    folder = copy or configured(config)
    if copy is None:
        act(config, "note", reason, event="queried", said=sql)
    tables = Tables(folder, sql, out, sealed=copy is not None)
    try:
        if out is not None:
            print(f"{tables.write(sql, out, form)} rows in {out}")
            return
        columns, rows = tables.ask(sql)
    finally:
        tables.close()
    _show(columns, rows, form)


@app.command()
def report(
    since: Annotated[str, typer.Option("--from", help="From this date or time on (ISO 8601, UTC).")],
    until: Annotated[str | None, typer.Option("--to", help="Before this one; by default now.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page; one that ends in .pdf is a PDF.")] = Path("report.html"),
    key: KeyOption = None,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why: the ledger keeps it with your name.")] = "a report",
    copy: CopyOption = None,
    config: ConfigOption = None,
) -> None:
    """One page on a time: what was judged, fired, overridden and failed, with pictures, and whether the ledger is whole."""
    from monitor.audit import report as page

    first, end = moment(since), moment(until) if until else time.time()
    if first >= end:
        raise BarographError(f"--from {since} is not before --to {until or 'now'}")
    if copy is None:
        act(config, "note", reason, event="reported", said=f"from {since} to {until or 'now'}")
    keys, whose = (
        (key, "whoever asked for this report")
        if key
        else ([_vkey(config)], "the ledger's keeper, so compare it with what you were given by another way")
    )
    made = page.report(copy or configured(config), first, end, keys, whose, sealed=copy is not None)
    try:
        if out.suffix == ".pdf":
            page.pdf(made, out)
        else:
            out.write_text(made, "utf-8")
    except OSError as error:
        raise BarographError(f"{out}: {error.strerror}; expected a file that can be written") from None
    print(out)


@app.command()
def incident(
    verdict: Annotated[int, typer.Argument(help="The number (seq) of a verdict that fired.", min=0)],
    reason: ReasonOption,
    aware: Annotated[str | None, typer.Option("--aware", help="When you became aware (ISO 8601); starts the clocks of Art. 73, and is recorded. By default now.")] = None,
    freeze: Annotated[bool, typer.Option(help="Block changes of rules, purges and erasures until somebody thaws.")] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The zip file.")] = None,
    config: ConfigOption = None,
) -> None:  # fmt: skip
    """Open an incident, and pack the evidence of its verdict: timeline, scores, rules, card, proofs, and a draft report with its dates."""
    from monitor.audit.incident import fired, pack
    from monitor.audit.proof import Prover
    from monitor.config import Config

    settings = Config.load(config)
    folder, place = settings.sidecar.ledger, out or Path(f"incident-{verdict}.zip")
    if place.exists():
        raise BarographError(f"{place}: it is there already; expected a new file")
    fired(Prover(folder), verdict)
    done = act(config, "incident", reason, verdict=verdict, aware_at=moment(aware) if aware else time.time(), freeze=freeze)
    _sealed(folder, done["incident"], settings.audit.checkpoint_s)
    card = settings.bank_folder() / "card.json"
    count = pack(folder, verdict, place, _vkey(config), card.read_bytes() if card.is_file() else None)
    print(f"{place}: {count} records with their proofs")
    for name, when in done["report_by"].items():
        print(f"report due for {name}: {datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M} UTC")
    if freeze:
        print("rules, purges and erasures are frozen until: barograph thaw --reason …")


@app.command()
def check(
    record: Annotated[Path, typer.Argument(help="A record's file.")],
    proof: Annotated[Path, typer.Argument(help="Its .tlog-proof.")],
    key: Annotated[list[str], typer.Option("--key", "-k", help="The log's vkey.")],
) -> None:
    """Check one record against its proof, without the ledger. Exit code 1 when it is not what the signed checkpoint covers."""
    from monitor.audit import verifier
    from monitor.audit.check import check as prove
    from probes.files import read_plain

    try:
        index, head = prove(read_plain(record, MAX_CHECKED), read_plain(proof, MAX_CHECKED), [verifier.Key.read(each) for each in key])
    except OSError as error:
        raise BarographError(f"{error.filename}: {error.strerror}; expected a record and its .tlog-proof") from None
    except verifier.Wrong as error:
        print(f"WRONG  {error}", file=sys.stderr)
        sys.exit(1)
    print(f"record {index} of {head.size} in {head.origin}: it is what the signed checkpoint covers")


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file, one finding a line.")],
    copy: CopyOption = None,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why: the ledger keeps it with your name.")] = "an export",
    config: ConfigOption = None,
) -> None:
    """Write all verdicts as OCSF Detection Findings (1.8), one JSON object a line, for a SIEM."""
    from monitor.audit.note import MAX_NOTE, Checkpoint
    from probes.files import read_plain

    folder = copy or configured(config)
    if copy is None:
        act(config, "note", reason, event="queried", said="export of all verdicts as OCSF findings")
    origin = Checkpoint.unverified(read_plain(folder / "checkpoint", MAX_NOTE)).origin
    count = 0
    try:
        with out.open("w", encoding="utf-8") as file:
            for finding in _findings(folder, origin):
                file.write(json.dumps(finding, ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise BarographError(f"{out}: {error.strerror}; expected a file that can be written") from None
    print(f"{count} findings in {out}")


@app.command("technical-file")
def technical_file(
    out: Annotated[Path, typer.Option("--out", "-o", help="The Markdown file.")] = Path("technical-file.md"),
    figures: Annotated[Path | None, typer.Option(help="A folder of benchmark results.")] = None,
    config: ConfigOption = None,
) -> None:
    """Fill the technical documentation of Annex IV as far as card, configuration, ledger and figures reach; blanks are marked."""
    from monitor.commands.technical import technical_file as fill
    from monitor.config import Config

    try:
        out.write_text(fill(Config.load(config), figures), "utf-8")
    except OSError as error:
        raise BarographError(f"{out}: {error.strerror}; expected a file that can be written") from None
    print(out)


def _findings(folder: Path, origin: str) -> Iterator[dict[str, Any]]:
    from monitor import __version__
    from monitor.audit.ocsf import finding
    from monitor.audit.reader import records

    models: dict[str, str] = {}
    for each in records(folder):
        if each["kind"] == "stream" and each.get("event") == "begin":
            about = each.get("request")
            models[str(each.get("stream"))] = str(about.get("model", "")) if isinstance(about, dict) else ""
        elif each["kind"] == "stream":
            models.pop(str(each.get("stream")), None)
        elif each["kind"] == "verdict":
            yield finding(each, origin, __version__, models.get(str(each.get("stream")), ""))


def _sealed(folder: Path, number: int, checkpoint_s: float) -> None:
    """Wait until a checkpoint covers the record: the sidecar seals from time to time."""
    from monitor.audit.proof import ProofError, Prover

    until = time.monotonic() + checkpoint_s + 30
    while True:
        try:
            Prover(folder).prove(number)
            return
        except ProofError as error:
            if time.monotonic() > until:
                raise BarographError(f"the incident is recorded as {number}, but no checkpoint covers it yet: {error}") from None
            time.sleep(0.2)


def _vkey(config: Path | None) -> str:
    from monitor.audit import keys
    from monitor.audit.note import LocalSigner, PublicKey
    from monitor.config import Config

    settings = Config.load(config)
    if settings.audit.vkey is not None:
        return PublicKey.parse(settings.audit.vkey).vkey
    return LocalSigner.parse(keys.read(settings.audit.key or keys.beside(settings.sidecar.ledger))).key.vkey


def _plain(value: Any) -> Any:
    """As JSON has it, else as text."""
    return (
        value
        if isinstance(value, int | float | str | bool | None)
        else [_plain(each) for each in value]
        if isinstance(value, list)
        else str(value)
    )


def _show(columns: list[str], rows: list[tuple[Any, ...]], form: Form) -> None:
    if form is Form.JSON:
        for row in rows:
            print(json.dumps({name: _plain(value) for name, value in zip(columns, row, strict=True)}, ensure_ascii=False))
    elif form is Form.CSV:
        import csv

        table = csv.writer(sys.stdout)
        table.writerow(columns)
        table.writerows(rows)
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(*columns)
        for row in rows:
            shown.add_row(*(Text("" if value is None else str(value)) for value in row))
        Console().print(shown)
        print(f"{len(rows)} rows")
