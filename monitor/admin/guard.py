"""Who may ask what of the admin address. A web page in a browser on this machine reaches loopback too, so it is not enough to be near."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN = "BAROGRAPH_ADMIN_TOKEN"
READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Lets a request through that names this address as its host, comes from no foreign page, and has the token when it changes something.

    `hosts`: names under which the address is reached, beside loopback's and the address of the connection itself. A name that leads here
    all the same (DNS rebinding) is refused. `is_open`: changes need no token.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), is_open: bool = False) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._known(name_of(hosts[0]), scope):
            return _no(
                421,
                f"host {', '.join(hosts)[:200] or 'missing'} is not this one; expected loopback, the address itself, or a name in sidecar.admin_hosts",
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower()):
            return _no(403, f"a page of {origin[:200]} may not ask here; expected one of http://{hosts[0][:200]}, or no browser")
        if scope["method"] in READS:
            return None
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return _no(415, "expected content-type: application/json")
        return None if self._open else _without_token(headers)

    def _known(self, name: str, scope: Scope) -> bool:
        server = scope.get("server")
        if name == "localhost" or name in self._hosts or (server is not None and name == str(server[0]).lower()):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def name_of(host: str) -> str:
    """The name or address in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() and name else host).lower()


def _without_token(headers: Headers) -> Response | None:
    wanted = os.environ.get(TOKEN, "")
    if not wanted:
        return _no(403, f"changes need a bearer token: set {TOKEN} for the sidecar and send it, or set sidecar.admin_open: true")
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), os.fsencode(wanted)):
        return None
    return _no(401, f"expected the bearer token of {TOKEN}")


def _no(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status, {"www-authenticate": "Bearer"} if status == 401 else None)
