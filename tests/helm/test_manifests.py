"""What the chart makes, for many values: the golden files, Kubernetes' own schemas, and what no pod may do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from deploy import chart as generator
from monitor.audit import keys
from monitor.audit.manifest import Manifest, TrustError
from monitor.config import Config
from monitor.pipeline import rulefiles
from tests.helm import chart
from tests.helm.chart import FULL, GOLDEN, HOME, MODES, Rendered, Values, merged, nested, render
from tests.helm.test_values import CASES, look

VERSIONS = ("1.29.0", "1.33.0", "1.37.0")  # the oldest that the chart takes, one between, the newest
IMAGE_VOLUMES = "1.31.0"
# Kinds of Prometheus' operator, whose schemas are no part of Kubernetes: `make test-cluster` has their definitions.
FOREIGN = {"ServiceMonitor": {"jobLabel", "selector", "endpoints"}, "PrometheusRule": {"groups"}}
# What the level "restricted" of Pod Security lets a pod mount.
VOLUMES = {"configMap", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "secret"}

# Every mode, each of them with everything that can stand beside it, and each case of a value.
TOGETHER = {key: FULL[key] for key in ("rules", "secrets", "networkPolicy", "monitoring", "config")}
WAYS: dict[str, Values] = (
    {mode: MODES[mode] for mode in MODES}
    | {f"{mode} and more": merged(TOGETHER, MODES[mode]) for mode in ("attach", "attach-socket", "wrapper")}
    | {f"{mode}, ledger {volume}": merged(MODES[mode], {"ledger": {"volume": volume}}) for mode, volume in itertools.product(MODES, ("ephemeral", "emptyDir"))}
    | {f"{mode}, TLS": merged(MODES[mode], {"tls": {"gateway": {"secret": "gw"}, "admin": {"secret": "admin"}}}) for mode in MODES}
    | {path: merged(case.beside, nested(path, case.value)) for path, case in CASES.items()}
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, Rendered]:
    """Whatever can be rendered: some cases are a value that another one needs."""
    return {way: render(values) for way, values in WAYS.items()}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_what_its_golden_file_says(mode: str) -> None:
    assert chart.golden(mode) == (GOLDEN / f"{mode}.yaml").read_text("utf-8"), "look at the difference, then: python -m tests.helm.chart"


@pytest.mark.parametrize("mode", MODES)
def test_helm_lint_finds_nothing(mode: str) -> None:
    messages = helm_python.lint(HOME, MODES[mode], strict=True)["messages"]
    assert [each for each in messages if "icon is recommended" not in each["error"]] == []


def test_the_copies_in_the_chart_are_current() -> None:
    assert {path.name: path.read_text("utf-8") for path in generator.FOLDER.iterdir()} == generator.files(), "python -m deploy.chart"


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest(made: dict[str, Rendered], version: str) -> None:
    seen = set()
    for way, rendered in made.items():
        for each in rendered.manifests:
            text = json.dumps(each, sort_keys=True)
            if each["kind"] in FOREIGN or text in seen or (way.startswith("bank.image") and version < IMAGE_VOLUMES):
                continue
            seen.add(text)
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise AssertionError(f"{way}: {each['kind']} {each['metadata']['name']}: {error.message} at {list(error.path)}") from None
    assert len(seen) > 100


def test_a_wrong_manifest_is_not_taken() -> None:
    wrong = render({}).get("Deployment")
    wrong["spec"]["template"]["spec"]["initContainers"][0]["restartPolicies"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_kinds_of_prometheus_have_what_they_need(made: dict[str, Rendered]) -> None:
    found = [each for rendered in made.values() for each in rendered.manifests if each["kind"] in FOREIGN]
    assert {each["kind"] for each in found} == set(FOREIGN)
    for each in found:
        assert each["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(each["spec"]) == FOREIGN[each["kind"]]


def test_alerts_are_those_of_the_repository(made: dict[str, Rendered]) -> None:
    assert made["full"].get("PrometheusRule")["spec"] == yaml.safe_load(generator.RULES.read_text())


def containers(name: str, pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Ours: of the container that mode attach changes, only the change is known."""
    yield from pod.get("initContainers", [])
    yield from pod["containers"] if name != "patch" else ()


