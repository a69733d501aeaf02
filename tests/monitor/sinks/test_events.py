"""The published schemas."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from deploy import events


def test_the_files_are_current() -> None:
    """If this fails: python -m deploy.events"""
    made = events.files()
    assert {path.name: path.read_text() for path in events.FOLDER.iterdir()} == made


@pytest.mark.parametrize("channel", events.CHANNELS)
def test_the_schemas_are_schemas(channel: str) -> None:
    schema = json.loads((events.FOLDER / f"{channel}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"seq": -1}, schema)


def test_the_document_names_what_is_there() -> None:
    found = yaml.safe_load((events.FOLDER / "asyncapi.yaml").read_text())
    for channel, message in found["components"]["messages"].items():
        assert (events.FOLDER / message["payload"]["$ref"]).is_file()
        assert found["operations"][channel]["channel"]["$ref"] == f"#/channels/{channel}"
        assert found["channels"][channel]["address"] == f"barograph.{channel}"
