"""What a client may ask of the engine: the OpenAI parameters that it serves, checked.

A body is wild: counts are looked at before anything is read, and the first error ends the reading.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from monitor.engine import conversation
from monitor.engine.conversation import ChatMessage, Tool
from monitor.http.openai import OpenAIError, bad

MAX_CHOICES = 16
MAX_MESSAGES = 4096
MAX_TOOLS = 128
MAX_STOPS = 4
MAX_TOP_LOGPROBS = 20
_SHARED = "max_tokens, max_completion_tokens, temperature, top_p, stop, seed, n, stream, stream_options, logprobs, return_token_ids, user"
SUPPORTED = {
    "messages": f"model, messages, tools, tool_choice, parallel_tool_calls, top_logprobs, continue_final_message, add_generation_prompt, {_SHARED}",
    "prompt": f"model, prompt, echo, {_SHARED}",
}

# Parameters of the API that change nothing when they hold these values; other values are refused, not ignored.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "response_format": ({"type": "text"},), "best_of": (1,),
    "suffix": ("",), "functions": ([],), "function_call": ("none", "auto"), "store": (False,), "metadata": ({},), "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}  # fmt: skip


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StreamOptions(_Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Generate(_Body):
    """The parameters that both endpoints share."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: list[str] = []
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: object) -> object:
        """One string or some, as a list."""
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or len(value) > MAX_STOPS or not all(isinstance(each, str) and each for each in value):
            raise ValueError(f"expected a string, or a list of at most {MAX_STOPS}, none of them empty")
        return value

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are told beside each; None when no logprobs are asked for."""
        raise NotImplementedError


class NamedFunction(_Body):
    name: str


class NamedTool(_Body):
    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Generate):
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1)]
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    continue_final_message: bool = False
    add_generation_prompt: bool = True

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def callable(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True, min_length=1)]
Texts = Annotated[list[str], Field(fail_fast=True, min_length=1)]


class CompletionRequest(Generate):
    prompt: str | Tokens | Texts | Annotated[list[Tokens], Field(fail_fast=True, min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool = False

    @property
    def top(self) -> int | None:
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [prompt]
        return list(cast("list[str | list[int]]", prompt))


Asked = TypeVar("Asked", bound=Generate)
_BODIES: tuple[type[BaseModel], ...] = (ChatRequest, CompletionRequest, StreamOptions, NamedTool, NamedFunction, *conversation.BODIES)
_FIELDS = {name for body in _BODIES for name in body.model_fields}  # what is no field in an error's path is a type of ours


def parse(kind: type[Asked], payload: dict[str, Any], most: int = MAX_CHOICES) -> Asked:
    """Check a body; `most` is how many generations a request may make. Raises OpenAIError 400 that names the parameter.

    A parameter that is null is one that is absent.
    """
    payload = {name: value for name, value in payload.items() if value is not None}
    what = "messages" if kind is ChatRequest else "prompt"
    for name, neutral in _NEUTRAL.items():
        if name in payload and payload.pop(name) not in neutral:
            raise bad(f"'{name}' is not supported by this engine; supported are: {SUPPORTED[what]}", name, "unsupported_parameter")
    _count(payload, most)
    try:
        asked = kind.model_validate(payload)
    except ValidationError as error:
        raise _explain(error, SUPPORTED[what]) from None
    _agree(asked)
    return asked


def _count(payload: dict[str, Any], most: int) -> None:
    """Refuse what is too many before any of it is read."""
    for name, limit in (("messages", MAX_MESSAGES), ("tools", MAX_TOOLS)):
        found = payload.get(name)
        if isinstance(found, list) and len(found) > limit:
            raise bad(f"'{name}' holds {len(found)}; expected at most {limit}", name)
    prompts, n = payload.get("prompt"), payload.get("n", 1)
    if not isinstance(prompts, list) or not prompts or isinstance(prompts[0], int) or not isinstance(n, int):
        prompts = [None]
    if isinstance(n, int) and 1 <= n <= MAX_CHOICES and n * len(prompts) > most:
        raise bad(f"{len(prompts)} prompts with n={n} make {n * len(prompts)} generations; expected at most {most}", "n")


def _agree(asked: Generate) -> None:
    """What only one parameter beside another shows."""
    if asked.stream_options is not None and not asked.stream:
        raise bad("'stream_options' is only allowed with 'stream': true", "stream_options")
    if isinstance(asked, CompletionRequest) and asked.echo and asked.logprobs is not None:
        raise bad("'echo' with 'logprobs' is not supported: this engine has no logprobs of the prompt; expected one of them", "echo")
    if not isinstance(asked, ChatRequest):
        return
    if asked.top_logprobs is not None and not asked.logprobs:
        raise bad("'top_logprobs' is only allowed with 'logprobs': true", "top_logprobs")
    if asked.continue_final_message:
        last = asked.messages[-1]
        if asked.add_generation_prompt:
            raise bad("'continue_final_message' is only allowed with 'add_generation_prompt': false", "continue_final_message")
        if last.role != "assistant" or last.tool_calls or not last.plain()["content"]:
            raise bad("'continue_final_message' goes on from the text of an assistant's message; expected one as the last", "messages")
    if not isinstance(asked.tool_choice, str) or asked.tool_choice == "required":
        raise bad(
            "'tool_choice' cannot force a call: this engine does not constrain what the model writes; supported are 'auto' and 'none'",
            "tool_choice", "unsupported_value",
        )  # fmt: skip


def _explain(error: ValidationError, supported: str) -> OpenAIError:
    # The deepest error is the branch of a union that came furthest, so the most telling one.
    first = max(error.errors(include_url=False, include_input=False), key=lambda item: len(item["loc"]))
    unknown = first["type"] == "extra_forbidden"
    loc = [str(part) for part in first["loc"] if isinstance(part, int) or part in _FIELDS or (unknown and part == first["loc"][-1])]
    param = ".".join(loc)[:200] or None
    if unknown:
        known = f"supported are: {supported}" if len(loc) == 1 else "it is none that this engine knows there"
        return bad(f"'{param}' is not a parameter of this engine; {known}", param, "unknown_parameter")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return bad(f"'{param}': {message}", param, "missing_required_parameter" if first["type"] == "missing" else "invalid_value")