def test_no_pod_may_do_more_than_it_needs(made: dict[str, Rendered]) -> None:
    looked = 0
    for way, rendered in made.items():
        for name, pod in rendered.pods():
            where = f"{way}, {name}"
            assert pod["automountServiceAccountToken"] is False, where
            assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), where
            if name != "patch":
                assert pod["securityContext"]["runAsNonRoot"], where
                assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
            for volume in pod["volumes"]:
                (kind,) = set(volume) - {"name"}
                assert kind in VOLUMES, where
                assert kind != "emptyDir" or volume["emptyDir"]["sizeLimit"], f"{where}: {volume['name']} has no bound"
            for each in containers(name, pod):
                looked += 1
                safe = each["securityContext"]
                assert safe["runAsNonRoot"], where
                assert safe["runAsUser"] > 0, where
                assert safe["readOnlyRootFilesystem"], where
                assert safe["allowPrivilegeEscalation"] is False, where
                assert safe["capabilities"] == {"drop": ["ALL"]}, where
                assert safe["seccompProfile"] == {"type": "RuntimeDefault"}, where
                assert "privileged" not in safe, where
                for bound in ("requests", "limits"):
                    assert {"cpu", "memory"} <= set(each["resources"][bound]), where
            assert len({each["securityContext"]["runAsUser"] for each in containers(name, pod)}) == 1, (
                f"{where}: the sidecar takes taps of its own user only"
            )
    assert looked > 300


def test_what_is_mounted_is_there_and_has_another_name_than_what_is_not_ours(made: dict[str, Rendered]) -> None:
    for way, rendered in made.items():
        claims = {
            each["metadata"]["name"] for manifest in rendered.manifests for each in manifest.get("spec", {}).get("volumeClaimTemplates", [])
        }
        for name, pod in rendered.pods():
            volumes = [each["name"] for each in pod["volumes"]]
            assert len(set(volumes)) == len(volumes), way
            mounted = {mount["name"] for each in [*pod.get("initContainers", []), *pod["containers"]] for mount in each["volumeMounts"]}
            assert mounted == set(volumes) | (claims if name == "StatefulSet" else set()), f"{way}, {name}"
            if name == "patch":  # lists are merged by name: what is called otherwise would change theirs
                assert all(each.startswith("barograph-") for each in volumes), way
                assert all(each["name"].startswith("barograph") for each in pod["initContainers"]), way


def test_no_secret_is_written_down() -> None:
    """Names of Secrets are in the values, and they stand in references only. A Secret of our own is never made."""
    for mode in ("engine", "attach", "wrapper"):
        rendered = render(merged(TOGETHER, MODES[mode]))
        assert not [each for each in rendered.manifests if each["kind"] == "Secret"]
        referred = list(strings(rendered.manifests, ("secretKeyRef", "secret", "authorization")))
        patched = list(strings([rendered.patch], ("secretKeyRef", "secret"))) if mode == "attach" else []
        assert len({each for each in referred + patched if each.startswith("secret-of-")}) >= 12
        for manifest in rendered.manifests:
            if manifest["kind"] == "ConfigMap" and not manifest["metadata"]["name"].endswith("-patch"):
                assert "secret-of-" not in json.dumps(manifest)
        for _, pod in rendered.pods():
            for each in [*pod.get("initContainers", []), *pod["containers"]]:
                assert "secret-of-" not in json.dumps([each.get("args"), each.get("command")])
                for variable in each.get("env", []):
                    secret = any(word in variable["name"] for word in ("TOKEN", "KEY", "PASSWORD", "HEADERS"))
                    assert ("value" in variable) != secret, variable


