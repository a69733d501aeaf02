"""The chart's life on a real API server: installed, changed, taken back, removed, and its pods judged by Pod Security's level restricted."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster, Refused
from tests.helm.chart import FULL, HOME, MODES, NAME, Values, merged, render
from tests.stack import eventually

SELECTOR = f"barograph-release={NAME}"
CHANGE: Values = {"config": {"gateway": {"hold": {"lag": 4}}}}
IMAGE_BANK: Values = {"bank": {"source": "image", "image": {"reference": "registry.example/bank:1"}}}
EPHEMERAL: Values = {"ledger": {"volume": "ephemeral"}}
WAYS: dict[str, Values] = MODES | {"image bank": IMAGE_BANK, "ephemeral": EPHEMERAL}
WORKLOADS = ("Deployment", "StatefulSet")


def config(cluster: Cluster, namespace: str) -> dict[str, Any]:
    return yaml.safe_load(cluster.get("ConfigMap", f"{NAME}-config", namespace)["data"]["barograph.yaml"])


def pods(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    return [each for each in cluster.find("Pod", namespace, SELECTOR) if "deletionTimestamp" not in each["metadata"]]


def trouble(cluster: Cluster, namespace: str) -> list[str]:
    """What controllers say that they could not make, as when Pod Security refuses a pod. No machine is here, so none is scheduled or stopped."""
    return [
        each["message"] for each in cluster.find("Event", namespace) if each["type"] == "Warning" and each["reason"].startswith("Failed")
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_release_is_installed_changed_taken_back_and_removed(cluster: Cluster, namespace: str, way: str) -> None:
    values = WAYS[way]
    rendered = render(values)
    kinds = {each["kind"] for each in rendered.manifests}
    cluster.helm("install", NAME, HOME, "-n", namespace, values=values)
    first = config(cluster, namespace)
    for manifest in rendered.manifests:
        if manifest["kind"] != "Pod":
            cluster.get(manifest["kind"], manifest["metadata"]["name"], namespace)
    if kinds & set(WORKLOADS):
        eventually(lambda: pods(cluster, namespace), "the controllers make a pod, which Pod Security lets through")
        spec = pods(cluster, namespace)[0]["spec"]
        assert spec["initContainers"][0]["restartPolicy"] == "Always"
        assert not [each for each in spec["volumes"] if "projected" in each], "no token is mounted"
    assert trouble(cluster, namespace) == []

    cluster.helm("upgrade", NAME, HOME, "-n", namespace, values=merged(values, CHANGE))
    assert config(cluster, namespace)["gateway"]["hold"] == {"lag": 4}
    for kind in kinds & set(WORKLOADS):
        changed = cluster.get(kind, NAME, namespace)
        assert changed["metadata"]["generation"] == 2, "a changed configuration makes new pods"

    cluster.helm("rollback", NAME, "1", "-n", namespace)
    assert config(cluster, namespace) == first
    assert trouble(cluster, namespace) == []

    cluster.helm("uninstall", NAME, "-n", namespace)
    left = {kind for kind in kinds - {"PersistentVolumeClaim", "Pod"} if [each for each in cluster.find(kind, namespace) if mine(each)]}
    assert left == set()
    eventually(lambda: not pods(cluster, namespace), "the pods go with what made them")
    if "PersistentVolumeClaim" in kinds:
        assert cluster.get("PersistentVolumeClaim", f"{NAME}-ledger", namespace), "a ledger is evidence"
        cluster.helm("install", NAME, HOME, "-n", namespace, values=values)


def mine(manifest: dict[str, Any]) -> bool:
    return (
        "deletionTimestamp" not in manifest["metadata"] and manifest["metadata"].get("labels", {}).get("app.kubernetes.io/instance") == NAME
    )


def test_each_pod_of_many_has_a_ledger_of_its_own(cluster: Cluster, namespace: str) -> None:
    cluster.helm("install", NAME, HOME, "-n", namespace, values=merged(FULL, {"autoscaling": {"enabled": False}}))
    eventually(lambda: len(pods(cluster, namespace)) == 3, "three pods at once")
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pods(cluster, namespace)
        for volume in pod["spec"]["volumes"]
        if volume["name"] == "barograph-ledger"
    }
    assert claims == {f"barograph-ledger-{NAME}-{number}" for number in range(3)}
    assert trouble(cluster, namespace) == []


@pytest.mark.parametrize("way", WAYS)
def test_the_pod_of_helm_test_is_let_through(cluster: Cluster, namespace: str, way: str) -> None:
    """No machine would run it here, so the server only judges it."""
    (pod,) = [each for each in render(WAYS[way]).manifests if each["kind"] == "Pod"]
    del pod["metadata"]["namespace"]
    cluster.create(pod, namespace, dry=True)


def pod(name: str) -> dict[str, Any]:
    """The pod that the chart's Deployment would have, by itself."""
    spec = render({}).at("Deployment spec/template")["spec"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": merged(spec, {"serviceAccountName": "default"})}


def test_pod_security_does_judge_here(cluster: Cluster, namespace: str) -> None:
    manifest = pod("loose")
    cluster.create(manifest, namespace, dry=True)
    manifest["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(Refused, match="violates PodSecurity"):
        cluster.create(manifest, namespace, dry=True)


def test_a_native_sidecar_is_what_the_server_takes_it_for(cluster: Cluster, namespace: str) -> None:
    """Probes are for containers that stay: an ordinary init container with one is refused, so this shows that ours is none."""
    manifest = pod("ordinary")
    del manifest["spec"]["initContainers"][0]["restartPolicy"]
    with pytest.raises(Refused, match="initContainers"):
        cluster.create(manifest, namespace, dry=True)
