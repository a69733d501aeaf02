"""docs/gateway.md says what the tables in the code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.config import GatewayConfig
from monitor.gateway import failures, routes, upstream

PAGE = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text("utf-8")


def failure_table() -> str:
    rows = ["| condition | when | setting | closed | open |", "| --- | --- | --- | --- | --- |"]
    for row in failures.table():
        setting = row["setting"] if row["setting"] == "fixed" else f"`{row['setting']}`"
        rows.append(f"| `{row['condition']}` | {row['when']} | {setting} | {row['closed']} | {row.get('open', 'never')} |")
    return "\n".join(rows)


def route_table() -> str:
    def paths(names: object) -> str:
        return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]

    rows = ["| | paths | why |", "| --- | --- | --- |"]
    rows.append(f"| judged | {paths(routes.JUDGED)} | every produced token is scored and judged before it leaves |")
    passed = [*sorted(routes.PASSED), *(f"{below}…" for below in routes.PASSED_BELOW)]
    rows.append(f"| passed, byte for byte | {paths(passed)} | no generated text |")
    refused = {**routes.REFUSED, **{f"{below}…": why for below, why in routes.REFUSED_BELOW.items()}}
    rows += [f"| refused, 400 `route_not_judged` | `{path}` | {why} |" for path, why in refused.items()]
    return "\n".join(rows)


def header_table() -> str:
    up, back = (", ".join(f"`{name}`" for name in sorted(names)) for names in (upstream.UP, upstream.BACK))
    prefixes = ", ".join(f"`{prefix}*`" for prefix in upstream.BACK_PREFIXES)
    return f"| | |\n| --- | --- |\n| to the engine | {up} |\n| back to the client | {back}, {prefixes} |"


TABLES = {"failures": failure_table, "routes": route_table, "headers": header_table}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_the_codes(name: str) -> None:
    found = re.search(f"<!-- {name}: .*? -->\n(.*?)\n<!-- /{name} -->", PAGE, re.DOTALL)
    assert found is not None
    assert found[1] == TABLES[name]()


def test_every_setting_is_explained() -> None:
    configuration = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text("utf-8")
    missing = [name for name in GatewayConfig.model_fields if not re.search(rf"^  {name}: ", configuration, re.MULTILINE)]
    assert missing == []
