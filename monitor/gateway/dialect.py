"""How each generating route counts tokens, ends a reply that a rule halted, and speaks of errors."""

from __future__ import annotations

import time
from typing import Any

from monitor.gateway.asked import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Asked
from monitor.gateway.cut import cut, tokens_of
from monitor.gateway.relay import ending, fired, is_count
from monitor.http import jsons
from monitor.http.openai import OpenAIError
from monitor.http.sse import Event
from rules.verdict import Verdict

Object = dict[str, Any]


def tokens_in(route: str, reply: Object) -> int | None:
    """The tokens that a whole reply says it made."""
    usage = reply.get("usage")
    count = usage.get("completion_tokens" if route in (CHAT, COMPLETIONS) else "output_tokens") if isinstance(usage, dict) else None
    return count if is_count(count) else None


def tokens_in_events(route: str, events: list[Event]) -> int | None:
    """The tokens that a finished stream says it made: its last word on it counts."""
    for event in reversed(events):
        try:
            said = jsons.decode(event.data)
        except ValueError:
            continue
        if isinstance(said, dict):
            found = tokens_in(route, said["response"] if isinstance(said.get("response"), dict) else said)
            if found is not None:
                return found
    return None


def error_body(route: str, error: OpenAIError) -> Object:
    if route != MESSAGES:
        return error.body
    said = error.body["error"]
    return {"type": "error", "error": {"type": said.get("type"), "message": said.get("message")}}


def error_event(route: str, error: OpenAIError) -> bytes:
    name = b"event: error\n" if route in (MESSAGES, RESPONSES) else b""
    body = error_body(route, error)
    if route == RESPONSES:
        body = {"type": "error", **{key: error.body["error"].get(key) for key in ("code", "message", "param")}, "sequence_number": 0}
    return name + b"data: " + jsons.encode(body) + b"\n\n"


def cut_reply(route: str, reply: Object, halted: dict[int, Verdict], judged: dict[int, int]) -> Object:
    """A whole reply with its halted choices cut. `judged`: tokens of each choice that have left or may leave."""
    if route in (RESPONSES, MESSAGES):
        return halted_reply(route, reply, {0: next(iter(halted.values()))}, 1)
    choices = []
    for choice in reply.get("choices") or ():
        verdict = halted.get(choice.get("index"))
        choices.append(choice if verdict is None else _cut_choice(choice, verdict))
    produced = sum(min(count, halted[index].position) if index in halted else count for index, count in judged.items())
    usage = reply.get("usage") or {}
    prompt = usage.get("prompt_tokens") or 0
    return {**reply, "choices": choices, "usage": {**usage, "completion_tokens": produced, "total_tokens": prompt + produced}}


def halted_reply(route: str, head: Object, halted: dict[int, Verdict], choices: int) -> Object:
    """A reply of which only the rules' messages are left. `head`: what is known of it (id, model)."""
    first = next(iter(halted.values()))
    now, model, name = int(time.time()), head.get("model"), head.get("id")
    produced = sum(verdict.position for verdict in halted.values())
    told: Object = {"barograph": {"verdicts": [fired(verdict) for verdict in halted.values()]}}
    if route == RESPONSES:
        said = {"type": "output_text", "text": ending(first), "annotations": []}
        item = {"id": f"msg_{name}", "type": "message", "role": "assistant", "status": "incomplete", "content": [said]}
        return {
            "id": name, "object": "response", "created_at": now, "model": model, "status": "incomplete", "error": None,
            "incomplete_details": {"reason": "content_filter"}, "output": [item], "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
            **told,
        }  # fmt: skip
    if route == MESSAGES:
        return {
            "id": name, "type": "message", "role": "assistant", "model": model, "content": [{"type": "text", "text": ending(first)}],
            "stop_reason": "refusal", "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": produced}, **told,
        }  # fmt: skip
    made = []
    for index in range(choices):
        text = ending(halted[index]) if index in halted else ""
        body: Object = {"message": {"role": "assistant", "content": text}} if route == CHAT else {"text": text}
        made.append({"index": index, **body, "logprobs": None, "finish_reason": "content_filter"})
    kind = "chat.completion" if route == CHAT else "text_completion"
    usage = {"prompt_tokens": 0, "completion_tokens": produced, "total_tokens": produced}
    return {"id": name, "object": kind, "created": now, "model": model, "choices": made, "usage": usage, **told}


def halted_events(route: str, head: Object, verdict: Verdict) -> bytes:
    """The end of a stream of which nothing has left."""
    reply = halted_reply(route, head, {0: verdict}, 1)
    if route == RESPONSES:
        return _named({"type": "response.created", "response": {**reply, "output": []}, "sequence_number": 0}) + _named(
            {"type": "response.incomplete", "response": reply, "sequence_number": 1}
        )
    start: Object = {**reply, "content": [], "stop_reason": None}
    start.pop("barograph")
    block: Object = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": reply["content"][0]["text"]}}
    return b"".join(
        _named(event)
        for event in (
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            block,
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_sequence": None}, "usage": reply["usage"], "barograph": reply["barograph"]},
            {"type": "message_stop"},
        )
    )  # fmt: skip


def head_of(asked: Asked, request_id: str) -> Object:
    """What can be said of a reply before the engine has said it."""
    prefix = {CHAT: "chatcmpl-", MESSAGES: "chatcmpl-", COMPLETIONS: "cmpl-", RESPONSES: "resp_"}[asked.route]
    return {"id": prefix + request_id, "model": asked.payload.get("model")}


def _cut_choice(choice: Object, verdict: Verdict) -> Object:
    """The choice with what its engine lets us cut at the verdict's token, else without any of its text."""
    chat = "message" in choice
    part = {**choice, "delta": choice["message"]} if chat else choice
    kept = cut(part, tokens_of(part) or 0, verdict.position)
    text = ((kept["delta"]["content"] if chat else kept["text"]) if kept else "") + ending(verdict)
    body: Object = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    told = {"barograph": [{"verdicts": [fired(verdict)]}]}
    logprobs = kept["logprobs"] if kept else None
    return {"index": choice.get("index"), **body, "logprobs": logprobs, "finish_reason": "content_filter", **told}


def _named(event: Object) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + jsons.encode(event) + b"\n\n"
