"""TLS for our listeners: from files, read again when they are renewed."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field

from monitor.errors import ConfigError

log = logging.getLogger("barograph.tls")

LOOK_S = 5.0


class TlsConfig(BaseModel):
    """A listener's certificate. Files that are renewed are read again within seconds; new connections get them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert_file: Path = Field(description="the certificate and what it hangs on, as PEM")
    key_file: Path = Field(description="its private key, without a password")
    client_ca_file: Path | None = Field(
        None, description="who may vouch for clients: without a certificate by them nobody is answered (mTLS)"
    )


class Tls:
    """The context of one listener. `expires`: when what it serves ends, in seconds since 1970. `failed`: why renewed files were not taken."""

    def __init__(self, files: TlsConfig) -> None:
        """Raises ConfigError for files that cannot serve."""
        self._files = files
        self._seen = self._state()
        self.context = server_context(files)
        self.expires = _end(files.cert_file)
        self.failed = ""

    def look(self) -> None:
        """Take renewed files. A client authority that is taken out of its file goes with the next start: a context forgets none."""
        if (now := self._state()) == self._seen:
            return
        self._seen = now
        try:
            server_context(self._files)  # a bad half of a pair must not come into the one that serves
            _load(self.context, self._files)
            self.expires = _end(self._files.cert_file)
        except ConfigError as error:
            self.failed = f"certificate not read anew, the one before stays: {error}"
            log.error("%s", self.failed)
        else:
            self.failed = ""
            log.info("certificate read anew from %s", self._files.cert_file)

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def _state(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in (self._files.cert_file, self._files.key_file, self._files.client_ca_file):
            try:
                about = path.stat() if path is not None else None
            except OSError:
                about = None
            found.append((about.st_mtime_ns, about.st_ino) if about is not None else (0, 0))
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
    try:
        context.load_verify_locations(files.cert_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{files.cert_file}: {_why(error)}; expected a certificate as PEM") from None
    if files.client_ca_file is not None:
        _pair(context, files)
    return context


def _end(file: Path) -> float:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())[0].not_valid_after_utc.timestamp()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {_why(error)}; expected a certificate as PEM") from None


def _load(context: ssl.SSLContext, files: TlsConfig) -> None:
    _pair(context, files)
    if files.client_ca_file is not None:
        try:
            context.load_verify_locations(files.client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{files.client_ca_file}: {_why(error)}; expected certificates of authorities as PEM") from None


def _pair(context: ssl.SSLContext, files: TlsConfig) -> None:
    try:
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