def strings(found: Any, under: tuple[str, ...], inside: bool = False) -> Iterator[str]:
    if isinstance(found, dict):
        for key, value in found.items():
            yield from strings(value, under, inside or key in under)
    elif isinstance(found, list):
        for value in found:
            yield from strings(value, under, inside)
    elif inside and isinstance(found, str):
        yield found


def test_nobody_is_let_to_the_port_of_the_engine(made: dict[str, Rendered]) -> None:
    for way, rendered in made.items():
        policies = [each for each in rendered.manifests if each["kind"] == "NetworkPolicy"]
        assert len(policies) == (way != "networkPolicy.enabled"), way
        for policy in policies:
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            listens = {int(rendered.config[room][key].rpartition(":")[2]) for room, key in (("gateway", "listen"), ("sidecar", "admin"))}
            for rule in policy["spec"]["ingress"]:
                assert rule["from"], f"{way}: a rule without peers lets everybody in"
                assert {port["port"] for port in rule["ports"]} <= listens, way
            for rule in policy["spec"]["egress"]:
                assert rule["to"], f"{way}: a rule without peers lets out to everywhere"


def test_an_empty_list_of_peers_is_nobody() -> None:
    rules = render({"networkPolicy": {"gateway": [], "admin": []}}).at("NetworkPolicy spec/ingress")
    assert [each["from"] for each in rules] == [[{"podSelector": {"matchLabels": {"barograph-test": "barograph"}}}]]


def test_services_and_policies_find_the_pods(made: dict[str, Rendered]) -> None:
    for way, rendered in made.items():
        label = {"barograph-release": "meter" if way == "fullnameOverride" else "barograph"}
        for each in rendered.manifests:
            spec = each.get("spec", {})
            if each["kind"] == "Service":
                assert spec["selector"] == label, way
            elif each["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
                assert spec["podSelector" if each["kind"] == "NetworkPolicy" else "selector"]["matchLabels"] == label, way
            elif "template" in spec:
                assert spec["selector"]["matchLabels"] == label, way
                assert label.items() <= spec["template"]["metadata"]["labels"].items(), way
            elif each["metadata"]["name"].endswith("-patch"):
                assert label.items() <= rendered.patch["spec"]["template"]["metadata"]["labels"].items(), way


def test_the_sidecar_starts_first_and_ends_last(made: dict[str, Rendered]) -> None:
    for way, rendered in made.items():
        for name, pod in rendered.pods():
            if name.startswith("Pod"):
                continue
            (sidecar,) = [each for each in pod["initContainers"] if each["name"] == "barograph"]
            assert sidecar["restartPolicy"] == "Always", f"{way}: without it, it is no sidecar, and the engine waits for its end"
            assert sidecar["startupProbe"]["httpGet"]["path"] == "/live", (
                f"{way}: /health is good only when the engine serves, and that waits for this"
            )
            config = rendered.config
            grace = config["gateway"].get("grace_s", 20)
            wait = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2]
            assert f"--seconds {grace}" in wait, way
            assert pod["terminationGracePeriodSeconds"] >= 2 * grace + 5 + 25 + 15, (
                f"{way}: settle, replies, the engine's end, the drain, the seal"
            )


def test_a_changed_configuration_makes_new_pods_and_changed_rules_do_not() -> None:
    def checksum(values: Values) -> Any:
        return look(values, "Deployment spec/template")

    files = {"rules": {"files": {"site.yaml": "include: [default]\n"}}}
    assert checksum({"config": {"gateway": {"hold": "off"}}}) != checksum({})
    assert checksum(files) == checksum({"rules": {"files": {"site.yaml": "include: [strict]\n"}}}), "they are read anew as they are"


def test_a_version_of_the_chart_alone_makes_no_new_pods() -> None:
    assert not [
        label for label in look({}, "Deployment spec/template/metadata/labels") if label.startswith("helm.sh") or label.endswith("/version")
    ]


