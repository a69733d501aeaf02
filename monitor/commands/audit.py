"""`barograph audit`: verify, prove and read the ledger, and make its keys. None of it needs a running sidecar."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from monitor.errors import BarographError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The ledger: verify it, prove a record, follow it.")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="BAROGRAPH_CONFIG", help="The YAML configuration; without it, the defaults.")
]
LedgerArgument = Annotated[Path | None, typer.Argument(help="The ledger's folder; by default the configured one.")]
LedgerOption = Annotated[Path | None, typer.Option("--ledger", help="The ledger's folder; by default the configured one.")]
LOOK_S = 0.5


@app.command()
def verify(
    ledger: LedgerArgument = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", "-k", help="The log's vkey, from somewhere else than the ledger's folder.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A tlog-policy file: logs, witnesses, and how many of them must agree.")] = None,
    since: Annotated[list[Path] | None, typer.Option(help="A file of checkpoints that were kept earlier; may be given often.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Check every record, hash and signature, offline. Exit code 1 when something is wrong."""
    from monitor.audit import verifier

    folder = ledger or configured(config)
    try:
        keys = [verifier.Key.read(each) for each in key or []]
        trusted = verifier.Policy.read(policy.read_text("latin-1")) if policy else verifier.Policy()
        if not keys and not trusted.logs:
            raise BarographError(
                "no key of the log is given; expected --key VKEY (`barograph audit key` prints it), or a policy with a log line"
            )
        report = verifier.verify(folder, keys, trusted, [note for each in since or [] for note in _notes(each)])
    except (verifier.Wrong, OSError) as error:
        raise BarographError(f"cannot verify {folder}: {error}") from None
    if as_json:
        print(json.dumps(vars(report), indent=1))
    else:
        _tell(report)
        if unsealed := _unsealed(folder, report.records):
            print(f"{unsealed} newer records are on the disk and under no checkpoint yet")
    sys.exit(1 if report.problems else 0)


