"""The page's own files: read once, served with a strict policy and an etag, to whoever asks. They say nothing about any request."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

FOLDER = Path(__file__).with_name("web")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but our own files runs, and nothing leaves: no inline script or style, no other address, nobody's frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin", "permissions-policy": "camera=(), geolocation=(), microphone=()", "cache-control": "no-cache",
}  # fmt: skip


class Files:
    """All files of the folder `web`, by name."""

    def __init__(self) -> None:
        found = [path for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS]
        self._files = {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in found}
        self._tags = {name: f'"{hashlib.sha256(body).hexdigest()[:32]}"' for name, (body, _) in self._files.items()}

    def routes(self) -> list[Route]:
        async def root(request: Request) -> Response:
            return RedirectResponse("page", 307, HEADERS)

        async def index(request: Request) -> Response:
            return self.answer(request, "index.html")

        async def file(request: Request) -> Response:
            return self.answer(request, request.path_params["name"])

        return [Route("/", root), Route("/page", index), Route("/page/files/{name}", file)]

    def answer(self, request: Request, name: str) -> Response:
        if name not in self._files:
            return JSONResponse({"error": f"no file {name[:64]}"}, 404, HEADERS)
        body, kind = self._files[name]
        headers = {**HEADERS, "etag": self._tags[name]}
        if self._tags[name] in [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=kind)
