"""What is kept of what people say, how it goes, and what an auditor gets: on a whole running Barograph."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import weed
from tests.stack import ADMIN_TOKEN, Stack, eventually

SECRET = "zanzibarquokka"
RULES = """
rules:
- {rule: look, desc: Fires always., when: panic.last > -99, do: alert, mode: armed}
"""


def barograph(*arguments: object, code: int = 0, token: str = ADMIN_TOKEN) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "monitor", *map(str, arguments)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "BAROGRAPH_ADMIN_TOKEN": token, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with weed.s3(tmp_path_factory.mktemp("s3") / "weed") as (endpoint, client), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", weed.USER)
        patch.setenv("AWS_SECRET_ACCESS_KEY", weed.SECRET)
        client.make_bucket("evidence", object_lock=True)
        audit = {
            "checkpoint_s": 0.3, "subject_header": "x-subject", "policy": [
                {"level": "content", "tenants": ["kept"]}, {"level": "none", "tenants": ["quiet"]}, {"level": "scores", "tenants": ["scored"]},
            ], "archive": {"endpoint": endpoint, "bucket": "evidence", "every_s": 1},
        }  # fmt: skip
        with Stack(folder, {"audit": audit, "gateway": {"tenant_header": "x-tenant"}}, rules=RULES) as running:
            yield running


def audit(stack: Stack, *arguments: object, code: int = 0, token: str = ADMIN_TOKEN) -> str:
    return barograph("audit", *arguments, "--config", stack.config_path, code=code, token=token)


def ask(stack: Stack, tenant: str, **headers: str) -> str:
    """The request's id. Its records are there when this returns."""
    before = len(stack.ledger("stream")) if tenant != "quiet" else 0
    answer = stack.chat(f"Repeat: {SECRET}", max_tokens=8, headers={"x-tenant": tenant, **headers})
    assert answer.status_code == 200, answer.text
    if tenant != "quiet":
        eventually(lambda: len(stack.ledger("stream")) >= before + 2, "the generation's end is recorded")
    return answer.headers["x-request-id"]


