"""A package index and the proxy in front of it, for tests of what installs: every project is there, as a wheel with nothing in it.

One server is both. As a proxy it serves the hosts that it was given and refuses the others, with every request counted: so a test
sees where pip went, and that it went nowhere else.
"""

from __future__ import annotations

import base64
import io
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

# Stands in for the real one when `pip install -e .` builds: what is asked for is what pyproject.toml asks for, and the tree is left alone.
BACKEND = """
import tomllib, zipfile
from pathlib import Path

def get_requires_for_build_editable(settings=None):
    return []

def build_editable(folder, settings=None, metadata=None):
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    about = ["Metadata-Version: 2.1", "Name: barograph", "Version: 0.0.0", *(f"Provides-Extra: {each}" for each in extras)]
    about += [f"Requires-Dist: {each}" for each in project["dependencies"]]
    about += [f'Requires-Dist: {each}; extra == "{extra}"' for extra, wanted in extras.items() for each in wanted]
    with zipfile.ZipFile(Path(folder, "barograph-0.0.0-py3-none-any.whl"), "w") as wheel:
        where = "barograph-0.0.0.dist-info/"
        wheel.writestr(where + "METADATA", "\\n".join(about) + "\\n")
        wheel.writestr(where + "WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(where + "RECORD", "")
    return "barograph-0.0.0-py3-none-any.whl"
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wheel(name: str, version: str, requires: tuple[str, ...] = ()) -> bytes:
    raw, where = io.BytesIO(), f"{name.replace('-', '_')}-{version}.dist-info/"
    with zipfile.ZipFile(raw, "w") as packed:
        about = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {each}" for each in requires)]
        packed.writestr(where + "METADATA", "\n".join(about) + "\n")
        packed.writestr(where + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        if name == "setuptools":
            packed.writestr("setuptools/__init__.py", "")
            packed.writestr("setuptools/build_meta.py", BACKEND)
        packed.writestr(where + "RECORD", "")
    return raw.getvalue()


class Packages:
    """The index `http://HOST/simple/`, for those who know `login` if there is one; `versions` names what each project has there."""

    def __init__(
        self, host: str, versions: Mapping[str, tuple[str, ...]], requires: Mapping[str, tuple[str, ...]] = {}, login: str = ""
    ) -> None:
        self.host, self.versions, self.requires = host, {normal(name): each for name, each in versions.items()}, requires
        self.asked = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
        self.refused: Counter[str] = Counter()
        self.projects: Counter[str] = Counter()
        self.wheels: Counter[str] = Counter()
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self) -> None:
                index.refused[self.path] += 1
                self.answer(403, b"this proxy does not go there")

            def do_GET(self) -> None:
                at = urlsplit(self.path)
                if at.netloc != index.host:
                    index.refused[at.netloc] += 1
                    self.answer(403, b"this proxy does not go there")
                elif index.asked and self.headers["Authorization"] != index.asked:
                    self.answer(401, b"who are you?")
                else:
                    self.answer(*index.page(at.path))

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="packages"')
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.proxy = f"http://127.0.0.1:{self.server.server_address[1]}"

    def page(self, path: str) -> tuple[int, bytes]:
        if found := re.fullmatch(r"/simple/([^/]+)/", path):
            name = found[1]
            self.projects[name] += 1
            files = [f"{name.replace('-', '_')}-{version}-py3-none-any.whl" for version in self.versions.get(name, ())]
            return (200, "".join(f'<a href="/wheels/{each}">{each}</a>' for each in files).encode()) if files else (404, b"no such project")
        if found := re.fullmatch(r"/wheels/(([^/-]+)-([^/-]+)-py3-none-any\.whl)", unquote(path)):
            self.wheels[found[1]] += 1
            name = normal(found[2])
            return 200, wheel(name, found[3], self.requires.get(name, ()))
        return 404, b"nothing here"

    def __enter__(self) -> Packages:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