@app.command()
def prove(
    record: Annotated[int, typer.Argument(help="The record's number (its seq).", min=0)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the record and its proof.")] = Path("."),
    ledger: LedgerOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a record and the proof that a signed checkpoint covers it, for somebody who does not have the ledger."""
    from monitor.audit.proof import prove as make

    entry, proof = make(ledger or configured(config), record)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{record}.json").write_bytes(entry)
        (out / f"{record}.tlog-proof").write_text(proof)
    except OSError as error:
        raise BarographError(f"{out}: {error.strerror}; expected a folder that can be written") from None
    print(f"{out / f'{record}.json'}\n{out / f'{record}.tlog-proof'}")


@app.command()
def tail(
    ledger: LedgerArgument = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only records of this kind; may be given often.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many of the last ones.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    config: ConfigOption = None,
) -> None:
    """Print the last records, one a line."""
    from collections import deque

    from monitor.audit.reader import Reader

    def wanted(entry: bytes) -> bool:
        return not kind or json.loads(entry)["kind"] in kind

    reader = Reader(ledger or configured(config))
    last: deque[bytes] = deque(maxlen=count)
    while some := reader.take():
        last.extend(entry for entry in some if wanted(entry))
    for entry in last:
        print(entry.decode())
    while follow:
        for entry in (some := reader.take()):
            if wanted(entry):
                print(entry.decode())
        sys.stdout.flush()
        if not some:
            time.sleep(LOOK_S)


@app.command()
def key(
    new: Annotated[str | None, typer.Option("--new", help="Make a key for a log of this name, such as example.com/barograph.")] = None,
    file: Annotated[Path | None, typer.Option(help="The key's file; by default the configured one.")] = None,
    config: ConfigOption = None,
) -> None:
    """Print the public key that auditors need, or make a new pair."""
    from monitor.audit import keys
    from monitor.audit.note import LocalSigner, PublicKey
    from monitor.config import Config

    settings = Config.load(config)
    path = file or settings.audit.key or keys.beside(settings.sidecar.ledger)
    if new is not None:
        found = keys.new(path, new).key
    elif settings.audit.vkey is not None and file is None:
        found = PublicKey.parse(settings.audit.vkey)
    else:
        found = LocalSigner.parse(keys.read(path)).key
    print(found.vkey)


@app.command()
def rotate(
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why: the ledger keeps it.")],
    ledger: LedgerOption = None,
    file: Annotated[Path | None, typer.Option(help="The key's file; by default the configured one.")] = None,
    config: ConfigOption = None,
) -> None:
    """Give the ledger a new key, while no sidecar writes it. Both keys sign the checkpoint that covers the change."""
    from monitor.audit import keys
    from monitor.config import Config

    settings = Config.load(config)
    folder = ledger or settings.sidecar.ledger
    if not reason.strip():
        raise BarographError("a change of keys needs a reason; expected one that a reader of the ledger understands")
    old, new, kept = keys.rotate(folder, file or settings.audit.key or keys.beside(folder), reason)
    print(f"old  {old.vkey}\nnew  {new.vkey}\nboth signed {kept}: give it to auditors with the new key")


@app.command()
def pseudonym(
    kind: Annotated[Literal["request", "conversation"], typer.Argument(help="What is looked for.")],
    value: Annotated[str, typer.Argument(help="A client's X-Request-Id; or, of a conversation, its header.")],
    tenant: Annotated[str, typer.Option(help="Whose conversation it is.")] = "",
    ledger: LedgerOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the name that the ledger has for what a client sent. It takes the secret file beside the ledger, and holds until the next secret."""
    from monitor.audit.pseudonyms import Pseudonyms, beside

    file = beside(ledger or configured(config))
    if not file.is_file():
        raise BarographError(f"{file}: no such file; expected the secret of the ledger's pseudonyms")
    print(Pseudonyms(file).of(kind, value if kind == "request" else f"{tenant}\0{value}"))


@app.command()
def witness(
    log: Annotated[list[str], typer.Option("--log", help="The vkey of a log that is cosigned here; may be given often.")],
    folder: Annotated[Path, typer.Option(help="Where the witness keeps its key and what it cosigned.")] = Path("barograph-witness"),
    name: Annotated[str, typer.Option(help="The witness's name, when its key is made.")] = "witness.example/barograph",
    listen: Annotated[str, typer.Option(help="HOST:PORT.")] = "127.0.0.1:8402",
) -> None:
    """Cosign other people's logs: a log that is rolled back or forked gets no signature. Run it where the log's keeper has no hand."""
    from pydantic import TypeAdapter, ValidationError

    from monitor.commands.witness import serve
    from monitor.config import Address

    try:
        where = TypeAdapter(Address).validate_python(listen)
    except ValidationError as error:
        raise BarographError(f"--listen: {error.errors()[0]['msg']}") from None
    serve(folder, name, where, log)


def configured(config: Path | None) -> Path:
    from monitor.config import Config

    return Config.load(config).sidecar.ledger


def _unsealed(folder: Path, sealed: int) -> int:
    from monitor.audit.reader import Reader

    reader, count = Reader(folder, sealed), 0
    try:
        while some := reader.take():
            count += len(some)
    except BarographError:
        pass  # what was found wrong has been told
    finally:
        reader.close()
    return count


def _notes(file: Path) -> list[bytes]:
    """The signed notes of a file, one behind the other, as `audit.checkpoints` keeps them."""
    found = re.findall(rb"(?:[^\n]+\n)+\n(?:\xe2\x80\x94 [^\n]+\n)+", file.read_bytes())
    if not found:
        raise BarographError(f"{file}: it holds no checkpoint; expected signed notes")
    return found


def _tell(report: Any) -> None:
    def at(seconds: float) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

    print(f"{report.records} records of {report.origin}, root {report.root}")
    if report.records:
        print(f"from {at(report.first)} to {at(report.last)}; the longest silence was {report.silence:.1f} s")
    if report.purged:
        print(f"{report.purged} old records were purged by the ledger's keeper, and are known by their hashes")
    print(f"{report.lost} records were lost, and the ledger names them" if report.lost else "no record was lost")
    if report.unwitnessed:
        print(f"{report.unwitnessed} records came after the last checkpoint with a quorum of witnesses")
    for problem in report.problems:
        print(f"WRONG  {problem}", file=sys.stderr)
    print("something is wrong" if report.problems else "nothing is wrong: every record is what the signed checkpoint says")
