"""`barograph audit hold`, `release`, `purge`, `erase`, `archive`, `restore`, `content` and `import`: what keeps or gives up parts of the ledger."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.commands.audit import ConfigOption, LedgerOption, app, configured
from monitor.errors import BarographError

ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why: the ledger keeps it with your name.")]


def act(config: Path | None, what: str, reason: str, **about: Any) -> dict[str, Any]:
    """Have it done by the sidecar that writes the ledger, or do it here when none does. Raises BarographError."""
    from monitor.admin.custodian import custody_of, open_ledger
    from monitor.audit.lock import LockError
    from monitor.commands.orders import ask
    from monitor.config import Config

    settings = Config.load(config)
    if not (settings.sidecar.ledger / "checkpoint").is_file():
        raise BarographError(f"{settings.sidecar.ledger}: no ledger; expected the folder that sidecar.ledger names")
    try:
        ledger = open_ledger(settings)
    except LockError:
        return ask(config, "POST", "/audit", {"act": what, "reason": reason, **about})
    try:
        return custody_of(settings, ledger).act(what, getpass.getuser(), reason, about)
    finally:
        ledger.close()


@app.command()
def hold(
    name: Annotated[str, typer.Argument(help="A name of your own, such as case-2026-17.")], reason: ReasonOption, config: ConfigOption = None
) -> None:  # fmt: skip
    """Keep everything: while a hold stands, nothing is purged and nothing is erased."""
    print(f"held; there are now: {', '.join(act(config, 'hold', reason, name=name)['holds'])}")


@app.command()
def release(name: Annotated[str, typer.Argument(help="The hold's name.")], reason: ReasonOption, config: ConfigOption = None) -> None:
    """Take a hold back."""
    print(f"released; there are now: {', '.join(act(config, 'release', reason, name=name)['holds']) or 'none'}")


@app.command()
def purge(reason: ReasonOption, config: ConfigOption = None) -> None:
    """Remove what is older than audit.retention allows, now. Hashes stay, so that all that is left can be proved."""
    done = act(config, "purge", reason)
    print(f"purged {done['records']} records and {done['content']} pieces of content")


@app.command()
def erase(
    subject: Annotated[str, typer.Option("--subject", help="As the header of audit.subject_header named it, or the request's own id.")],
    reason: ReasonOption,
    tenant: Annotated[str, typer.Option(help="Whose subject it is.")] = "",
    config: ConfigOption = None,
) -> None:
    """Destroy all content of a subject, and the key that it was sealed with. The ledger and its proofs stay as they are."""
    from monitor.gateway.contents import subject_of

    print(f"erased {act(config, 'erase', reason, subject=subject_of(tenant, subject))['content']} pieces of content, and their key")


@app.command()
def content(
    request: Annotated[str, typer.Argument(help="The request's id, as a reply record has it.")],
    reason: ReasonOption,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
) -> None:
    """Print what was asked and answered, where it was kept, and check it against the ledger's commitment. The look is recorded."""
    from monitor.audit.reader import records
    from monitor.audit.vault import Vault, beside

    folder = ledger or configured(config)
    found = [each for each in records(folder) if each["kind"] == "content" and each["request"] == request and each["event"] == "kept"]
    if not found:
        raise BarographError(f"{folder}: no content was kept of request {request[:64]}; audit.level: content keeps it")
    act(config, "note", reason, event="viewed", said=f"content of request {request}")
    for each in found:
        sys.stdout.write(Vault(beside(folder)).get(each["content"], each["commitment"]).decode() + "\n")


@app.command()
def archive(config: ConfigOption = None) -> None:
    """Copy what was sealed since the last time to audit.archive, now."""
    from monitor.audit.archive import Archive
    from monitor.config import Config

    settings = Config.load(config)
    if settings.audit.archive is None:
        raise BarographError("there is no archive; set audit.archive: {endpoint: …, bucket: …}")
    before, size = Archive(settings.audit.archive.place).copy(settings.sidecar.ledger)
    print(f"copied {size - before} records; the archive has {size}")


@app.command()
def restore(
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.")], config: ConfigOption = None
) -> None:  # fmt: skip
    """Fetch the archive's newest copy into a new folder, to be verified like any ledger."""
    from monitor.audit.archive import Archive
    from monitor.config import Config

    place = Config.load(config).audit.archive
    if place is None:
        raise BarographError("there is no archive; set audit.archive: {endpoint: …, bucket: …}")
    print(f"{Archive(place.place).restore(out)} records; check them: barograph audit verify {out} --key …")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A ledger of one JSON line a record, as versions before the log wrote it.")],
    reason: ReasonOption,
    config: ConfigOption = None,
) -> None:
    """Take an old file's records into the ledger, once, while no sidecar runs. They are marked as imported: nothing proves them older than that."""
    from monitor.admin.custodian import open_ledger
    from monitor.audit.importing import take
    from monitor.config import Config

    kept = open_ledger(Config.load(config))
    try:
        print(f"imported {take(kept, file, getpass.getuser(), reason)} records")
    finally:
        kept.close()
