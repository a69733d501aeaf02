"""What a request asks for, as far as judging needs to know, and what the engine is asked instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from monitor.http.openai import OpenAIError, bad

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"

# How engines read a flag or a number: `"true"` and 1 are true for them, so they must be for us.
_flag = TypeAdapter(bool | None)
_number = TypeAdapter(int | None)

# Parameters whose replies an engine makes otherwise when it streams, so that no assembly of chunks equals what it would have answered.
_UNLIKE_STREAMED = ("tools", "functions", "echo", "prompt_logprobs", "include_reasoning", "return_prompt_text", "kv_transfer_params")

Way = Literal["counted", "assembled", "whole"]


class Unreadable(Exception):
    """The body asks for something that only the engine can refuse properly; if it does not, we do."""


@dataclass(frozen=True)
class Asked:
    """One generating request.

    `way`: how its reply is followed. `counted`: a stream whose chunks carry token counts. `assembled`: the same, put together for a client
    that does not stream. `whole`: held back until the engine is done and every token is judged.
    `choices`: how many generations it makes; None where the engine alone knows.
    """

    route: str
    payload: dict[str, Any]
    streams: bool
    way: Way
    choices: int | None
    each: int  # generations of one prompt
    echo: bool
    usage: bool  # the client wants a last chunk with the usage
    running_usage: bool  # the client wants it in every chunk
    id: str  # the client's own id in the body, empty without one

    @classmethod
    def read(cls, route: str, payload: dict[str, Any], unlike: bool = False) -> Asked:
        """`unlike`: this engine's plain replies of the route differ from its streams whatever is asked.

        Raises Unreadable for what the engine will refuse, OpenAIError for what cannot be judged.
        """
        if _read(_flag, payload.get("use_beam_search")):
            raise bad(
                "beam search is refused: its tokens are chosen afterwards, so they cannot be judged as they are made", "use_beam_search"
            )
        if _read(_flag, payload.get("background")):
            raise bad("'background' is refused: a reply that is fetched later would leave unjudged; ask without it", "background")
        streams = bool(_read(_flag, payload.get("stream")))
        options = payload.get("stream_options")
        if options is not None and not (streams and isinstance(options, dict)):
            raise Unreadable
        usage, running = (bool(_read(_flag, (options or {}).get(name))) for name in ("include_usage", "continuous_usage_stats"))
        counted = route in (CHAT, COMPLETIONS)
        unlike = (
            unlike
            or any(payload.get(name) not in (None, [], False) for name in _UNLIKE_STREAMED)
            or payload.get("prompt_logprobs") is not None
        )
        way: Way = "whole"
        if counted and (streams or not unlike):
            way = "counted" if streams else "assembled"
        each = _each(payload) if counted else 1
        choices = each * _prompts(payload) if route == COMPLETIONS else None if route == RESPONSES else each
        return cls(
            route, payload, streams, way, choices, each, bool(_read(_flag, payload.get("echo"))), usage, usage and running,
            str(payload.get("request_id") or "")[:256],
        )  # fmt: skip

    def body(self, request_id: str, counts: bool = True) -> dict[str, Any]:
        """What the engine is asked: the same, with a stream and counts where the reply is followed by them, and our id.

        `counts`: whether the engine counts in every chunk; one that is wrapped does not.
        """
        body = {name: value for name, value in self.payload.items() if name != "request_id"}
        if self.route == RESPONSES:
            body["request_id"] = f"resp_{request_id}"
        if self.way == "whole":
            return {**body, "stream": self.streams} if "stream" in body else body
        options = {**(body.get("stream_options") or {}), "include_usage": True}
        options.pop("continuous_usage_stats", None)
        if counts:
            options["continuous_usage_stats"] = True
        return {**body, "stream": True, "stream_options": options}


def _each(payload: dict[str, Any]) -> int:
    n = _read(_number, payload.get("n"))
    if n is not None and n < 1:
        raise Unreadable
    return 1 if n is None else int(n)


def _prompts(payload: dict[str, Any]) -> int:
    def count(value: Any) -> int:
        if not isinstance(value, list):
            return int(value is not None)
        return 1 if value and isinstance(value[0], int) else len(value)  # one prompt of token ids, or a list of prompts

    return max(1, count(payload.get("prompt")) + count(payload.get("prompt_embeds")))


def _read(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        raise Unreadable from None


def refused_by_engine_only() -> OpenAIError:
    """For a body that we could not read and the engine took."""
    return bad("the body is not one that this gateway can judge; expected a JSON object with parameters of the documented types")
