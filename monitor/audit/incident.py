"""The evidence of one verdict in one file: what happened, which rule, the scores, and a proof of every record, for somebody who has nothing of ours."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from monitor.audit.custody import NOTES, deadlines
from monitor.audit.proof import Prover
from monitor.audit.reader import records
from monitor.errors import BarographError

MOST = 5000  # records in one pack


class IncidentError(BarographError):
    """No such verdict, or a file that cannot be written."""


def pack(folder: Path, verdict: int, out: Path, vkey: str, card: bytes | None = None) -> int:
    """Write the pack of the verdict with this number to a zip file. Gives the number of records in it. Raises IncidentError and other BarographErrors.

    vkey: the log's public key; card: the card.json of the bank in force. The newest checkpoint must cover the verdict.
    """
    prover = Prover(folder)
    found = fired(prover, verdict)
    last = int(json.loads(prover.entry(prover.head.size - 1))["seq"])
    related = [each for each in _related(folder, found) if each["seq"] <= last]
    if len(related) > MOST:
        raise IncidentError(f"{len(related)} records belong to this verdict; expected at most {MOST}")
    files: dict[str, bytes] = {}
    for number in (each["seq"] for each in related):
        files[f"records/{number}.json"], proof = prover.prove(number)
        files[f"proofs/{number}.tlog-proof"] = proof.encode()
    rules: dict[str, Any] = next((each for each in reversed(related) if each["kind"] == "rules" and "document" in each), {})
    files["rules.yaml"] = yaml.safe_dump(rules.get("document", {}), sort_keys=False, allow_unicode=True).encode()
    try:
        files["scores.csv"] = _scores(related, found)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        files["scores.csv"] = b"not in the records: they were too large for one, or are not what this version writes\n"
    files["timeline.txt"] = _timeline(related, found)
    files["log.vkey"] = f"{vkey}\n".encode()
    files["checkpoint"] = prover.checkpoint
    if card is not None:
        files["bank-card.json"] = card
    opened = next((each for each in related if each["kind"] == "incident"), None)
    files["report-draft.md"] = _draft(found, related, opened).encode()
    files["README.txt"] = README.format(
        verdict=verdict, origin=prover.head.origin, size=prover.head.size, root=base64.b64encode(prover.head.root).decode(), vkey=vkey
    ).encode()
    files["SHA256SUMS"] = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()
    try:
        with zipfile.ZipFile(out, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted(files.items()):
                archive.writestr(name, data)
    except OSError as error:
        raise IncidentError(f"{out}: {error.strerror}; expected a new file in a folder that can be written") from None
    return len(related)


def fired(prover: Prover, number: int) -> dict[str, Any]:
    """The verdict with this number. Raises IncidentError for another record, ProofError for one that is not there."""
    found: dict[str, Any] = json.loads(prover.prove(number)[0])
    if (found["kind"], found.get("event")) != ("verdict", "fired"):
        what = " ".join(filter(None, (found["kind"], str(found.get("event", "")))))
        raise IncidentError(f"record {number} says '{what}'; expected a verdict that fired: barograph audit query --view verdicts")
    return found


def _related(folder: Path, verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of the verdict's generation and request, what was in force, who did what meanwhile, and incidents that name it."""
    stream, request = verdict["stream"], verdict["stream"].rpartition("#")[0]
    found: list[dict[str, Any]] = []
    before: dict[str, dict[str, Any]] = {}  # the newest of what was in force when it fired
    ended = verdict["time"] + 3600
    for each in records(folder):
        kind, event = each["kind"], each.get("event")
        mine = each.get("stream") == stream or each.get("request") == request
        about = kind == "incident" and each.get("verdict") == verdict["seq"]
        if mine or about:
            found.append(each)
        elif each["seq"] < verdict["seq"]:
            if (kind, event) == ("sidecar", "start") or (kind == "tap" and event in ("connected", "check")):
                before[f"{kind} {event}"] = each
            elif kind == "rules" and each.get("digest") == verdict.get("rules") and "document" in each:
                before["rules"] = each
        elif each["time"] < ended and kind in ("command", "custody", "rules") and event not in NOTES:
            found.append(each)
    return sorted([*found, *before.values()], key=lambda each: int(each["seq"]))


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def _line(value: Any) -> str:
    """On one line, whatever somebody wrote."""
    return " ".join(str(value).split())


def _timeline(related: list[dict[str, Any]], verdict: dict[str, Any]) -> bytes:
    lines = []
    for each in related:
        what = " ".join(str(each[name]) for name in ("kind", "event", "verb") if each.get(name))
        more = ", ".join(f"{name} {_line(each[name])}" for name in ("rule", "position", "action", "outcome", "condition", "decision", "issuer", "by", "reason", "tokens", "judged") if each.get(name) not in (None, ""))  # fmt: skip
        mark = "  <-- the verdict" if each["seq"] == verdict["seq"] else ""
        lines.append(f"{_at(each['time'])}  record {each['seq']:>8}  {_line(what)}{': ' + more if more else ''}{mark}\n")
    return "".join(lines).encode()


