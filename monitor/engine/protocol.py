"""What a client may ask of the engine: the OpenAI parameters that it serves, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.http.openai import OpenAIError, bad

MAX_CHOICES = 16
SUPPORTED = "model, messages or prompt, max_tokens, max_completion_tokens, temperature, top_p, stop, seed, n, stream, stream_options, user"

# Parameters of the API that change nothing when they hold these values; other values are refused, not ignored.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None), "presence_penalty": (0, None), "logit_bias": ({}, None), "logprobs": (False, None),
    "top_logprobs": (None,), "response_format": ({"type": "text"}, None), "tools": ([], None), "tool_choice": ("none", "auto", None),
    "parallel_tool_calls": (True, False, None), "best_of": (1, None), "echo": (False, None), "suffix": ("", None),
    "functions": ([], None), "function_call": ("none", "auto", None), "store": (False, None), "metadata": ({}, None),
}  # fmt: skip


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StreamOptions(_Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class TextPart(_Body):
    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class Generate(_Body):
    """The parameters that both endpoints share."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class ChatRequest(Generate):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Generate):
    prompt: str | Tokens | Annotated[list[str], Field(min_length=1)] | Annotated[list[Tokens], Field(min_length=1)]

    def prompts(self) -> list[str | list[int]]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [prompt]
        return list(cast("list[str | list[int]]", prompt))


Asked = TypeVar("Asked", bound=Generate)


def parse(kind: type[Asked], payload: dict[str, Any]) -> Asked:
    """Check a body. Raises OpenAIError 400 that names the parameter."""
    payload = dict(payload)
    for name, neutral in _NEUTRAL.items():
        if name in payload and payload.pop(name) not in neutral:
            raise bad(f"'{name}' is not supported by this engine; supported are: {SUPPORTED}", name, "unsupported_parameter")
    try:
        asked = kind.model_validate(payload)
    except ValidationError as error:
        raise _explain(error) from None
    if asked.stream_options is not None and not asked.stream:
        raise bad("'stream_options' is only allowed with 'stream': true", "stream_options")
    return asked


def _explain(error: ValidationError) -> OpenAIError:
    # The deepest error is the branch of a union that came furthest, so the most telling one.
    first = max(error.errors(include_url=False), key=lambda item: len(item["loc"]))
    loc = [str(part) for part in first["loc"] if not (isinstance(part, str) and ("[" in part or part in ("str", "TextPart")))]
    param = ".".join(loc) or None
    if first["type"] == "extra_forbidden":
        return bad(f"'{param}' is not a parameter of this engine; supported are: {SUPPORTED}", param, "unknown_parameter")
    message = first["msg"][:1].lower() + first["msg"][1:]
    return bad(f"'{param}': {message}", param, "missing_required_parameter" if first["type"] == "missing" else "invalid_value")
