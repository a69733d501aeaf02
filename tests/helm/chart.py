"""The chart as a test sees it: rendered by Helm's own library, and looked at by paths. `python -m tests.helm.chart` renews the golden files."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

HOME = Path(__file__).parents[2] / "helm" / "barograph"
GOLDEN = Path(__file__).parent / "golden"
NAME, NAMESPACE = "barograph", "models"

Values = dict[str, Any]

ATTACH: Values = {"mode": "attach", "secrets": {"upstream": {"name": "vllm-key", "key": "key"}}}
WRAPPER: Values = {"mode": "wrapper", "upstream": "https://api.example.com"}
SOCKET: Values = {"mode": "attach", "attach": {"listen": "socket", "args": ["--model", "org/model"], "tap": "copy"}}
# Everything that may stand beside everything else.
FULL: Values = {
    "model": "/models/llama", "replicas": 3, "bank": {"source": "claim", "claim": "banks", "path": "llama"},
    "engine": {"args": ["--max-model-len", 8192], "models": {"claim": "weights"}, "cache": {"claim": "cache"}, "resources": {"limits": {"nvidia.com/gpu": 1}}},
    "config": {
        "gateway": {"grace_s": 40, "rate": {"requests_per_s": 50}, "targets": {"safe": {"upstream": "http://safe:8500", "key_env": "SAFE_KEY"}}},
        "audit": {"archive": {"endpoint": "https://s3.example", "bucket": "evidence"}},
        "sidecar": {"admin_hosts": ["barograph.example.com"], "kafka": {"bootstrap": "kafka:9093", "security": "SASL_SSL", "username": "barograph"}},
    },
    "rules": {"files": {"site.yaml": "include: [default]\n", "more.yaml": "rules: []\n"}},
    "secrets": {
        **{name: {"name": f"secret-of-{name.lower()}"} for name in ("admin", "access", "viewer", "tap", "upstream", "audit", "vault", "kafka", "kafkaKey", "otel", "archive", "huggingface")},
        "targets": [{"env": "SAFE_KEY", "name": "secret-of-safe", "key": "key"}], "files": [{"name": "secret-of-brokers", "mountPath": "/etc/kafka"}],
    },
    "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 9093, "protocol": "TCP"}]}]},
    "autoscaling": {"enabled": True}, "monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}},
}  # fmt: skip
MODES: dict[str, Values] = {"engine": {}, "attach": ATTACH, "attach-socket": SOCKET, "wrapper": WRAPPER, "full": FULL}


class Rendered:
    """What Helm made of some values."""

    def __init__(self, templates: Mapping[str, str]) -> None:
        self.notes = templates.get("barograph/templates/NOTES.txt", "")
        self.texts = {name: text for name, text in sorted(templates.items()) if name.endswith(".yaml")}
        self.manifests: list[dict[str, Any]] = [each for text in self.texts.values() for each in yaml.safe_load_all(text) if each]

    def get(self, kind: str, name: str = NAME) -> dict[str, Any]:
        found = [each for each in self.manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{kind} {name}: {len(found)} of {[(each['kind'], each['metadata']['name']) for each in self.manifests]}"
        return found[0]

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load(self.file("-config", "barograph.yaml"))

    @property
    def patch(self) -> dict[str, Any]:
        return yaml.safe_load(self.file("-patch", "patch.yaml"))

    def file(self, ending: str, key: str) -> str:
        (found,) = [each for each in self.manifests if each["kind"] == "ConfigMap" and each["metadata"]["name"].endswith(ending)]
        return found["data"][key]

    def at(self, where: str) -> Any:
        """`Kind[:name] a/b/c`; `config …` and `patch …` look into those files. An item of a list is found by its name, or by number. None: not there."""
        head, _, path = where.partition(" ")
        kind, _, name = head.partition(":")
        found: Any = self.config if kind == "config" else self.patch if kind == "patch" else self.get(kind, name or NAME)
        for key in re.split(r"/(?![^{]*})", path):
            key = key.strip("{}")
            if isinstance(found, list):
                named = [each for each in found if isinstance(each, dict) and each.get("name") == key]
                found = named[0] if named else found[int(key)] if key.isdigit() and int(key) < len(found) else None
            else:
                found = found.get(key) if isinstance(found, dict) else None
        return found

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every pod's spec that is made here, with a name for messages. The patch is one too, as far as it goes."""
        for each in self.manifests:
            if each["kind"] == "Pod":
                yield f"Pod {each['metadata']['name']}", each["spec"]
            elif "template" in each.get("spec", {}):
                yield each["kind"], each["spec"]["template"]["spec"]
            elif each["metadata"]["name"].endswith("-patch"):
                yield "patch", self.patch["spec"]["template"]["spec"]


@functools.cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(HOME)


def render(values: Values) -> Rendered:
    """Raises HelmError, with what the chart says about values that cannot work."""
    return Rendered(chart().render(values, name=NAME, namespace=NAMESPACE))


def merged(*values: Values) -> Values:
    """Later ones go before; mappings are merged, as Helm does."""
    made: Values = {}
    for each in values:
        for key, value in each.items():
            old = made.get(key)
            made[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return made


def nested(path: str, value: Any) -> Values:
    """`a.b.c` and a value as values."""
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


def golden(mode: str) -> str:
    """Dashboards are left out: they are copies, and long."""
    texts = render(MODES[mode]).texts.items()
    return "".join(
        f"--- # {name}\n{text.strip()}\n"
        for name, text in texts
        if text.strip() and not name.endswith(("/dashboards.yaml", "/prometheusrule.yaml"))
    )


if __name__ == "__main__":
    for each in MODES:
        (GOLDEN / f"{each}.yaml").write_text(golden(each), "utf-8")