def test_the_engine_sees_the_certificate_of_the_admin_address_and_not_its_key(made: dict[str, Rendered]) -> None:
    """`barograph idle` in its hook trusts the address by that certificate, at the place that the configuration names."""
    for way in ("engine, TLS", "attach, TLS"):
        pod = dict(made[way].pods())["patch" if way.startswith("attach") else "Deployment"]
        (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if "tls" in each["name"]]
        (volume,) = [each for each in pod["volumes"] if each["name"] == mount["name"]]
        assert f"{mount['mountPath']}/tls.crt" == made[way].config["sidecar"]["tls"]["cert_file"]
        assert volume["secret"]["items"] == [{"key": "tls.crt", "path": "tls.crt"}]
        assert "--admin https://127.0.0.1:8401" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2]


def test_what_dies_with_the_pod_is_said(made: dict[str, Rendered]) -> None:
    assert "the ledger goes with the pod" in made["engine, ledger emptyDir"].notes
    assert "the ledger goes with the pod" not in made["engine"].notes
    assert "Nobody can read metrics" in made["engine"].notes
    assert "Nobody can read metrics" not in made["full"].notes


def test_the_sidecar_reads_every_configuration(made: dict[str, Rendered], tmp_path: Path) -> None:
    read = 0
    for way, rendered in made.items():
        config = load(rendered, tmp_path)
        read += 1
        assert config.gateway.wrap == (config.gateway.upstream.startswith("https://")), way
        assert str(config.socket) == "/run/barograph/tap.sock", way
        assert "-admin.models.svc" in " ".join(config.sidecar.admin_hosts), way
        assert (
            config.gateway.upstream in (f"unix:{config.engine.listen}", "http://127.0.0.1:8000", "http://127.0.0.1:8200")
            or config.gateway.wrap
        ), way
    assert read > 100


def load(rendered: Rendered, folder: Path) -> Config:
    file = folder / "barograph.yaml"
    file.write_text(rendered.file("-config", "barograph.yaml"))
    return Config.load(file)


def test_values_go_before_what_the_chart_says(tmp_path: Path) -> None:
    config = load(render(FULL), tmp_path)
    assert config.gateway.grace_s == 40
    assert config.sidecar.admin_hosts[-1] == "barograph.example.com"
    assert config.sidecar.kafka is not None
    assert config.sidecar.kafka.username == "barograph"


def laid_down(rendered: Rendered, folder: Path) -> Path:
    """The main rule file, as the kubelet lays a ConfigMap down: files are links to a folder that is exchanged as a whole."""
    place = folder / "..2026_11_26"
    place.mkdir()
    for name, text in rendered.get("ConfigMap", "barograph-rules")["data"].items():
        (place / name).write_text(text)
        (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data").symlink_to(place.name)
    return folder / Path(rendered.config["rules"]).name


INCLUDING = {"site.yaml": "include: [default, more.yaml]\nrules: []\n", "more.yaml": "include: [support]\n"}


def test_rules_are_read_as_the_kubelet_lays_them_down(tmp_path: Path) -> None:
    main = laid_down(render({"rules": {"files": INCLUDING}}), tmp_path)
    assert len(rulefiles.load(main).rules) > len(rulefiles.load(Path("default")).rules)


def test_signed_rules_keep_their_signature(tmp_path: Path) -> None:
    """The texts come through the chart to the byte, and their signature beside them, under the keys that config.trust names."""
    signer = keys.new(tmp_path / "key", "example.com/rules")
    note = Manifest.of({name: text.encode() for name, text in INCLUDING.items()}).sign(signer).decode()
    values = {
        "rules": {"files": {**INCLUDING, "site.yaml.note": note}},
        "config": {"trust": {"keys": [signer.key.vkey], "require_signed": True}},
    }
    rendered = render(values)
    trust = load(rendered, tmp_path).trust.plain
    (tmp_path / "rules").mkdir()
    main = laid_down(rendered, tmp_path / "rules")
    reading = rulefiles.Reading(main, trust)
    reading.ruleset()
    assert reading.signer == "example.com/rules"

    (main.parent / "..data" / "more.yaml").write_text("rules: []\n")
    with pytest.raises(TrustError, match=r"more\.yaml"):
        rulefiles.Reading(main, trust).ruleset()