def _scores(related: list[dict[str, Any]], verdict: dict[str, Any]) -> bytes:
    """One line a token and probe: all that were recorded, else the last ones before the verdict."""
    out = io.StringIO()
    table = csv.writer(out)
    whole = [each for each in related if each["kind"] == "scores" and each["stream"] == verdict["stream"]]
    if whole:
        table.writerow(["position", *whole[0]["probes"]])
        for each in whole:
            values = np.frombuffer(base64.b64decode(each["scores"]), "<f2").reshape(each["tokens"], -1)
            for i, row in enumerate(values):
                table.writerow([each["first"] + i, *(f"{float(value):.3f}" for value in row)])
    else:
        tail: dict[str, list[float | None]] = verdict.get("model_signal", {})
        table.writerow(["position", *tail])
        count = max(map(len, tail.values()), default=0)
        for i in range(count):
            table.writerow([verdict["position"] - count + 1 + i, *(values[i] for values in tail.values())])
    return out.getvalue().encode()


def _draft(verdict: dict[str, Any], related: list[dict[str, Any]], opened: dict[str, Any] | None) -> str:
    aware = opened.get("aware_at") if opened else None
    aware = aware if isinstance(aware, int | float) and 0 <= aware < 1e11 else None
    clocks = (
        "".join(f"  - {name}: {_at(when)}\n" for name, when in deadlines(aware).items())
        if aware is not None
        else "  - no incident was opened for this verdict: `barograph audit incident` with --aware starts the clocks\n"
    )
    begin = next((each for each in related if each["kind"] == "stream" and each.get("event") == "begin"), {})
    reply = next((each for each in related if each["kind"] == "reply"), {})
    asked = begin.get("request", {}) if isinstance(begin.get("request"), dict) else {}
    return DRAFT.format(
        aware=_at(aware) if aware is not None else "[FILL IN: when did the provider or deployer become aware?]", clocks=clocks, at=_at(verdict["time"]),
        model=asked.get("model", ""), route=asked.get("route", ""), rule=verdict["rule"], desc=verdict.get("desc", ""), when=verdict.get("when", ""),
        action=verdict.get("action", ""), mode=verdict.get("mode", ""), position=verdict["position"],
        signals=json.dumps(verdict.get("signals", {})), outcome=reply.get("outcome", "not known"), tokens=reply.get("tokens", "not known"),
    )  # fmt: skip


README = """The evidence of verdict {verdict} of the log {origin}

  timeline.txt       what happened, a line a record
  scores.csv         the scores that led to it: standard deviations above the model's own neutral text
  rules.yaml         the rules that were in force
  bank-card.json     what the probes are, and how well they do on held-out texts
  report-draft.md    a draft for a report of a serious incident, with the dates by which it is due
  records/N.json     record number N, the bytes that were hashed
  proofs/N.tlog-proof   that the signed checkpoint covers it (c2sp.org/tlog-proof)
  checkpoint         {size} records, root {root}
  log.vkey           the log's public key. Compare it with what the log's keeper gave you by another way: it is worth nothing from here alone.

Check that nothing in this folder was changed:

  sha256sum -c SHA256SUMS

Check each record against its proof with a verifier that others wrote (any for C2SP transparency logs; here aics-tlog 0.2):

  for proof in proofs/*.tlog-proof; do
    number=$(basename "$proof" .tlog-proof)
    sed -n '3,/^$/p' "$proof" | sed '$d' > /tmp/path
    aics-tlog verify-inclusion --leaf "records/$number.json" --index "$(sed -n 's/^index //p' "$proof")" \\
      --size {size} --root '{root}' --proof /tmp/path || echo "WRONG $number"
  done

or with Barograph, which checks the checkpoint's signature too:

  for proof in proofs/*.tlog-proof; do
    barograph audit check "records/$(basename "$proof" .tlog-proof).json" "$proof" --key '{vkey}'
  done
"""

DRAFT = """# Draft: report of a serious incident (Regulation (EU) 2024/1689, Article 73)

A draft for the provider to complete. What stands in brackets only you know. Whether this is a serious incident is not said by a score: check with counsel.

- Aware since: {aware}
- Report due at the latest, by kind of incident:
{clocks}
## What is known from the log

- When: {at}
- Model: {model}, route {route}
- Rule: `{rule}` ({desc}), condition `{when}`
- It fired at token {position}; action {action}, mode {mode}
- Signals: `{signals}` (a model's internal states, not anybody's feelings)
- The reply ended with: {outcome}, after {tokens} tokens
- What people did: see timeline.txt

## What only you know

- Provider, system, version, placed on the market: [FILL IN]
- Member State and market surveillance authority: [FILL IN]
- What happened to whom: [FILL IN]
- Causal link between the system and the incident, established or suspected: [FILL IN]
- Corrective action taken or planned: [FILL IN]
- Contact: [FILL IN]

The first report may be incomplete (Art. 73(5)). Nothing that may alter the cause is to be changed before the authorities are informed (Art. 73(6)).
"""
