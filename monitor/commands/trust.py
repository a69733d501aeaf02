"""`barograph trust`: who vouches for banks and rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monitor.commands.audit import ConfigOption
from monitor.errors import BarographError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Sign banks and rules, and check who did.")
WhatArgument = Annotated[Path, typer.Argument(help="A bank's folder, or a rule file.")]


@app.command()
def key(
    file: Annotated[Path, typer.Argument(help="The private key's file.")],
    new: Annotated[str | None, typer.Option("--new", help="Make a pair of this name, such as example.com/probes.")] = None,
) -> None:
    """Print the public key for trust.keys, or make a new pair. Keep the private one away from the machines that serve."""
    from monitor.audit import keys
    from monitor.audit.note import LocalSigner

    print((keys.new(file, new) if new is not None else LocalSigner.parse(keys.read(file))).key.vkey)


@app.command()
def sign(what: WhatArgument, key: Annotated[Path, typer.Option("--key", "-k", help="The private key's file.")]) -> None:
    """Sign a bank, or a rule file with all that it includes. Read it first: your name stands under it."""
    from monitor.audit import keys
    from monitor.audit.manifest import Manifest, note_of
    from monitor.audit.note import LocalSigner
    from probes.files import replace

    manifest, note = Manifest(_files(what)), note_of(what)
    raw = manifest.sign(LocalSigner.parse(keys.read(key)))
    try:
        replace(note, raw)  # a folder of somebody else's may have a link there, to a file of yours
    except OSError as error:
        raise BarographError(f"{note}: {error.strerror}; expected a folder that can be written") from None
    print(manifest.text + f"signed: {note}")


@app.command()
def check(
    what: WhatArgument,
    key: Annotated[list[str] | None, typer.Option("--key", "-k", help="A public key; by default those of trust.keys.")] = None,
    config: ConfigOption = None,
) -> None:
    """Say who signed a bank or a rule file. Exit code 2 when nobody did who counts, or a byte was changed."""
    from monitor.audit.manifest import Trust, note_of
    from monitor.audit.note import PublicKey
    from monitor.config import Config

    keys = tuple(PublicKey.parse(each) for each in key or Config.load(config).trust.keys)
    if not keys:
        raise BarographError("no key to check by; expected --key, or trust.keys in the configuration")
    print(f"signed by {Trust(keys, required=True).check(note_of(what), _files(what))}")


def _files(what: Path) -> dict[str, str]:
    from monitor.pipeline.rulefiles import Reading
    from probes.bank import Bank

    if what.is_dir():
        return Bank.load(what).files
    reading = Reading(what)
    reading.ruleset()
    if not reading.files:
        raise BarographError(f"{what} is a shipped pack; it needs no signature")
    return reading.files
