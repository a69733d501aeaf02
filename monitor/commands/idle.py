"""`barograph idle`: wait until no reply runs, as before an engine is stopped."""

from __future__ import annotations

import time

import httpx

from monitor.config import Config
from monitor.errors import BarographError
from monitor.http.near import Near

LOOK_S = 0.2


def idle(near: Near, seconds: float) -> bool:
    """Whether all replies have ended within `seconds`. Where nobody listens none runs; one that listens and does not answer may run some.

    Raises BarographError for an address of something else.
    """
    until = time.monotonic() + seconds
    with httpx.Client(verify=near.trust, timeout=5, trust_env=False) as client:
        while True:
            try:
                status = client.get(near.url("/idle")).status_code
            except httpx.ConnectError as error:
                if _refused(error):
                    return True
                status = 503
            except httpx.HTTPError:
                status = 503  # slow, or a handshake that failed
            if status not in (200, 503):
                raise BarographError(f"{near.url('/idle')} answered with status {status}; expected a sidecar's admin address")
            if status == 200 or time.monotonic() >= until:
                return status == 200
            time.sleep(LOOK_S)


def _refused(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False


def near_of(config: Config, admin: str | None) -> Near:
    """The configured admin address, or HOST:PORT, with or without its scheme. Raises BarographError."""
    if admin is None:
        return config.sidecar.near
    host, _, port = admin.rpartition("//")[2].rstrip("/").rpartition(":")
    if not host or not port.isdigit():
        raise BarographError(f"--admin {admin}: expected HOST:PORT such as 127.0.0.1:8401")
    if admin.startswith("https://") and config.sidecar.tls is None:
        raise BarographError(
            f"--admin {admin}: whose certificate is expected there? Set sidecar.tls in the configuration, as the sidecar has it"
        )
    return Near((host.strip("[]"), int(port)), config.sidecar.tls)
