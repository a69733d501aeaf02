"""Writes docs/events/ from the models of what Kafka's topics hold: python -m deploy.events"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from monitor import __version__
from monitor.admin.command import Command
from monitor.sinks import events
from monitor.sinks.topics import KEPT_DAYS

FOLDER = Path(__file__).parents[1] / "docs" / "events"
CHANNELS: dict[str, tuple[Any, ...]] = {
    "verdicts": events.VERDICTS, "scores": events.SCORES, "audit": (events.Record,), "commands": (Command,), "outcomes": (events.Outcome,),
}  # fmt: skip
ABOUT = {
    "verdicts": "What rules said, and what was decided and done because of it. At least once, in the ledger's order within a stream; doubles have one ce_id.",
    "scores": "The scores of every judged token. Best effort: what a broker is too slow for is dropped and counted.",
    "audit": "Every record of the ledger, at least once.",
    "commands": "What policy engines tell Barograph to do. The header barograph-signature has the Ed25519 signature of the value's bytes, in base64.",
    "outcomes": "What became of each command.",
}
HEADERS = {
    "content-type": "application/json", "ce_specversion": "1.0", "ce_id": "the same for the same event", "ce_source": "the name of the ledger",
    "ce_type": "barograph.KIND or barograph.KIND.EVENT", "ce_time": "RFC 3339", "ce_subject": "the stream",
}  # fmt: skip


def files() -> dict[str, str]:
    """The text of every file, by name."""
    made = {f"{channel}.schema.json": json.dumps(_schema(channel), indent=1, sort_keys=True) + "\n" for channel in CHANNELS}
    return {**made, "asyncapi.yaml": yaml.safe_dump(_asyncapi(), sort_keys=False, width=140, allow_unicode=True)}


def _schema(channel: str) -> dict[str, Any]:
    models = CHANNELS[channel]
    union = models[0]
    for model in models[1:]:
        union = union | model
    found = TypeAdapter(union).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"barograph.{channel}",
        "description": ABOUT[channel],
        **found,
    }


def _asyncapi() -> dict[str, Any]:
    headers = {"type": "object", "properties": {name: {"type": "string", "description": text} for name, text in HEADERS.items()}}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Barograph", "version": __version__, "description": "What Barograph says and hears on Kafka. The topics' names are settings."},
        "defaultContentType": "application/json",
        "channels": {
            channel: {
                "address": f"barograph.{channel}", "description": ABOUT[channel],
                "messages": {channel: {"$ref": f"#/components/messages/{channel}"}},
                "bindings": {"kafka": {"topicConfiguration": {"retention.ms": KEPT_DAYS[channel] * 86_400_000}}},
            }
            for channel in CHANNELS
        },
        "operations": {
            channel: {"action": "receive" if channel == "commands" else "send", "channel": {"$ref": f"#/channels/{channel}"}} for channel in CHANNELS
        },
        "components": {
            "messages": {
                channel: {
                    "headers": {"$ref": "#/components/schemas/headers"}, "payload": {"$ref": f"./{channel}.schema.json"},
                    "bindings": {"kafka": {"key": {"type": "string", "description": "the stream"}}},
                }
                for channel in CHANNELS
            },
            "schemas": {"headers": headers},
        },
    }  # fmt: skip


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, "utf-8")
