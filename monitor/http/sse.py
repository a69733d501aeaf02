"""Server-sent events as the HTML standard has them: any line ending, comments, several data lines, split anywhere."""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT = 8 << 20  # bytes of one event; log probabilities of a long echoed prompt are megabytes


class EventStreamError(ValueError):
    """What came is no event stream that can be followed."""


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event. `name` is empty where the stream gave none."""

    data: bytes
    name: str = ""


class EventParser:
    """Takes bytes as they come from the network; `feed` gives the events that they complete."""

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._tail = b""
        self._after_cr = False
        self._begun = False
        self._data: list[bytes] = []
        self._held = 0  # bytes in `_data`
        self._name = b""

    def feed(self, data: bytes) -> list[Event]:
        """Raises EventStreamError past the limit of one event."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")  # the second half of a line ending whose first half ended the last packet
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not data:
            return []
        *lines, tail = data.split(b"\n")
        if lines:
            lines[0] = self._tail + lines[0]
            self._tail = tail
        else:
            self._tail += tail
        events: list[Event] = []
        for line in lines:
            self._line(line, events)
        if self._held + len(self._tail) > self._limit:
            raise EventStreamError(f"an event of more than {self._limit} bytes")
        return events

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if self._data:
                events.append(Event(b"\n".join(self._data), self._name.decode("utf-8", "replace")))
            self._data, self._held, self._name = [], 0, b""
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._held += len(value) + 1
        elif field == b"event":
            self._name = value
        # A comment has an empty field. `id` and `retry` are for reconnecting, which no API of this kind does.
