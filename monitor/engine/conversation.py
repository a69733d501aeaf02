"""The messages of a chat and the tools it may call, as clients send them and as a chat template takes them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    """What the openai SDK's `model_dump()` sends back is full of nulls: each means absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value


class TextPart(_Part):
    type: Literal["text"]
    text: str


class CalledFunction(_Part):
    name: str
    arguments: str


class MadeCall(_Part):
    id: str
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """Templates write the arguments as an object; what is none is handed on as it came."""
        try:
            arguments = json.loads(self.function.arguments)
        except (ValueError, RecursionError):
            arguments = self.function.arguments
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class ChatMessage(_Part):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[MadeCall], Field(fail_fast=True, max_length=128)] = []
    tool_call_id: str | None = None
    annotations: Annotated[list[object], Field(max_length=0)] = []

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.role == "assistant":
            if self.content is None and self.refusal is None and not self.tool_calls:
                raise ValueError("an assistant's message has neither 'content' nor 'tool_calls'; expected one of them")
        elif self.content is None:
            raise ValueError(f"a message of role '{self.role}' has no 'content'; expected a text")
        elif self.tool_calls:
            raise ValueError(f"a message of role '{self.role}' has 'tool_calls'; only an assistant's may")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role 'tool' has no 'tool_call_id'; expected that of the call it answers")
        return self

    @property
    def about_tools(self) -> bool:
        return self.role == "tool" or bool(self.tool_calls)

    def plain(self) -> dict[str, Any]:
        content = self.content if self.content is not None else self.refusal or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.tool_calls:
            message["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.role == "tool" and self.name is not None:
            message["name"] = self.name
        return message


class ToolFunction(_Part):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str = ""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    strict: Annotated[Literal[False], Field(description="nothing constrains the arguments, so nothing is promised")] = False


class Tool(_Part):
    type: Literal["function"]
    function: ToolFunction

    def plain(self) -> dict[str, Any]:
        function = self.function
        return {
            "type": "function",
            "function": {"name": function.name, "description": function.description, "parameters": function.parameters},
        }


BODIES: tuple[type[BaseModel], ...] = (TextPart, CalledFunction, MadeCall, ChatMessage, ToolFunction, Tool)
