"""Before an engine is stopped: until no reply runs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monitor.commands.idle import idle, near_of
from monitor.config import Config
from monitor.errors import BarographError
from monitor.http.near import Near
from tests.stack import free_port


@contextmanager
def admin(*statuses: int, delay: float = 0.0) -> Iterator[Near]:
    """An address that answers with these, the last one for ever."""
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay)
            self.send_response((left.pop(0) if len(left) > 1 else left[0]) if self.path == "/idle" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Near(("127.0.0.1", server.server_address[1]))
    finally:
        server.shutdown()
        server.server_close()


def test_it_waits_until_nothing_runs() -> None:
    with admin(503, 503, 200) as near:
        assert idle(near, 10)


def test_it_ends_when_the_time_is_over() -> None:
    with admin(503) as near:
        assert not idle(near, 0.5)


def test_where_nobody_listens_nothing_runs() -> None:
    assert idle(Near(("127.0.0.1", free_port())), 5)


def test_one_that_listens_and_does_not_answer_may_run_replies() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        started = time.monotonic()
        near = Near(("127.0.0.1", deaf.getsockname()[1]))
        assert not idle(near, 0.5)
        assert time.monotonic() - started < 10


def test_another_server_is_told_apart() -> None:
    with admin(404) as near, pytest.raises(BarographError, match="expected a sidecar's admin address"):
        idle(near, 1)


@pytest.mark.parametrize(
    ("said", "url"), [("127.0.0.1:8401", "http://127.0.0.1:8401"), ("http://[::1]:9/", "http://[::1]:9"), (None, "http://127.0.0.1:8401")]
)
def test_the_address_may_be_said(said: str | None, url: str) -> None:
    assert near_of(Config(), said).url() == url


def test_a_certificate_that_nobody_named_is_not_left_out() -> None:
    with pytest.raises(BarographError, match=r"Set sidecar\.tls"):
        near_of(Config(), "https://127.0.0.1:8401")


def test_no_address_is_refused() -> None:
    with pytest.raises(BarographError, match="expected HOST:PORT"):
        near_of(Config(), "nonsense")
