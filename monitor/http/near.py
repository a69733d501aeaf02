"""How whoever has the configuration reaches a listener of it on this machine."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monitor.http.tls import TlsConfig, client_context


@dataclass(frozen=True)
class Near:
    """One of our own listeners, with its certificate where it has one. Who asks there follows no proxy of the environment's: it would get the token."""

    address: tuple[str, int]
    tls: TlsConfig | None = None

    def url(self, path: str = "") -> str:
        return f"{'http' if self.tls is None else 'https'}://{host(self.address)}{path}"

    @cached_property
    def trust(self) -> ssl.SSLContext | bool:
        """For httpx's `verify` and aiohttp's `ssl`. Raises ConfigError for a certificate that cannot be read."""
        return True if self.tls is None else client_context(self.tls)


def host(address: tuple[str, int] | Path) -> str:
    """Where a listener on this machine is reached."""
    if isinstance(address, Path):
        return f"unix:{address}"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
    return f"[{name}]:{address[1]}" if ":" in name else f"{name}:{address[1]}"