def files(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_levels_say_how_much_is_kept(stack: Stack) -> None:
    ids = {tenant: ask(stack, tenant) for tenant in ("plain", "quiet", "scored", "kept")}
    content = eventually(lambda: stack.ledger("content"), "content is sealed")
    of = {tenant: {each["kind"] for each in stack.ledger() if name in (each.get("request"), each.get("stream", "").partition("#")[0])} for tenant, name in ids.items()}  # fmt: skip
    assert of == {
        "plain": {"stream", "verdict", "reply"}, "quiet": {"verdict"}, "scored": {"stream", "verdict", "reply", "scores"},
        "kept": {"stream", "verdict", "reply", "scores", "content"},
    }  # fmt: skip
    assert [each["request"] for each in content] == [ids["kept"]]
    said = json.loads(audit(stack, "content", ids["kept"], "--reason", "a complaint").splitlines()[0])
    assert SECRET in said["request"]
    assert json.loads(said["reply"])["choices"][0]["message"]["role"] == "assistant"
    viewed = [each for each in stack.ledger("custody") if each["event"] == "viewed"][-1]
    assert (viewed["event"], viewed["by"], viewed["reason"], viewed["said"]) == (
        "viewed",
        "admin",
        "a complaint",
        f"content of request {ids['kept']}",
    )
    assert "no content was kept" in audit(stack, "content", ids["plain"], "--reason", "r", code=2)


def test_a_marked_prompt_is_nowhere_and_erased_content_is_gone(stack: Stack) -> None:
    request = ask(stack, "kept", **{"x-subject": "ann"})
    eventually(lambda: [each for each in stack.ledger("content") if each["request"] == request], "content is sealed")
    spread = {str(path): data for path, data in files(stack.folder, stack.runtime).items() if SECRET.encode() in data}
    assert spread == {}
    for path in ("/metrics", "/rules", "/orders", "/health"):
        assert SECRET not in httpx.get(stack.admin(path)).text
    before = stack.ledger()[-1]["seq"]
    audit(stack, "hold", "case", "--reason", "a court")
    refused = audit(stack, "erase", "--subject", "ann", "--tenant", "kept", "--reason", "Art. 17", code=2)
    assert "erase is refused: the hold 'case' of admin stands: a court" in refused
    audit(stack, "release", "case", "--reason", "over")
    assert "erased 1 pieces of content" in audit(stack, "erase", "--subject", "ann", "--tenant", "kept", "--reason", "Art. 17")
    assert "erased or has expired" in audit(stack, "content", request, "--reason", "r", code=2)
    events = [each["event"] for each in stack.ledger("custody") if each["seq"] > before]
    assert [event for event in events if event != "archived"] == ["held", "released", "erasing", "erased", "viewed"]
    eventually(lambda: stack.metric("barograph_ledger_sealed") == len(stack.ledger()), "all is sealed")
    vkey = audit(stack, "key").strip()
    assert "nothing is wrong" in barograph("audit", "verify", stack.ledger_path, "--key", vkey)


def test_questions_are_answered_and_recorded(stack: Stack) -> None:
    ask(stack, "plain")
    sql = "SELECT rule, count(*) AS n FROM verdicts GROUP BY rule"
    table = list(csv.DictReader(io.StringIO(audit(stack, "query", sql, "--format", "csv", "--reason", "weekly"))))
    assert [row["rule"] for row in table] == ["look"]
    asked = [each for each in stack.ledger("custody") if each["event"] == "queried"][-1]
    assert (asked["said"], asked["by"], asked["reason"]) == (sql, "admin", "weekly")
    assert "look" in audit(stack, "query", "--view", "verdicts", "--where", "rule=look", "--from", "2020-01-01")
    assert "refused" in audit(stack, "query", "SELECT conversation, count(*) FROM generations, verdicts GROUP BY 1", code=2)
    out = stack.folder / "out.parquet"
    assert "rows in" in audit(stack, "query", "SELECT * FROM coverage", "--format", "parquet", "--out", out)
    assert out.read_bytes().startswith(b"PAR1")
    assert "bearer token" in audit(stack, "query", sql, code=2, token="")  # what can't be recorded is not answered
    for wrong in (("query",), ("query", sql, "--view", "verdicts"), ("query", "--view", "verdicts", "--where", "x"), ("query", "--view", "nope"), ("query", "--view", "verdicts", "--from", "soon"), ("query", sql, "--format", "parquet")):  # fmt: skip
        assert "Traceback" not in audit(stack, *wrong, code=2)


def test_the_archive_is_restored_and_verified(stack: Stack) -> None:
    eventually(lambda: stack.metric("barograph_ledger_archived"), "the sidecar has copied the ledger")
    assert stack.metric("barograph_ledger_archive_failed") == 0
    audit(stack, "archive")
    assert "records; check them" in audit(stack, "restore", "--out", stack.folder / "copy")
    assert "nothing is wrong" in barograph("audit", "verify", stack.folder / "copy", "--key", audit(stack, "key").strip())
    assert len(audit(stack, "query", "FROM generations", "--copy", stack.folder / "copy", "--format", "json").splitlines()) >= 3


def test_a_quiet_ledger_is_not_copied_for_the_record_of_its_copy(stack: Stack) -> None:
    def still() -> bool:
        records = stack.ledger()
        time.sleep(3)  # three intervals
        return bool(records[-1].get("event") == "archived") and len(stack.ledger()) == len(records)

    eventually(still, "all is copied, and nothing comes after it")


def test_an_incident_is_packed_and_freezes(stack: Stack) -> None:
    verdict = stack.ledger("verdict")[0]["seq"]
    out = stack.folder / "incident.zip"
    said = audit(stack, "incident", verdict, "--reason", "it lied", "--aware", "2026-11-01", "--out", out)
    assert "report due for death: 2026-11-11 00:00 UTC" in said
    with zipfile.ZipFile(out) as archive:
        archive.extractall(stack.folder / "pack")
        names = archive.namelist()
    assert {"README.txt", "SHA256SUMS", "rules.yaml", "scores.csv", "timeline.txt", "bank-card.json", f"records/{verdict}.json"} <= set(
        names
    )
    vkey = audit(stack, "key").strip()
    home = stack.folder / "pack"
    assert "it is what the signed checkpoint covers" in barograph(
        "audit", "check", home / "records" / f"{verdict}.json", home / "proofs" / f"{verdict}.tlog-proof", "--key", vkey
    )
    assert "WRONG" in barograph("audit", "check", home / "rules.yaml", home / "proofs" / f"{verdict}.tlog-proof", "--key", vkey, code=1)
    assert f"incident at record {verdict}: it lied" in stack.change("/rules/reload", {"reason": "r"}).json()["error"]
    assert "an incident is frozen" in audit(stack, "purge", "--reason", "r", code=2)
    assert "expected a verdict that fired" in audit(stack, "incident", 0, "--reason", "r", "--out", stack.folder / "no.zip", code=2)
    barograph("thaw", "--reason", "reported", "--config", stack.config_path)
    assert stack.change("/rules/reload", {"reason": "r"}).status_code == 200


def test_reports_findings_and_the_technical_file(stack: Stack) -> None:
    page = stack.folder / "r.html"
    audit(stack, "report", "--from", "2020-01-01", "--out", page)
    assert "Nothing is wrong" in page.read_text()
    assert "is not before" in audit(stack, "report", "--from", "2026-01-02", "--to", "2026-01-01", code=2)
    out = stack.folder / "findings"
    assert "findings in" in audit(stack, "export", "--out", out)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {each["class_uid"] for each in found} == {2004}
    assert any(each.get("resources") for each in found)
    file = stack.folder / "technical.md"
    audit(stack, "technical-file", "--out", file, "--figures", "benchmarks/results")
    text = file.read_text()
    assert "| look | `panic.last > -99` | alert | armed |" in text
    assert text.count("**[PROVIDER") > 20
    assert "rules loaded" in text
    assert "ledger on AMD EPYC" in text


def test_a_crash_leaves_nothing_of_what_was_said(stack: Stack) -> None:
    for name, process in stack.processes.items():
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits), name
    ask(stack, "plain")
    stack.stop("sidecar", signal.SIGABRT)
    assert {path for path, data in files(stack.folder, stack.runtime).items() if SECRET.encode() in data} == set()
    assert "records and" in audit(stack, "purge", "--reason", "by hand, while no sidecar runs")  # nobody holds the ledger now
    events = stack.ledger("custody")
    assert not [each for each in events if each["event"] == "purged"]
    assert audit(stack, "hold", "x", "--reason", "r").startswith("held")
    assert stack.ledger("custody")[-1]["by"] != "admin"
