"""A whole reply from its chunks, equal to what the engine would have answered without a stream."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

# Said again in every delta by some engines: the first word stands, it is not joined.
_SAID_ONCE = ("index", "type", "id", "role")
# Where one of these is said, engines say null for no content, though their streams begin with empty content.
_INSTEAD_OF_CONTENT = ("tool_calls", "reasoning", "reasoning_content")


class Assembly:
    """Folds chunks of a chat or text completion.

    Deltas merge by the rules of OpenAI's own client: strings are joined, lists of indexed objects merge by index, other lists grow,
    objects merge, and null gives way. Of a chunk and of a choice the last value that is not null stands; lists and log probabilities
    grow. `shape` is a reply that the engine made without a stream: it tells which fields such a reply has even where they are empty.
    """

    def __init__(self, shape: Object | None = None) -> None:
        self._shape = shape or {}
        self._top: Object = {}
        self._choices: dict[int, Object] = {}

    def add(self, chunk: Object) -> None:
        for name, value in chunk.items():
            if name == "object":
                self._top[name] = str(value).removesuffix(".chunk")
            elif name == "barograph":
                for part in chunk["choices"]:
                    self._choice(part).setdefault(name, []).append(value)
            elif name != "choices" and (value is not None or name not in self._top):
                self._top[name] = value
        for part in chunk.get("choices") or ():
            self._add_part(self._choice(part), part)

    def whole(self) -> Object:
        shape = {name: value for name, value in self._shape.items() if name not in ("choices", "usage")}
        known = (self._shape.get("choices") or [{}])[0]
        choices = [_filled(choice, known) for _, choice in sorted(self._choices.items())]
        usage = self._top.pop("usage", None)
        whole = {**_empty(shape), **self._top, "choices": choices}
        whole["usage"] = _completed(usage, self._shape.get("usage"))
        return whole

    def _choice(self, part: Object) -> Object:
        return self._choices.setdefault(part["index"], {"index": part["index"]})

    def _add_part(self, choice: Object, part: Object) -> None:
        for name, value in part.items():
            if name == "delta":
                merge(choice.setdefault("message", {}), value or {})
            elif name == "text":
                choice["text"] = choice.get("text", "") + (value or "")
            elif name == "logprobs":
                choice[name] = _joined(choice.get(name), value)
            elif isinstance(value, list) and isinstance(choice.get(name), list):
                choice[name] = choice[name] + value
            elif value is not None or name not in choice:
                choice[name] = value


def merge(into: Object, delta: Object) -> None:
    """Add a delta to what is there."""
    for name, value in delta.items():
        old = into.get(name)
        if isinstance(value, list) and any(isinstance(each, dict) and "index" in each for each in value):
            into[name] = _indexed(old if isinstance(old, list) else [], value)
        elif old is None:
            into[name] = value
        elif value is None or name in _SAID_ONCE:
            continue
        elif isinstance(old, dict) and isinstance(value, dict):
            merge(old, value)
        elif (type(old) is type(value) and isinstance(old, str | list)) or (
            isinstance(old, int | float) and isinstance(value, int | float) and not isinstance(old, bool)
        ):
            into[name] = old + value
        else:
            into[name] = value


def _indexed(old: list[Any], new: list[Any]) -> list[Any]:
    places = {each["index"]: each for each in old if isinstance(each, dict) and "index" in each}
    for each in new:
        if not isinstance(each, dict) or "index" not in each:
            old = [*old, each]
        elif each["index"] in places:
            merge(places[each["index"]], each)
        else:
            fresh: Object = {}
            places[each["index"]] = fresh
            merge(fresh, each)
            old = [*old, fresh]
    return old


def _joined(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new if new is not None else old
    return {
        name: old.get(name, []) + value if isinstance(value, list) and isinstance(old.get(name, []), list) else value if value is not None else old.get(name)
        for name, value in {**dict.fromkeys(old), **new}.items()
    }  # fmt: skip


def _filled(choice: Object, known: Object) -> Object:
    """A choice as an unstreamed reply has it: its calls without the index of the stream, and the fields that are empty."""
    message = choice.get("message")
    filled = {
        **_empty({name: value for name, value in known.items() if name != "message"}),
        "logprobs": None,
        "finish_reason": None,
        **choice,
    }
    if isinstance(message, dict):
        for call in message.get("tool_calls") or ():
            if isinstance(call, dict):
                call.pop("index", None)
        if message.get("content") == "" and any(message.get(name) for name in _INSTEAD_OF_CONTENT):
            message["content"] = None
        filled["message"] = {"role": "assistant", "content": None, **_empty(known.get("message") or {}), **message}
    return filled


def _empty(shape: Object) -> Object:
    """Of a known reply's fields those that were empty: only their being there is taken from it."""
    return {name: value for name, value in shape.items() if value is None or value == [] or value == {}}


def _completed(value: Any, shape: Any) -> Any:
    """The value with the empty fields of a known one, in objects within it too."""
    if not isinstance(value, dict) or not isinstance(shape, dict):
        return value
    return {**_empty(shape), **{name: _completed(each, shape.get(name)) for name, each in value.items()}}
