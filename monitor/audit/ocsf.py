"""Verdicts as findings for a SIEM: Detection Finding of the Open Cybersecurity Schema Framework, 1.8 (schema.ocsf.io)."""

from __future__ import annotations

from typing import Any

VERSION = "1.8.0"
CLASS, CATEGORY = 2004, 2
SEVERITY = {"info": 1, "warning": 3, "critical": 5}
OBSERVED, MODIFIED, DENIED = 3, 4, 2  # action_id
DETECTED, BLOCKED, CUSTOM = 15, 2, 7  # disposition_id
DONE = {"halt": (DENIED, BLOCKED), "reroute": (MODIFIED, CUSTOM), "throttle": (MODIFIED, CUSTOM), "steer": (MODIFIED, CUSTOM)}
CREATE, CLOSE = 1, 3  # activity_id
RULE = 1  # analytic.type_id


def finding(verdict: dict[str, Any], origin: str, version: str, model: str = "") -> dict[str, Any]:
    """A record of the kind `verdict` as a finding. `origin`: the log's name. A verdict that ended closes the finding of its stream and rule."""
    ended = verdict.get("event") == "ended"
    rule, stream, severity = (str(verdict.get(name, "")) for name in ("rule", "stream", "severity"))
    tags = verdict.get("tags")
    shadow = bool(verdict.get("shadow"))
    action, disposition = (OBSERVED, DETECTED) if shadow or ended else DONE.get(str(verdict.get("action", "")), (OBSERVED, DETECTED))
    activity = CLOSE if ended else CREATE
    found: dict[str, Any] = {
        "activity_id": activity,
        "category_uid": CATEGORY,
        "class_uid": CLASS,
        "type_uid": CLASS * 100 + activity,
        "severity_id": SEVERITY.get(severity, 0),
        "status_id": 4 if ended else 1,
        "time": round(verdict["time"] * 1000),
        "action_id": action,
        "disposition_id": disposition,
        "is_alert": not shadow and not ended,
        "message": f"rule {rule} {verdict.get('event', '')} at token {verdict.get('position', '')}" + (" (in shadow)" if shadow else ""),
        "metadata": {
            "version": VERSION,
            "profiles": ["security_control"],
            "product": {"name": "Barograph", "vendor_name": "Barograph", "version": version},
            "log_name": origin,
            "uid": f"{origin}/{verdict['seq']}",
            "labels": [str(tag) for tag in tags] if isinstance(tags, list) else [],
        },
        "finding_info": {
            "uid": f"{origin}/{stream}/{rule}",
            "title": str(verdict.get("desc") or rule or "a verdict"),
            "types": ["model signal"],
            "analytic": {
                "uid": rule or "unknown",
                "name": rule or "unknown",
                "type_id": RULE,
                "version": str(verdict.get("rules", ""))[:12],
            },
            "data_sources": ["activations of a language model"],
        },
        "evidences": [
            {"data": {name: verdict[name] for name in ("stream", "position", "signals", "thresholds", "when") if name in verdict}}
        ],
        "unmapped": {name: verdict[name] for name in ("action", "mode", "grade", "risk", "rules", "runbook") if verdict.get(name)},
    }
    if model:
        found["resources"] = [{"name": model, "type": "AI Model"}]
    return found
