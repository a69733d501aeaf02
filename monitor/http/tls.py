"""TLS for our listeners: from files, read again when they are renewed."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field

from monitor.errors import ConfigError
from probes.files import read_plain

log = logging.getLogger("barograph.tls")

LOOK_S = 5.0
MAX_FILE = 1 << 20  # bytes


class TlsConfig(BaseModel):
    """A listener's certificate. Files that are renewed are read again within seconds; new connections get them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert_file: Path = Field(description="the certificate and what it hangs on, as PEM")
    key_file: Path = Field(description="its private key, without a password")
    client_ca_file: Path | None = Field(
        None, description="who may vouch for clients: without a certificate by them nobody is answered (mTLS)"
    )


class Tls:
    """The context of one listener. `expires`: when what it serves ends, in seconds since 1970. `failed`: why renewed files were not taken.

    Each handshake gets the newest context that was made whole, so that no half of a renewed pair comes into one that serves.
    """

    def __init__(self, files: TlsConfig) -> None:
        """Raises ConfigError for files that cannot serve."""
        self._files = files
        self._seen = self._state()
        self.context = self._newest = server_context(files)
        self.context.sni_callback = self._take_newest
        self.expires = _end(files.cert_file)
        self.failed = ""

    def look(self) -> None:
        """Take renewed files."""
        if (now := self._state()) == self._seen:
            return
        self._seen = now
        try:
            newest, expires = server_context(self._files), _end(self._files.cert_file)
        except ConfigError as error:
            self.failed = f"certificate not read anew, the one before stays: {error}"
            log.error("%s", self.failed)
        else:
            self._newest, self.expires, self.failed = newest, expires, ""
            log.info("certificate read anew from %s", self._files.cert_file)

    def _take_newest(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called in each handshake, whether the client names a server or not."""
        connection.context = self._newest

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in (self._files.cert_file, self._files.key_file, self._files.client_ca_file):
            try:
                about = path.stat() if path is not None else None
            except OSError:
                about = None
            found.append((about.st_mtime_ns, about.st_size, about.st_ino) if about is not None else (0, 0, 0))
        return tuple(found)


def server_context(files: TlsConfig) -> ssl.SSLContext:
    """TLS 1.2 and later. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, files)
    if files.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsConfig) -> ssl.SSLContext:
    """For whoever has the listener's own files: trusts that certificate under whatever name it is reached, and shows it where one is asked for.

    Raises ConfigError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate itself is expected, not one of many that name a host
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Of a chain the first: whoever trusted the others would take every certificate that their authority gave anybody.
    context.load_verify_locations(cadata=_own(files.cert_file).public_bytes(Encoding.DER))
    if files.client_ca_file is not None:
        _pair(context, files)
    return context


def _own(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(read_plain(file, MAX_FILE))[0]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {_why(error)}; expected a certificate as PEM") from None


def _end(file: Path) -> float:
    return _own(file).not_valid_after_utc.timestamp()


def _load(context: ssl.SSLContext, files: TlsConfig) -> None:
    _pair(context, files)
    if files.client_ca_file is not None:
        try:
            read_plain(files.client_ca_file, MAX_FILE)
            context.load_verify_locations(files.client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{files.client_ca_file}: {_why(error)}; expected certificates of authorities as PEM") from None


def _pair(context: ssl.SSLContext, files: TlsConfig) -> None:
    try:
        for file in (files.cert_file, files.key_file):
            read_plain(file, MAX_FILE)  # OpenSSL would wait for whoever writes a pipe
        context.load_cert_chain(files.cert_file, files.key_file, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{files.cert_file} with {files.key_file}: {_why(error)}; expected a certificate and its private key as PEM, the key without a password"
        ) from None


def _no_password() -> str:
    """Asked only for a key that has one: else OpenSSL would ask the terminal, and wait."""
    raise ValueError("the key has a password")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM").lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
