"""Each value of values.yaml does what it says: one case each, and a value without a case fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import helm_python
import pytest
import yaml

from tests.helm.chart import ATTACH, HOME, SOCKET, WRAPPER, Values, merged, nested, render

POD = "Deployment spec/template/spec"
SIDECAR, ENGINE = f"{POD}/initContainers/barograph", f"{POD}/containers/engine"
PATCHED = "patch spec/template/spec"
MANY: Values = {"replicas": 2}
STATEFUL = "StatefulSet spec/template/spec"
SERVICE_MONITOR: Values = {"monitoring": {"serviceMonitor": {"enabled": True}}}
RULE: Values = {"monitoring": {"prometheusRule": {"enabled": True}}}
DASHBOARDS: Values = {"monitoring": {"dashboards": {"enabled": True}}}
SCALED: Values = {"autoscaling": {"enabled": True}}
DIGEST = "sha256:" + "ab" * 32
PEER = [{"podSelector": {"matchLabels": {"app": "front"}}}]


@dataclass(frozen=True)
class Case:
    """With `value` on top of `beside`, `where` is `then`; with `beside` alone it is something else."""

    value: Any
    where: str
    then: Any
    beside: Values = field(default_factory=dict)


def ref(name: str, key: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key}}


def named(secret: str, variable: str, key: str, place: str = SIDECAR) -> dict[str, Case]:
    """A reference to a Secret: its name makes the variable, its key goes into it."""
    return {
        f"secrets.{secret}.name": Case("mine", f"{place}/env/{variable}/valueFrom", ref("mine", key)),
        f"secrets.{secret}.key": Case("other", f"{place}/env/{variable}/valueFrom", ref("mine", "other"), nested(f"secrets.{secret}.name", "mine")),
    }  # fmt: skip


CASES: dict[str, Case] = {
    "mode": Case("attach", "ConfigMap:barograph-patch data/command", "kubectl -n models patch deployment vllm --type strategic --patch-file patch.yaml", {"networkPolicy": {"enabled": True}}),
    "model": Case("org/model", f"{ENGINE}/args/5", "org/model"),
    "fullnameOverride": Case("meter", "Deployment:meter metadata/name", "meter"),
    "replicas": Case(3, "StatefulSet spec/replicas", 3),
    "workload": Case("StatefulSet", "StatefulSet spec/serviceName", "barograph-admin"),
    "image.repository": Case("registry.example/b", f"{SIDECAR}/image", "registry.example/b:0.1.0"),
    "image.tag": Case("1.2.3", f"{SIDECAR}/image", "ghcr.io/barograph/barograph-sidecar:1.2.3"),
    "image.digest": Case(DIGEST, f"{SIDECAR}/image", f"ghcr.io/barograph/barograph-sidecar@{DIGEST}", {"image": {"tag": "1.2.3"}}),
    "image.pullPolicy": Case("Always", f"{SIDECAR}/imagePullPolicy", "Always"),
    "imagePullSecrets": Case(["pull"], f"{POD}/imagePullSecrets", [{"name": "pull"}]),
    "user.uid": Case(2000, f"{SIDECAR}/securityContext/runAsUser", 2000),
    "user.gid": Case(2000, f"{POD}/securityContext/fsGroup", 2000),
    "listen.host": Case("[::]", "config gateway/listen", "[::]:8400"),
    "listen.gateway": Case(9000, f"{SIDECAR}/ports/barograph-gw/containerPort", 9000),
    "listen.admin": Case(9001, "Service:barograph-admin spec/ports/admin/port", 9001),
    "config": Case({"gateway": {"hold": {"lag": 4}}}, "config gateway/hold", {"lag": 4}),
    "rules.pack": Case("strict", "config rules", "strict"),
    "rules.files": Case({"site.yaml": "include: [default]\n"}, "ConfigMap:barograph-rules data", {"site.yaml": "include: [default]\n"}),
    "rules.configMap": Case("ours", f"{POD}/volumes/barograph-rules/configMap/name", "ours"),
    "rules.main": Case("other.yaml", "config rules", "/etc/barograph/rules/other.yaml", {"rules": {"files": {"site.yaml": "", "other.yaml": ""}}}),
    "bank.source": Case("claim", "config tap/bank", "/etc/barograph/bank", {"bank": {"claim": "banks"}}),
    "bank.configMap": Case("bank", f"{POD}/volumes/barograph-bank/configMap/name", "bank", {"bank": {"source": "configMap"}}),
    "bank.claim": Case("banks", f"{POD}/volumes/barograph-bank/persistentVolumeClaim/claimName", "banks", {"bank": {"source": "claim"}}),
    "bank.image.reference": Case("registry.example/bank:1", f"{POD}/volumes/barograph-bank/image/reference", "registry.example/bank:1", {"bank": {"source": "image"}}),
    "bank.image.pullPolicy": Case("Always", f"{POD}/volumes/barograph-bank/image/pullPolicy", "Always", {"bank": {"source": "image", "image": {"reference": "a/b:1"}}}),
    "bank.path": Case("llama", "config tap/bank", "/etc/barograph/bank/llama", {"bank": {"source": "claim", "claim": "banks"}}),
    "engine.kind": Case("embedded", f"{ENGINE}/args", ["engine", "--config", "/etc/barograph/barograph.yaml"]),
    "engine.image.repository": Case("registry.example/e", f"{ENGINE}/image", "registry.example/e:0.1.0"),
    "engine.image.tag": Case("1.2.3", f"{ENGINE}/image", "ghcr.io/barograph/barograph-engine:1.2.3"),
    "engine.image.digest": Case(DIGEST, f"{ENGINE}/image", f"ghcr.io/barograph/barograph-engine@{DIGEST}"),
    "engine.image.pullPolicy": Case("Never", f"{ENGINE}/imagePullPolicy", "Never"),
    "engine.args": Case(["--max-model-len", 1024], f"{ENGINE}/args/7", "1024"),
    "engine.env": Case([{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}], f"{ENGINE}/env/VLLM_LOGGING_LEVEL/value", "DEBUG"),
    "engine.resources.requests": Case({"cpu": "3"}, f"{ENGINE}/resources/requests/cpu", "3"),
    "engine.resources.limits": Case({"nvidia.com/gpu": 2}, f"{ENGINE}/resources/limits/{{nvidia.com/gpu}}", 2),
    "engine.models.claim": Case("weights", f"{POD}/volumes/models/persistentVolumeClaim", {"claimName": "weights", "readOnly": True}),
    "engine.models.mountPath": Case("/weights", f"{ENGINE}/volumeMounts/models/mountPath", "/weights", {"engine": {"models": {"claim": "weights"}}}),
    "engine.cache.claim": Case("cache", f"{POD}/volumes/cache/persistentVolumeClaim/claimName", "cache"),
    "engine.cache.size": Case("5Gi", f"{POD}/volumes/cache/emptyDir/sizeLimit", "5Gi"),
    "engine.shm": Case("8Gi", f"{POD}/volumes/shm/emptyDir/sizeLimit", "8Gi"),
    "engine.startupSeconds": Case(61, f"{ENGINE}/startupProbe/failureThreshold", 13),
    "upstream": Case("https://other.example", "config gateway/upstream", "https://other.example", WRAPPER),
    "attach.deployment": Case("llm", "ConfigMap:barograph-patch data/command", "kubectl -n models patch deployment llm --type strategic --patch-file patch.yaml", ATTACH),
    "attach.container": Case("server", f"{PATCHED}/containers/0/name", "server", ATTACH),
    "attach.listen": Case("socket", f"{PATCHED}/containers/vllm/args", ["--uds", "/run/barograph/engine.sock"], ATTACH),
    "attach.port": Case(8200, "config gateway/upstream", "http://127.0.0.1:8200", ATTACH),
    "attach.args": Case(["--model", "m"], f"{PATCHED}/containers/vllm/args", ["--model", "m", "--uds", "/run/barograph/engine.sock"], SOCKET),
    "attach.tap": Case("copy", f"{PATCHED}/containers/vllm/env/PYTHONPATH/value", "/barograph", ATTACH),
    "attach.command": Case(["python3", "-m", "server"], f"{PATCHED}/containers/vllm/command", ["python3", "-m", "server"], ATTACH),
    "attach.tapPath": Case("/tap", f"{PATCHED}/initContainers/barograph-tap/command/3", "/tap", SOCKET),
    "attach.asUser": Case(False, f"{PATCHED}/containers/vllm/securityContext", None, ATTACH),
    "sidecar.env": Case([{"name": "TZ", "value": "UTC"}], f"{SIDECAR}/env/TZ/value", "UTC"),
    "sidecar.resources.requests": Case({"memory": "1Gi"}, f"{SIDECAR}/resources/requests/memory", "1Gi"),
    "sidecar.resources.limits": Case({"memory": "4Gi"}, f"{SIDECAR}/resources/limits/memory", "4Gi"),
    "sidecar.run": Case("16Mi", f"{POD}/volumes/barograph-run/emptyDir", {"medium": "Memory", "sizeLimit": "16Mi"}),
    "ledger.volume": Case("ephemeral", f"{POD}/volumes/barograph-ledger/ephemeral/volumeClaimTemplate/spec/accessModes", ["ReadWriteOnce"]),
    "ledger.claim": Case("ours", f"{POD}/volumes/barograph-ledger/persistentVolumeClaim/claimName", "ours"),
    "ledger.size": Case("1Gi", "PersistentVolumeClaim:barograph-ledger spec/resources/requests/storage", "1Gi"),
    "ledger.storageClass": Case("fast", "PersistentVolumeClaim:barograph-ledger spec/storageClassName", "fast"),
    **named("admin", "BAROGRAPH_ADMIN_TOKEN", "token"),
    "secrets.access.name": Case("people", "config sidecar/access", "/etc/barograph/access/access.yaml"),
    "secrets.access.key": Case("a.yaml", "config sidecar/access", "/etc/barograph/access/a.yaml", {"secrets": {"access": {"name": "people"}}}),
    "secrets.viewer.name": Case("seer", "ServiceMonitor spec/endpoints/0/authorization/credentials", {"name": "seer", "key": "token"}, SERVICE_MONITOR),
    "secrets.viewer.key": Case("v", "ServiceMonitor spec/endpoints/0/authorization/credentials/key", "v", merged(SERVICE_MONITOR, {"secrets": {"viewer": {"name": "seer"}}})),
    **named("tap", "BAROGRAPH_TAP_KEY", "key", ENGINE),
    **named("upstream", "BAROGRAPH_UPSTREAM_KEY", "key"),
    **named("audit", "BAROGRAPH_AUDIT_KEY", "key"),
    **named("vault", "BAROGRAPH_VAULT_KEY", "key"),
    **named("kafka", "BAROGRAPH_KAFKA_PASSWORD", "password"),
    **named("kafkaKey", "BAROGRAPH_KAFKA_KEY_PASSWORD", "password"),
    **named("otel", "OTEL_EXPORTER_OTLP_HEADERS", "headers"),
    "secrets.archive.name": Case("s3", f"{SIDECAR}/env/AWS_ACCESS_KEY_ID/valueFrom", ref("s3", "access-key")),
    "secrets.archive.accessKey": Case("id", f"{SIDECAR}/env/AWS_ACCESS_KEY_ID/valueFrom", ref("s3", "id"), {"secrets": {"archive": {"name": "s3"}}}),
    "secrets.archive.secretKey": Case("it", f"{SIDECAR}/env/AWS_SECRET_ACCESS_KEY/valueFrom", ref("s3", "it"), {"secrets": {"archive": {"name": "s3"}}}),
    **named("huggingface", "HF_TOKEN", "token", ENGINE),
    "secrets.targets": Case([{"env": "SAFE_KEY", "name": "safe", "key": "k"}], f"{SIDECAR}/env/SAFE_KEY/valueFrom", ref("safe", "k")),
    "secrets.files": Case([{"name": "brokers", "mountPath": "/etc/kafka"}], f"{SIDECAR}/volumeMounts/barograph-secret-brokers", {"name": "barograph-secret-brokers", "mountPath": "/etc/kafka", "readOnly": True}),
    "tls.gateway.secret": Case("cert", "config gateway/tls", {"cert_file": "/etc/barograph/tls/gateway/tls.crt", "key_file": "/etc/barograph/tls/gateway/tls.key"}),
    "tls.gateway.clientCA": Case(True, "config gateway/tls/client_ca_file", "/etc/barograph/tls/gateway/ca.crt", {"tls": {"gateway": {"secret": "cert"}}}),
    "tls.admin.secret": Case("cert", f"{SIDECAR}/readinessProbe/httpGet/scheme", "HTTPS"),
    "service.type": Case("LoadBalancer", "Service spec/type", "LoadBalancer"),
    "service.port": Case(80, "Service spec/ports/http/port", 80),
    "service.annotations": Case({"a": "b"}, "Service metadata/annotations/a", "b"),
    "serviceAccount.create": Case(False, f"{POD}/serviceAccountName", "default"),
    "serviceAccount.name": Case("mine", "ServiceAccount:mine automountServiceAccountToken", False),
    "serviceAccount.annotations": Case({"a": "b"}, "ServiceAccount metadata/annotations/a", "b"),
    "networkPolicy.enabled": Case(False, "NetworkPolicy", "none"),
    "networkPolicy.gateway": Case(PEER, "NetworkPolicy spec/ingress/0", {"from": PEER, "ports": [{"port": 8400, "protocol": "TCP"}]}),
    "networkPolicy.admin": Case(PEER, "NetworkPolicy spec/ingress/1", {"from": PEER, "ports": [{"port": 8401, "protocol": "TCP"}]}),
    "networkPolicy.dns": Case([], "NetworkPolicy spec/egress", []),
    "networkPolicy.egress": Case([{"to": PEER}], "NetworkPolicy spec/egress/1", {"to": PEER}),
    "podDisruptionBudget.enabled": Case(False, "PodDisruptionBudget", "none"),
    "podDisruptionBudget.maxUnavailable": Case("50%", "PodDisruptionBudget spec/maxUnavailable", "50%"),
    "autoscaling.enabled": Case(True, "HorizontalPodAutoscaler spec/scaleTargetRef/kind", "StatefulSet"),
    "autoscaling.minReplicas": Case(2, "HorizontalPodAutoscaler spec/minReplicas", 2, SCALED),
    "autoscaling.maxReplicas": Case(9, "HorizontalPodAutoscaler spec/maxReplicas", 9, SCALED),
    "autoscaling.metric": Case("held", "HorizontalPodAutoscaler spec/metrics/0/pods/metric/name", "held", SCALED),
    "autoscaling.target": Case("500m", "HorizontalPodAutoscaler spec/metrics/0/pods/target", {"type": "AverageValue", "averageValue": "500m"}, SCALED),
    "autoscaling.quietSeconds": Case(60, "HorizontalPodAutoscaler spec/behavior/scaleDown/stabilizationWindowSeconds", 60, SCALED),
    "shutdown.settle": Case(11, f"{POD}/terminationGracePeriodSeconds", 96),
    "shutdown.engine": Case(60, f"{POD}/terminationGracePeriodSeconds", 120),
    "shutdown.seal": Case(16, f"{POD}/terminationGracePeriodSeconds", 91),
    "monitoring.serviceMonitor.enabled": Case(True, "ServiceMonitor spec/jobLabel", "app.kubernetes.io/name"),
    "monitoring.serviceMonitor.interval": Case("5s", "ServiceMonitor spec/endpoints/0/interval", "5s", SERVICE_MONITOR),
    "monitoring.serviceMonitor.labels": Case({"release": "prometheus"}, "ServiceMonitor metadata/labels/release", "prometheus", SERVICE_MONITOR),
    "monitoring.prometheusRule.enabled": Case(True, "PrometheusRule spec/groups/barograph-recording/interval", "15s"),
    "monitoring.prometheusRule.labels": Case({"release": "prometheus"}, "PrometheusRule metadata/labels/release", "prometheus", RULE),
    "monitoring.dashboards.enabled": Case(True, "ConfigMap:barograph-fleet metadata/labels/grafana_dashboard", "1"),
    "monitoring.dashboards.labels": Case({"grafana_dashboard": "yes"}, "ConfigMap:barograph-fleet metadata/labels/grafana_dashboard", "yes", DASHBOARDS),
    "monitoring.dashboards.annotations": Case({"folder": "LLM"}, "ConfigMap:barograph-fleet metadata/annotations/folder", "LLM", DASHBOARDS),
    "podLabels": Case({"team": "a"}, "Deployment spec/template/metadata/labels/team", "a"),
    "podAnnotations": Case({"a": "b"}, "Deployment spec/template/metadata/annotations/a", "b"),
    "nodeSelector": Case({"gpu": "h100"}, f"{POD}/nodeSelector", {"gpu": "h100"}),
    "tolerations": Case([{"key": "gpu", "operator": "Exists"}], f"{POD}/tolerations", [{"key": "gpu", "operator": "Exists"}]),
    "affinity": Case({"nodeAffinity": {}}, f"{POD}/affinity", {"nodeAffinity": {}}),
    "topologySpreadConstraints": Case([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}], f"{POD}/topologySpreadConstraints/0/topologyKey", "zone"),
    "runtimeClassName": Case("nvidia", f"{POD}/runtimeClassName", "nvidia"),
    "priorityClassName": Case("high", f"{POD}/priorityClassName", "high"),
}  # fmt: skip


def leaves(values: Values, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> Iterator[str]:
    """Values that stand for themselves. A mapping whose keys the schema does not name is one: it goes on as it is."""
    schema = root["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if path != "config" and isinstance(values, dict) and schema.get("additionalProperties") is False:
        for key, value in values.items():
            assert key in schema["properties"], f"values.schema.json has no {path}.{key}"
            yield from leaves(value, schema["properties"][key], root, f"{path}.{key}".lstrip("."))
    else:
        yield path


SCHEMA = json.loads((HOME / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((HOME / "values.yaml").read_text())


def test_each_value_has_a_case() -> None:
    assert sorted(leaves(DEFAULTS, SCHEMA, SCHEMA)) == sorted(CASES)


def test_what_the_schema_names_stands_in_the_values() -> None:
    missing = set(SCHEMA["properties"]) - set(DEFAULTS)
    assert missing == {"global"}, "Helm's own, and nothing else"


@pytest.mark.parametrize("path", CASES)
def test_a_value_does_what_it_says(path: str) -> None:
    case = CASES[path]
    found = look(merged(case.beside, nested(path, case.value)), case.where)
    assert found == case.then
    assert look(case.beside, case.where) != found, "it is so without the value too"


def look(values: Values, where: str) -> Any:
    """`none` when there is no such manifest, or when the chart refuses: a value that another one needs."""
    try:
        return render(values).at(where)
    except (AssertionError, helm_python.HelmError):
        return "none"


WRONG: dict[str, tuple[Values, str]] = {
    "an unknown key": ({"replica": 2}, "additional properties 'replica' not allowed"),
    "an unknown key below": ({"engine": {"gpu": 1}}, "additional properties 'gpu' not allowed"),
    "a number as text": ({"replicas": "two"}, "got string, want integer"),
    "an unknown mode": ({"mode": "proxy"}, "value must be one of 'engine', 'attach', 'wrapper'"),
    "no limit": ({"sidecar": {"resources": {"limits": None}}}, "missing property 'limits'"),
    "no digest": ({"image": {"digest": "1.2.3"}}, "does not match pattern"),
    "root": ({"user": {"uid": 0}}, "minimum: got 0, want 1"),
    "a section of the configuration that does not exist": ({"config": {"gatway": {}}}, "additional properties 'gatway' not allowed"),
    "a key of the configuration that is the chart's": ({"config": {"gateway": {"listen": "0.0.0.0:1"}}}, "config.gateway.listen is set by the chart itself"),
    "the socket": ({"config": {"socket": "/tmp/tap.sock"}}, "config.socket is set by the chart itself"),
    "an engine on a port": ({"engine": {"args": ["--port=8000"]}}, "engine.args has --port; the engine listens on a socket"),
    "a key among the arguments": ({"engine": {"args": ["--api-key", "x"]}}, "a key among the arguments can be read"),
    "a secret written down": ({"engine": {"env": [{"name": "HF_TOKEN", "value": "hf_x"}]}}, "env HF_TOKEN has its value written down; expected valueFrom"),
    "a wrapper of nothing": ({"mode": "wrapper"}, "mode wrapper needs upstream"),
    "an upstream elsewhere": ({"upstream": "https://api.example.com"}, "upstream is for mode wrapper, and the mode is engine"),
    "many of another's pods": (merged(ATTACH, {"replicas": 2}), "expected replicas 1"),
    "an open port": ({"mode": "attach", "networkPolicy": {"enabled": False}}, "goes around the gateway; expected attach.listen socket"),
    "arguments on a port": (merged(ATTACH, {"attach": {"args": ["--model", "m"]}}), "expected it beside attach.listen socket only"),
    "a socket of another user": (merged(SOCKET, {"attach": {"asUser": False}}), "expected attach.asUser true"),
    "one ledger for many": ({"replicas": 2, "workload": "Deployment"}, "several pods of a Deployment would share one ledger"),
    "one claim for many": ({"replicas": 2, "ledger": {"claim": "ours"}}, "ledger.claim is one claim for one pod"),
    "rules twice": ({"rules": {"configMap": "a", "files": {"site.yaml": ""}}}, "rules.files and rules.configMap are both given"),
    "a main file that is not there": ({"rules": {"files": {"mine.yaml": ""}}}, "rules.main is site.yaml, and rules.files has mine.yaml"),
    "a bank without a place": ({"bank": {"source": "image"}}, "bank.source is image; expected bank.image.reference to say which"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_work_is_refused_with_a_sentence(what: str) -> None:
    values, said = WRONG[what]
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    assert said in str(refused.value)
