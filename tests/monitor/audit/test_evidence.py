"""What a ledger says to others: reports, packs of evidence, findings."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from monitor.audit import incident, ocsf, report, verifier
from monitor.audit.check import check
from monitor.audit.custody import Custody
from monitor.audit.ledger import Ledger
from monitor.audit.note import LocalSigner
from monitor.audit.proof import prove
from monitor.audit.retention import Retention
from monitor.errors import BarographError
from tests.ledgers import KEY, SIGNER, ledger
from tests.monitor.audit.test_foreign import TOOL


def verdict(kept: Ledger, **changes: Any) -> int:
    said = {
        "event": "fired", "stream": "r1#0", "source": "tap", "position": 3, "rule": "high", "rules": "d1", "action": "halt", "mode": "armed",
        "shadow": "", "severity": "critical", "risk": "R-7", "tags": ["x"], "desc": "It rises <fast>.", "when": "panic.last > 3", "grade": "activations",
        "signals": {"panic.last": 4.5}, "thresholds": {}, "model_signal": {"panic": [1.0, 2.0, 4.5], "hostility": [0.1, None, 0.3]},
    }  # fmt: skip
    return kept.append("verdict", **{**said, **changes})


@pytest.fixture
def kept(tmp_path: Path) -> Ledger:
    made = ledger(tmp_path / "l")
    made.append("rules", event="loaded", digest="d1", sources={}, document={"rules": [{"rule": "high", "when": "panic.last > 3"}]})
    made.append("sidecar", event="start", version="1", bank="b")
    made.append("tap", event="connected", source="tap", model="m")
    for name in ("r0", "r1"):
        made.append(
            "stream", event="begin", stream=f"{name}#0", rules="d1", request={"model": "m", "tenant": "", "route": "/v1/completions"}
        )
    verdict(made)
    verdict(made, stream="r0#0", rule="look", action="alert", mode="shadow", shadow="rule", severity="info")
    for name in ("r0", "r1"):
        made.append("stream", event="end", stream=f"{name}#0", tokens=9, judged=9, dropped=0, gap=False, nan=False, peak={"panic": 1.5})
        made.append("reply", request=name, how="judged", outcome="ended", status=200, tokens=3, early=0, held=0.002, streams=[f"{name}#0"], halted=["high"] if name == "r1" else [])  # fmt: skip
    made.append("custody", event="queried", by="bob", reason="r", said="SELECT 1")
    made.append("command", id="1", issuer="ann", via="api", verb="disarm", about="rule", name="look", reason="too <loud>", outcome="done")
    made.append("failure", stream="r0#0", condition="missing_score", why="late", decision="open")
    made.seal()
    return made


def test_a_report_says_it_all_in_one_file(kept: Ledger) -> None:
    page = report.report(kept.path, 0, 4e9, [SIGNER.key.vkey], "a test")
    for said in (
        "Nothing is wrong",
        "<td>high</td><td>armed</td><td>halt</td>",
        "R-7",
        "500.0",
        "ann",
        "too &lt;loud&gt;",
        "missing_score",
        "100.00 %",
    ):
        assert said in page, said
    assert page.count("<svg") == 4
    assert not re.search(r"<script|src=|href=\"http|url\(|@import", page)
    assert "No rule fired." in report.report(kept.path, 0, 1, [SIGNER.key.vkey], "a test")


def test_a_report_on_a_changed_ledger_says_so(kept: Ledger) -> None:
    page = report.report(kept.path, 0, 4e9, ["example.com/barograph+00000000+AAAA"], "a test")
    assert "could not be verified" in page
    (bundle,) = (kept.path / "tile" / "entries" / "000.p").iterdir()
    bundle.write_bytes(bundle.read_bytes().replace(b"too <loud>", b"too quiet!"))
    page = report.report(kept.path, 0, 4e9, [SIGNER.key.vkey], "a test")
    assert "Something is wrong with the ledger" in page


def test_one_odd_peak_spoils_no_report(kept: Ledger) -> None:
    for peak in ({"omitted_bytes": 9, "sha256": "x"}, "text", [1], 3, {"panic": "high"}):
        kept.append("stream", event="begin", stream="odd#0", request={})
        kept.append("stream", event="end", stream="odd#0", tokens=1, judged=1, dropped=0, gap=False, nan=False, peak=peak)
    kept.seal()
    assert "Nothing is wrong" in report.report(kept.path, 0, 4e9, [SIGNER.key.vkey], "a test")


def test_a_report_as_pdf(kept: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    out = tmp_path / "r.pdf"
    report.pdf(report.report(kept.path, 0, 4e9, [SIGNER.key.vkey], "a test"), out)
    assert out.read_bytes().startswith(b"%PDF-")
    assert not [each for each in caplog.records if each.name.partition(".")[0] in ("weasyprint", "fontTools")]


def packed(kept: Ledger, tmp_path: Path, number: int = 5) -> Path:
    Custody(kept, Retention()).act("incident", "ann", "it lied", {"verdict": number, "aware_at": 1.0})
    kept.seal()
    incident.pack(kept.path, number, tmp_path / "i.zip", SIGNER.key.vkey, b"{}")
    with zipfile.ZipFile(tmp_path / "i.zip") as archive:
        archive.extractall(tmp_path / "i")
    return tmp_path / "i"


def test_a_pack_is_checked_by_sha256sum_and_by_us(kept: Ledger, tmp_path: Path) -> None:
    home = packed(kept, tmp_path)
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert {line.partition("  ")[2] for line in (home / "SHA256SUMS").read_text().splitlines()} == {
        str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and path.name != "SHA256SUMS"
    }
    proofs = sorted((home / "proofs").iterdir())
    for path in proofs:
        index, head = check((home / "records" / f"{path.stem}.json").read_bytes(), path.read_bytes(), [KEY])
        assert index == int(path.stem)
        assert head.size > index
    found = [json.loads(path.read_text()) for path in (home / "records").iterdir()]
    assert {(each["kind"], each.get("event")) for each in found} == {
        ("rules", "loaded"), ("sidecar", "start"), ("tap", "connected"), ("stream", "begin"), ("stream", "end"), ("verdict", "fired"), ("reply", None),
        ("command", None), ("incident", "opened"),
    }  # fmt: skip
    assert all("r0" not in json.dumps(each) for each in found)  # nothing of other people's generations
    assert (home / "scores.csv").read_text().splitlines() == ["position,hostility,panic", "1,0.1,1", "2,,2", "3,0.3,4.5"]
    assert "panic.last > 3" in (home / "rules.yaml").read_text()
    draft = (home / "report-draft.md").read_text()
    assert "widespread or critical infrastructure: 1970-01-03 00:00:01" in draft
    assert "any other: 1970-01-16 00:00:01" in draft
    assert draft.count("[FILL IN") == 6
    assert "<-- the verdict" in (home / "timeline.txt").read_text()


@pytest.mark.skipif(not TOOL.exists(), reason="no foreign verifier: `make test` installs it where there is a Python 3.12")
def test_a_pack_is_checked_by_the_commands_of_its_own_readme(kept: Ledger, tmp_path: Path) -> None:
    home = packed(kept, tmp_path)
    commands = (home / "README.txt").read_text().partition("here aics-tlog 0.2):\n")[2].partition("\nor with Barograph")[0]
    script = commands.replace("aics-tlog", str(TOOL)).replace("/tmp/path", str(tmp_path / "path"))
    done = subprocess.run(["bash", "-c", script], cwd=home, capture_output=True, text=True)
    assert "WRONG" not in done.stdout, done.stdout + done.stderr
    record = next((home / "records").iterdir())
    record.write_bytes(record.read_bytes() + b" ")
    done = subprocess.run(["bash", "-c", script], cwd=home, capture_output=True, text=True)
    assert f"WRONG {record.stem}" in done.stdout
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=home, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"model_signal": {"omitted_bytes": 9, "sha256": "x"}},
        {"model_signal": {"panic": [1.0], "calm": []}},
        {"desc": "two\nlines"},
        {"signals": None},
    ],
)
def test_a_verdict_whose_scores_are_missing_is_packed_all_the_same(kept: Ledger, tmp_path: Path, odd: dict[str, Any]) -> None:
    number = verdict(kept, **odd)
    kept.append("scores", stream="r1#0", first=0, tokens=9, probes=["a"], scores="AAAA")
    kept.append("incident", event="opened", verdict=number, aware_at=1e300, by="x\n2026 record 9 <-- the verdict", reason="r")
    kept.seal()
    incident.pack(kept.path, number, tmp_path / "i.zip", SIGNER.key.vkey)
    with zipfile.ZipFile(tmp_path / "i.zip") as archive:
        said = archive.read("timeline.txt").decode()
        assert archive.read("scores.csv")
    assert sum(line.endswith("<-- the verdict") for line in said.splitlines()) == 1


def test_only_verdicts_that_fired_are_packed(kept: Ledger, tmp_path: Path) -> None:
    with pytest.raises(BarographError, match="record 1 says 'sidecar start'; expected a verdict that fired"):
        incident.pack(kept.path, 1, tmp_path / "i.zip", SIGNER.key.vkey)
    (tmp_path / "i.zip").write_text("mine")
    with pytest.raises(BarographError, match="expected a new file"):
        incident.pack(kept.path, 5, tmp_path / "i.zip", SIGNER.key.vkey)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 256, 257, 600])
def test_a_proof_holds_for_its_record_only(tmp_path: Path, size: int) -> None:
    kept = ledger(tmp_path / "l")
    for i in range(size):
        kept.append("x", i=i)
    kept.seal()
    for number in sorted({0, 1, size // 2, size - 2, size - 1} & set(range(size))):
        entry, said = prove(kept.path, number)
        proof = said.encode()
        assert check(entry, proof, [KEY])[0] == number
        lines = said.split("\n")
        wrong = [
            (entry + b" ", proof),
            (entry, said.replace(f"index {number}\n", f"index {number + 1}\n").encode()),
            (entry, said.replace(f"\n{size}\n", f"\n{size + 1}\n").encode()),
            (entry, "\n".join([*lines[:2], "A" * 43 + "=", *lines[2:]]).encode()),
            (entry, proof.replace(b"tlog-proof@v1", b"tlog-proof@v2")),
            *(
                (entry, said.replace(f"index {number}\n", f"{index}\n").encode())
                for index in (f"index +{number}", f"index 0{number}", f"{number}", "index ²")
            ),
        ]
        if len(lines[2]) > 2:
            wrong.append((entry, "\n".join([*lines[:2], *lines[3:]]).encode()))
        for record, bad in wrong:
            with pytest.raises(verifier.Wrong):
                check(record, bad, [KEY])
    other = verifier.Key.read(LocalSigner("example.com/barograph", bytes(32)).key.vkey)
    with pytest.raises(verifier.Wrong, match="not signed by a given key"):
        check(entry, proof, [other])


SCHEMA = Draft202012Validator(
    OcsfJsonSchemaEmbedded(get_ocsf_schema(version=ocsf.VERSION)).get_class_schema(
        class_name="detection_finding", profiles=["security_control"]
    )
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"severity_id": 5, "action_id": 2, "disposition_id": 2, "is_alert": True, "activity_id": 1, "type_uid": 200401}),
        ({"shadow": "rule", "mode": "shadow"}, {"action_id": 3, "disposition_id": 15, "is_alert": False}),
        ({"action": "reroute", "severity": "info"}, {"action_id": 4, "severity_id": 1}),
        ({"action": "alert", "severity": "warning"}, {"action_id": 3, "severity_id": 3}),
        ({"tags": [], "runbook": "x", "desc": ""}, {"is_alert": True}),
    ],
)
def test_findings_are_those_of_the_schema(kept: Ledger, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    number = verdict(kept, **changes)
    kept.seal()
    found = ocsf.finding(json.loads(prove(kept.path, number)[0]), "example.com/barograph", "1", "m")
    assert [f"{error.json_path}: {error.message[:200]}" for error in SCHEMA.iter_errors(found)] == []
    assert {name: found[name] for name in expected} == expected
    assert found["type_uid"] == found["class_uid"] * 100 + found["activity_id"]
    assert found["time"] > 1e12
    assert list(SCHEMA.iter_errors({**found, "severity_id": 7}))  # the judge can say no


@pytest.mark.parametrize("odd", [{"unwritable": "x"}, {"event": "fired", "tags": None, "severity": [1], "action": {}, "rule": 3}])
def test_a_record_that_is_not_as_it_should_be_is_a_finding_too(odd: dict[str, Any]) -> None:
    found = ocsf.finding({"seq": 1, "time": 1.7e9, "kind": "verdict", **odd}, "o", "1")
    assert list(SCHEMA.iter_errors(found)) == []


def test_an_ended_verdict_closes_its_finding() -> None:
    opened = {
        "seq": 1,
        "time": 1.7e9,
        "kind": "verdict",
        "event": "fired",
        "stream": "r#0",
        "position": 3,
        "rule": "a",
        "rules": "d",
        "severity": "critical",
    }
    ended = {"seq": 2, "time": 1.7e9, "kind": "verdict", "event": "ended", "stream": "r#0", "position": 9, "rule": "a"}
    one, two = (ocsf.finding(each, "o", "1") for each in (opened, ended))
    assert list(SCHEMA.iter_errors(two)) == []
    assert one["finding_info"]["uid"] == two["finding_info"]["uid"]
    assert (two["activity_id"], two["status_id"], two["type_uid"]) == (3, 4, 200403)
