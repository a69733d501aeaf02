"""What a long command says: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import io

from monitor.commands.progress import Saying


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_a_minute_with_the_time_left() -> None:
    out, clock = io.StringIO(), Clock()
    say = Saying(out, "… ", clock)
    say("layer 3 chosen")
    for done in range(0, 61):
        clock.now = 10.0 * done  # ten seconds each, so that six are a minute
        say(f"read {done} of 60 texts")
    say("done")
    lines = out.getvalue().splitlines()
    assert lines[0] == "… layer 3 chosen"
    assert lines[1] == "… read 6 of 60 texts, 9 min left"
    assert lines[9] == "… read 54 of 60 texts, 60 s left"
    assert lines[-1] == "… done"
    assert len(lines) == 12


def test_another_count_begins_anew() -> None:
    out, clock = io.StringIO(), Clock()
    say = Saying(out, clock=clock)
    say("read 5 of 10 texts")
    clock.now = 100
    say("calibrating: 1 of 10 generations")  # its first line comes a minute later
    clock.now = 170
    say("calibrating: 8 of 10 generations")
    assert out.getvalue() == "calibrating: 8 of 10 generations, 20 s left\n"


def test_a_terminal_gets_a_bar(monkeypatch: object) -> None:
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    say = Saying(out)
    say("read 1 of 3 texts")
    say("read 3 of 3 texts")
    say("bank written")
    assert "3/3" in out.getvalue()
    assert "bank written\n" in out.getvalue()
    assert say._bar is None


def test_a_result_with_numbers_is_no_count() -> None:
    out = io.StringIO()
    Saying(out)("panic: 3 of 5 canaries raise it")
    assert out.getvalue() == "panic: 3 of 5 canaries raise it\n"
