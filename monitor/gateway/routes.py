"""What the engine serves, and what the gateway does with each of it. docs/gateway.md has these tables; a test compares them."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum
from urllib.parse import quote, unquote

from monitor.http.openai import OpenAIError


class Route(Enum):
    JUDGED = "judged"  # every token is scored and judged before it leaves
    PASSED = "passed"  # makes no text; bytes go through as they are
    REFUSED = "refused"  # would make text whose tokens cannot be followed
    UNKNOWN = "unknown"


JUDGED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")

PASSED = frozenset({
    "/v1/models", "/version", "/health", "/ping", "/load", "/openapi.json", "/docs", "/tokenizer_info",
    "/tokenize", "/detokenize", "/v1/messages/count_tokens",
    "/v1/chat/completions/render", "/v1/completions/render", "/v1/responses/render", "/v1/messages/render",
    "/v1/chat/completions/derender", "/v1/completions/derender",
    "/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
})  # fmt: skip
PASSED_BELOW = ("/v1/models/",)

# Each with the reason that a client gets.
REFUSED = {
    "/v1/chat/completions/batch": "a batch's replies carry no id by which scores are matched; send its conversations one by one",
    "/inference/v1/generate": "it hands out token ids without the counts that scores are matched by; use /v1/completions with token ids",
    "/invocations": "its body decides what it does; name the route itself",
    "/generative_scoring": "it makes tokens that no client sees and that have no id; use /v1/score",
    "/cohere/v2/chat": "its events carry no token counts; use /v1/chat/completions",
    "/v1/audio/transcriptions": "its text has no token counts",
    "/v1/audio/translations": "its text has no token counts",
}
REFUSED_BELOW = {"/v1/responses/": "a stored reply would leave without being judged again; keep the reply that the request itself gave"}

_NOT_IN_A_PATH = re.compile(r"[\x00-\x20\x7f\\]|%|(^|/)\.\.?(/|$)|//")


def normalised(raw_path: bytes) -> str:
    """The path, decoded once. Raises OpenAIError 400 for one that two servers could read in two ways."""
    text = raw_path.decode("latin-1")
    if re.search(r"%(2f|5c|00)", text, re.IGNORECASE):
        raise _ambiguous()
    try:
        path = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _ambiguous() from None
    if not path.startswith("/") or _NOT_IN_A_PATH.search(path):
        raise _ambiguous()
    return path


def encoded(path: str) -> str:
    """The same path as a URL has it."""
    return quote(path, safe="/:@!$&'()*+,;=-._~")


def route_of(path: str, allowed: Collection[str]) -> Route:
    """`path` is normalised; `allowed` are the paths that the configuration names."""
    if path in JUDGED:
        return Route.JUDGED
    if path in REFUSED or (path.startswith(tuple(REFUSED_BELOW)) and path not in PASSED):
        return Route.REFUSED
    if path in PASSED or path in allowed or path.startswith(PASSED_BELOW):
        return Route.PASSED
    return Route.UNKNOWN


def refusal(path: str, method: str) -> OpenAIError:
    """Why a path is not passed on."""
    why = REFUSED.get(path) or next((text for below, text in REFUSED_BELOW.items() if path.startswith(below) and path not in PASSED), "")
    if why:
        return OpenAIError(400, f"{method} {path} cannot be judged, so it is refused: {why}", code="route_not_judged")
    return OpenAIError(
        404, f"{method} {path[:200]}: this gateway does not pass that on; judged are {', '.join(JUDGED)}; "
        "further paths of the engine are named in gateway.allow_routes", code="unknown_route",
    )  # fmt: skip


def _ambiguous() -> OpenAIError:
    return OpenAIError(
        400,
        "the path holds '..', '//', a backslash, a control character, bytes that are no UTF-8 or a double encoding; expected a plain path",
    )
