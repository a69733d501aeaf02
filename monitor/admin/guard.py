"""Who may ask what of the admin address. A web page in a browser on this machine reaches loopback too, so it is not enough to be near."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from monitor.admin.access import TOKEN, Access, Person, Role

READS = frozenset({"GET", "HEAD", "OPTIONS"})
PROBES = frozenset({"/live", "/health", "/idle"})  # an orchestrator asks these without a token, and gets a status and nothing else
EVIDENCE = frozenset({"/audit"})  # auditors too; which act is whose is said there
PAGE, FILES = frozenset({"/", "/page"}), "/page/files/"  # the page itself says nothing; what it asks for needs what everybody needs
PLAY = "/page/chat"  # one who is near reaches the gateway anyway, and a chat changes nothing
ADMINS = frozenset({"/rules/reload", "/rules/thaw"})


class Guard:
    """Lets a request through that names this address as its host, comes from no foreign page, and has a token for what it wants.

    `hosts`: names under which the address is reached, beside loopback's and the address of the connection itself. A name that leads here
    all the same (DNS rebinding) is refused. `near`: only this machine reaches the address, so that reading needs no token. `is_open`:
    changes need none either. Whoever asks is in the scope's state as `person`; `near` says that it is somebody without a token who named loopback as the host. `refused` hears of each refusal, by one word.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], access: Access, near: bool = True, is_open: bool = False,
        refused: Callable[[str], None] = lambda why: None,
    ) -> None:  # fmt: skip
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._access = access
        self._near = near
        self._open = is_open
        self._count = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._known(name_of(hosts[0]), scope):
            return self._no(
                "host",
                421,
                f"host {', '.join(hosts)[:200] or 'missing'} is not this one; expected loopback, the address itself, or a name in sidecar.admin_hosts",
            )
        # A page that came without TLS is anybody's on the line. Without TLS here a proxy may end it, so that our page has either scheme.
        ours = [f"{scheme}://{hosts[0]}" for scheme in ("https", "http") if scheme == "https" or scope.get("scheme") != "https"]
        foreign = [each for each in headers.getlist("origin") if each.lower() not in (mine.lower() for mine in ours)]
        if foreign:
            return self._no(
                "origin", 403, f"a page of {foreign[0][:200]} may not ask here; expected one of {ours[-1][:200]}, or no browser"
            )
        if any(letter < " " for letter in scope["path"]):  # a route of Starlette's takes a line break at its end, the paths above do not
            return self._no("form", 400, "expected a path without control characters")
        person = self._access.who(headers.get("authorization", ""))
        reads, path = scope["method"] in READS, scope["path"]
        near = self._near and is_loopback(name_of(hosts[0]))  # a proxy before loopback brings people from elsewhere, by another name
        nobody = person is None
        if nobody and self._open:
            person = Person(name="open", role=Role.ADMIN)
        elif nobody and self._near and (reads or (path == PLAY and near)):
            person = Person(name="near", role=Role.VIEWER)
        scope.setdefault("state", {}).update(person=person, near=near and nobody)
        if reads:
            return None if person is not None or path in PROBES or path in PAGE or path.startswith(FILES) else self._unknown()
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return self._no("form", 415, "expected content-type: application/json")
        if person is None:
            return self._unknown()
        if path == PLAY and near:
            return None
        if path in EVIDENCE:
            return (
                None
                if person.role is not Role.VIEWER
                else self._no("role", 403, f"the token of {person.name} has role viewer; expected auditor, operator or admin")
            )
        if not person.role.commands or (path in ADMINS and person.role is not Role.ADMIN):
            wanted = "admin" if path in ADMINS else "operator or admin"
            return self._no("role", 403, f"the token of {person.name} has role {person.role.value}; expected {wanted}")
        return None

    def _known(self, name: str, scope: Scope) -> bool:
        server = scope.get("server")
        if name == "localhost" or name in self._hosts or (server is not None and name == str(server[0]).lower()):
            return True
        return is_loopback(name)

    def _unknown(self) -> Response:
        if not self._access.any:
            return self._no(
                "token",
                403,
                f"this needs a bearer token: set {TOKEN} for the sidecar or name a file as sidecar.access, or set sidecar.admin_open: true",
            )
        return self._no("token", 401, f"expected the bearer token of {TOKEN}, or one in the file of sidecar.access")

    def _no(self, why: str, status: int, text: str) -> Response:
        self._count(why)
        return JSONResponse({"error": text}, status, {"www-authenticate": "Bearer"} if status == 401 else None)


def is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def name_of(host: str) -> str:
    """The name or address in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() and name else host).lower()
