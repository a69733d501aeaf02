"""Names for what clients send that may be personal: the same for the same value, useless to whoever lacks the key, and nobody's once the key has gone."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from pathlib import Path

from monitor.audit.disk import Disk
from probes.files import read_plain

log = logging.getLogger("barograph.ledger")

KEPT_S = 30 * 24 * 3600.0  # then a new key takes the place of the old one, which is destroyed
MAX_FILE = 4096


def beside(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + ".pseudonyms")


class Pseudonyms:
    """Keyed by a secret in a file beside the ledger. A secret that can't be kept is a new one at each start, and a log line says so."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._key, self._since = self._read()

    def of(self, kind: str, value: str) -> str:
        """24 hexadecimal digits. Names of different kinds have nothing to do with each other."""
        if not 0 <= time.time() - self._since < KEPT_S:
            self._key, self._since = self._new()
        return hashlib.blake2b(
            value.encode(errors="surrogatepass"), key=self._key, person=kind.encode()[: hashlib.blake2b.PERSON_SIZE], digest_size=12
        ).hexdigest()

    def _read(self) -> tuple[bytes, float]:
        try:
            said = json.loads(read_plain(self._file, MAX_FILE))
            key, since = bytes.fromhex(said["key"]), float(said["since"])
            if len(key) == 32:
                return key, since
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("%s: %s; pseudonyms begin anew", self._file, error)
        return self._new()

    def _new(self) -> tuple[bytes, float]:
        key, since = secrets.token_bytes(32), time.time()
        try:
            Disk().put({self._file: json.dumps({"key": key.hex(), "since": since}).encode()})
        except OSError as error:
            log.error("%s: %s; pseudonyms will be others after the next start", self._file, error)
        return key, since
