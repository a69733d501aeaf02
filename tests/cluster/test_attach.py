"""Mode attach: the patch on Deployments as others make them. What is theirs stays, what is ours comes once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.test_chart import pods, trouble
from tests.helm.chart import ATTACH, HOME, NAME, SOCKET, Values, merged
from tests.stack import eventually

SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
PROBE = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 7}
# As a plain manifest makes it: arguments, a volume claim, something that fetches the model before.
PLAIN: dict[str, Any] = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vllm"},
    "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "vllm"}}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "template": {
            "metadata": {"labels": {"app": "vllm"}},
            "spec": {
                "securityContext": {"runAsNonRoot": True, "runAsUser": 2000, "supplementalGroups": [44]},
                "initContainers": [{"name": "fetch", "image": "fetch:1", "securityContext": SAFE}],
                "containers": [
                    {
                        "name": "vllm", "image": "vllm/vllm-openai:v0.32.0", "args": ["--model", "org/model"], "securityContext": SAFE,
                        "ports": [{"name": "http", "containerPort": 8000}], "env": [{"name": "HF_HOME", "value": "/models"}],
                        "resources": {"limits": {"nvidia.com/gpu": "1"}}, "volumeMounts": [{"name": "models", "mountPath": "/models"}],
                        "readinessProbe": PROBE, "livenessProbe": PROBE, "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
                    },
                    {"name": "exporter", "image": "exporter:1", "securityContext": SAFE},
                ],
                "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
            },
        },
    },
}  # fmt: skip
# As the vLLM production stack makes it: everything stands in the command.
STACK = copy.deepcopy(PLAIN)
STACK["metadata"]["name"] = "llmstack-llama-deployment-vllm"
STACK["spec"]["template"]["spec"]["containers"][0].update(command=["vllm", "serve", "org/model", "--host", "0.0.0.0", "--port", "8000"])
del STACK["spec"]["template"]["spec"]["containers"][0]["args"]
# As llm-d makes it: a router of its own is a native sidecar already.
ROUTED = copy.deepcopy(PLAIN)
ROUTED["metadata"]["name"] = "ms-llama-decode"
ROUTED["spec"]["template"]["spec"]["initContainers"] = [
    {"name": "routing-proxy", "image": "routing:1", "restartPolicy": "Always", "ports": [{"containerPort": 8000}], "securityContext": SAFE}
]

THEIRS = {"plain": PLAIN, "production stack": STACK, "llm-d": ROUTED}
OURS: dict[str, Values] = {
    "port": ATTACH,
    "socket": SOCKET,
    "no copy": merged(ATTACH, {"attach": {"tap": "none"}, "ledger": {"volume": "ephemeral"}}),
}


def attach(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    patch = yaml.safe_load(cluster.get("ConfigMap", f"{NAME}-patch", namespace)["data"]["patch.yaml"])
    return cluster.patch("Deployment", name, namespace, patch)


def named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [each for each in items if each["name"] == name]
    return found


@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("ours", OURS)
def test_the_sidecar_comes_into_their_pods(cluster: Cluster, namespace: str, theirs: str, ours: str) -> None:
    before = cluster.create(THEIRS[theirs], namespace)["spec"]["template"]["spec"]
    name = THEIRS[theirs]["metadata"]["name"]
    kept = "command" in THEIRS[theirs]["spec"]["template"]["spec"]["containers"][0]
    values = merged(OURS[ours], {"attach": {"deployment": name, **({"command": []} if kept else {})}})
    cluster.helm("install", NAME, HOME, "-n", namespace, values=values)
    after = attach(cluster, namespace, name)
    spec = after["spec"]["template"]["spec"]

    was, vllm = named(before["containers"], "vllm"), named(spec["containers"], "vllm")
    for key in ("ports", "resources") if ours == "port" else ("image", "command", "ports", "resources"):
        assert vllm.get(key) == was.get(key), "theirs stays"
    if ours == "port":
        assert vllm["image"].startswith("ghcr.io/barograph/barograph-engine:"), "ours has the wheel"
        assert vllm["command"] == (was["command"] if kept else ["vllm", "serve"])
    assert named(vllm["env"], "HF_HOME")["value"] == "/models"
    assert named(vllm["env"], "BAROGRAPH_CONFIG")["value"] == "/etc/barograph/barograph.yaml"
    assert named(vllm["volumeMounts"], "models") == named(was["volumeMounts"], "models")
    assert {key: vllm["securityContext"][key] for key in SAFE} == SAFE
    assert vllm["lifecycle"]["preStop"]["exec"]["command"][0] == "/bin/sh"
    assert list(vllm["lifecycle"]["preStop"]) == ["exec"], "one handler only"
    assert named(spec["containers"], "exporter") == named(before["containers"], "exporter")
    assert named(spec["initContainers"], before["initContainers"][0]["name"]) == before["initContainers"][0]
    assert named(spec["volumes"], "models") == named(before["volumes"], "models")
    assert spec["securityContext"]["supplementalGroups"] == [44]
    sidecar = named(spec["initContainers"], "barograph")
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["securityContext"]["runAsUser"] == vllm["securityContext"]["runAsUser"], "the sidecar takes taps of its own user only"
    if ours == "socket":
        assert vllm["args"][-2:] == ["--uds", "/run/barograph/engine.sock"]
        assert "exec" in vllm["readinessProbe"]
        assert "httpGet" not in vllm["readinessProbe"]
    else:
        assert vllm.get("args") == was.get("args")
        assert vllm["readinessProbe"] == was["readinessProbe"]
        assert named(vllm["env"], "VLLM_API_KEY")["valueFrom"]["secretKeyRef"]["name"] == "vllm-key"
    assert ("barograph-tap" in [each["name"] for each in spec["initContainers"]]) == (ours == "socket")
    if ours != "no copy":
        assert after["spec"]["strategy"] == {"type": "Recreate"}, "two pods at once would want the same ledger"
        assert after["spec"]["replicas"] == 1
    else:
        assert after["spec"]["replicas"] == 2

    assert attach(cluster, namespace, name)["metadata"]["generation"] == after["metadata"]["generation"], "a second time changes nothing"
    eventually(lambda: pods(cluster, namespace), "a pod with both in it, which Pod Security lets through and the Services find")
    assert trouble(cluster, namespace) == []


def test_a_changed_release_changes_them_when_it_is_put_in_again(cluster: Cluster, namespace: str) -> None:
    cluster.create(PLAIN, namespace)
    cluster.helm("install", NAME, HOME, "-n", namespace, values=ATTACH)
    first = attach(cluster, namespace, "vllm")
    cluster.helm(
        "upgrade", NAME, HOME, "-n", namespace, values=merged(ATTACH, {"image": {"tag": "9"}, "config": {"gateway": {"hold": "off"}}})
    )
    second = attach(cluster, namespace, "vllm")
    assert named(second["spec"]["template"]["spec"]["initContainers"], "barograph")["image"].endswith(":9")
    assert second["metadata"]["generation"] > first["metadata"]["generation"]
