"""`barograph doctor`: what is missing on this machine, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape

from monitor import models, packaged, wire
from monitor.config import Config
from monitor.errors import BarographError
from monitor.http.tls import Tls
from monitor.pipeline import rulefiles
from monitor.pipeline.receiver import answers
from probes.bank import BankError
from rules.document import DocumentError
from rules.engine import RuleEngine

ENGINE_PACKAGES = ("torch", "transformers", "nnsight", "accelerate", "gguf", "scikit-learn")
DISK_GB, MEMORY_GB = 3, 2
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Finding:
    """One check: ok, or what to do. A `needed` one makes the exit code 1."""

    what: str
    ok: bool
    text: str
    needed: bool = True


def doctor(config: Config) -> int:
    """Print every finding; 0 when nothing that is needed is missing."""
    console = Console()
    missing = False
    for finding in findings(config):
        mark = "[green]ok [/green]" if finding.ok else "[red]-- [/red]" if finding.needed else "[yellow]?  [/yellow]"
        console.print(f"{mark} {finding.what}: {escape(finding.text)}", highlight=False, soft_wrap=True)
        missing |= finding.needed and not finding.ok
    return int(missing)


def findings(config: Config) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info < (3, 14)
    yield Finding("Python", supported, version if supported else f"{version}; supported are 3.11, 3.12 and 3.13")
    yield Finding(
        "operating system",
        sys.platform == "linux",
        sys.platform if sys.platform == "linux" else f"{sys.platform}; the tap's socket needs Linux",
    )
    for package in ENGINE_PACKAGES:
        yield _package(package)
    yield _model(config)
    yield from _bank_and_rules(config)
    yield from (
        _port(name, address)
        for name, address in (("gateway", config.gateway.listen), ("admin", config.sidecar.admin), ("engine", config.engine.listen))
    )
    yield from _certificates(config)
    yield _socket(config.socket)
    yield _ledger(config.sidecar.ledger)
    yield _disk()
    yield _memory(config.engine.model)
    yield _kafka(config)
    yield from _running(config)


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed; the engine needs it: pip install 'barograph[engine]'")


def _model(config: Config) -> Finding:
    name = config.engine.model
    try:
        models.check(name)
    except BarographError as error:
        return Finding("model", False, str(error))
    if models.is_cached(name):
        return Finding("model", True, f"{models.served_name(name)} is on this machine, in {models.resolve(name)}")
    return Finding("model", False, f"{models.served_name(name)} is not here yet; the first start fetches it", needed=False)


def _bank_and_rules(config: Config) -> Iterator[Finding]:
    try:
        bank = config.load_bank()
    except (BankError, BarographError) as error:
        yield Finding("bank", False, str(error))
        return
    yield Finding("bank", True, f"{len(bank.names)} probes for {bank.card.model.name}: {', '.join(bank.names)}")
    try:
        rules = RuleEngine(rulefiles.load(config.rules, config.trust.plain), rulefiles.facts(bank), rulefiles.abilities(config))
        yield Finding("rules", True, f"{len(rules.rules)} in {config.rules}")
    except (BarographError, DocumentError) as error:
        yield Finding("rules", False, str(error))


def _port(name: str, address: tuple[str, int] | Path) -> Finding:
    if isinstance(address, Path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            free = probe.connect_ex(str(address)) != 0
        return Finding(
            f"{name} socket", free, f"{address} is free" if free else f"{address}: somebody listens; is barograph up already?", needed=False
        )
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            return Finding(f"{name} port", True, f"{address[0]}:{address[1]} is free")
        except OSError as error:
            return Finding(
                f"{name} port",
                False,
                f"{address[0]}:{address[1]}: {error.strerror}; is barograph up already? else choose another in the configuration",
                needed=False,
            )


def _certificates(config: Config) -> Iterator[Finding]:
    """Those of our listeners: whether they can serve, and until when."""
    for name, files in (("gateway", config.gateway.tls), ("admin", config.sidecar.tls)):
        if files is None:
            continue
        try:
            until = datetime.fromtimestamp(Tls(files).expires, UTC)
        except BarographError as error:
            yield Finding(f"certificate of {name}", False, str(error))
            continue
        well = until > datetime.now(UTC)
        yield Finding(f"certificate of {name}", well, f"{files.cert_file} {'holds until' if well else 'ended'} {until:%Y-%m-%d %H:%M} UTC")


def _socket(path: Path) -> Finding:
    try:
        wire.check_path(path)
    except BarographError as error:
        return Finding("socket", False, str(error))
    if answers(path):
        return Finding("socket", False, f"{path}: a sidecar listens there already", needed=False)
    folder = path.absolute().parent
    usable = os.access(folder, os.W_OK)
    return Finding(
        "socket", usable, f"{path} can be made" if usable else f"folder {folder} cannot be written; set 'socket' to another path"
    )


def _ledger(path: Path) -> Finding:
    target = path if path.exists() else path.absolute().parent
    usable = os.access(target, os.W_OK)
    return Finding(
        "ledger", usable, f"{path} can be written" if usable else f"{target} cannot be written; set 'sidecar.ledger' to another path"
    )


def _disk() -> Finding:
    folder = models.cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    return Finding(
        "disk",
        free >= DISK_GB,
        f"{free:.0f} GB free under {folder}" + ("" if free >= DISK_GB else f"; needs {DISK_GB} GB for the model, or set BAROGRAPH_HOME"),
    )


def _memory(model: str) -> Finding:
    known = None if models.is_cached(model) else packaged.find(model)  # its first start converts it
    needs = max(MEMORY_GB, known.memory_gb if known else 0)
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) / 1e6
    what = f"the first start of {known.served}" if known else "a small model"
    return Finding("memory", free >= needs, f"{free:.1f} GB available" + ("" if free >= needs else f"; {what} needs {needs:g} GB"))


def _kafka(config: Config) -> Finding:
    kafka = config.sidecar.kafka
    if kafka is None:
        return Finding("Kafka", True, "off (set sidecar.kafka.bootstrap to publish verdicts)", needed=False)
    why = ""
    for broker in kafka.bootstrap.split(","):
        name, _, port = broker.strip().rpartition(":")
        try:
            socket.create_connection((name.strip("[]"), int(port)), timeout=2).close()
            return Finding("Kafka", True, f"{broker} answers")
        except (OSError, ValueError) as error:
            why = str(error)
    return Finding("Kafka", False, f"{kafka.bootstrap} does not answer ({why}); verdicts wait in the ledger until it does", needed=False)


def _running(config: Config) -> Iterator[Finding]:
    """What the sidecar that runs with this configuration says of itself, where one does."""
    near = config.sidecar.near
    try:
        said = httpx.get(near.url("/health"), timeout=2, verify=near.trust, trust_env=False).json()
        reasons, sinks = list(said.get("reasons", [])), dict(said.get("sinks", {}))
    except (httpx.HTTPError, ValueError, TypeError, AttributeError, BarographError):
        return  # a certificate that cannot be read was named above
    well = said.get("status") == "ok" and not reasons
    yield Finding(
        "sidecar",
        well,
        "it runs, and serves"
        if well
        else "; ".join(map(str, reasons)) or f"it says {said.get('status')}, and its reasons only to who has a token",
        needed=False,
    )
    for sink, state in sinks.items():
        yield Finding(f"sink {sink}", state == "ok", str(state), needed=False)
