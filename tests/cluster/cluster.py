"""A Kubernetes without machines: etcd, the API server with its admission, and the controllers that make pods of workloads. On loopback."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from tests.cluster.certificates import Authority
from tests.stack import eventually, free_port

ADDRESS = "127.0.0.1"
CONTROLLERS = "deployment-controller,replicaset-controller,statefulset-controller,serviceaccount-controller,namespace-controller,garbage-collector-controller"
GROUPS = {
    "Deployment": "apis/apps/v1", "StatefulSet": "apis/apps/v1", "ReplicaSet": "apis/apps/v1", "NetworkPolicy": "apis/networking.k8s.io/v1",
    "PodDisruptionBudget": "apis/policy/v1", "HorizontalPodAutoscaler": "apis/autoscaling/v2", "ServiceMonitor": "apis/monitoring.coreos.com/v1",
    "PrometheusRule": "apis/monitoring.coreos.com/v1", "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1",
}  # fmt: skip
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}


class Program:
    """One of them. The kernel kills it when the tests die, whatever they die of."""

    def __init__(self, folder: Path, command: Sequence[str | Path], ready: Callable[[], bool]) -> None:
        self._log = folder / f"{Path(command[0]).name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)
        self._ready = ready
        eventually(self._up, f"{Path(command[0]).name} answers", 180)

    def _up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        return self._ready()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Cluster:
    """`kubeconfig` is an administrator's; `client` asks as one."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries, self._folder = binaries, folder
        self._programs: list[Program] = []
        authority = Authority(folder)
        self._authority = authority.file
        self._server, self._etcd = authority.vouch("server"), authority.vouch("etcd")
        self._admin, self._controllers = authority.vouch("admin", "system:masters"), authority.vouch("controllers", "system:masters")
        self.url = f"https://{ADDRESS}:{free_port()}"
        self.kubeconfig = self._kubeconfig("admin", self._admin)
        context = ssl.create_default_context(cafile=str(authority.file))
        context.load_cert_chain(*self._admin)
        self._context = context
        self.client = httpx.Client(base_url=self.url, verify=context, timeout=60)

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.client.close()
        for program in reversed(self._programs):
            program.close()

    def _start(self) -> None:
        etcd, peer = f"https://{ADDRESS}:{free_port()}", f"https://{ADDRESS}:{free_port()}"
        certificate, key = self._etcd
        trusted = [f"--trusted-ca-file={self._authority}", "--client-cert-auth", f"--cert-file={certificate}", f"--key-file={key}"]
        self._run("etcd", lambda: self._get(f"{etcd}/health"), [
            f"--data-dir={self._folder / 'etcd'}", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}", "--unsafe-no-fsync", "--log-level=error", *trusted,
            f"--peer-trusted-ca-file={self._authority}", f"--peer-cert-file={certificate}", f"--peer-key-file={key}",
        ])  # fmt: skip
        self._run("kube-apiserver", lambda: self._get(f"{self.url}/readyz"), [
            f"--etcd-servers={etcd}", f"--etcd-cafile={self._authority}", f"--etcd-certfile={certificate}", f"--etcd-keyfile={key}",
            f"--bind-address={ADDRESS}", f"--secure-port={self.url.rpartition(':')[2]}", f"--cert-dir={self._folder / 'made'}", "--service-cluster-ip-range=10.0.0.0/24",
            f"--tls-cert-file={self._server[0]}", f"--tls-private-key-file={self._server[1]}", f"--client-ca-file={self._authority}",
            f"--service-account-key-file={self._server[0]}", f"--service-account-signing-key-file={self._server[1]}", "--service-account-issuer=https://cluster.test",
            "--authorization-mode=RBAC", "--allow-privileged=false", "--endpoint-reconciler-type=none",
        ])  # fmt: skip
        kubeconfig = self._kubeconfig("controllers", self._controllers)
        ours, theirs = free_port(), self._folder / "made-by-controllers"
        self._run("kube-controller-manager", lambda: self._get(f"https://{ADDRESS}:{ours}/healthz", trusted=False), [
            f"--kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={ADDRESS}", f"--secure-port={ours}", f"--cert-dir={theirs}", "--leader-elect=false", f"--controllers={CONTROLLERS}",
            f"--service-account-private-key-file={self._server[1]}", f"--root-ca-file={self._authority}",
        ])  # fmt: skip
        for file in sorted((self._binaries / "crds").iterdir()):
            self.create(yaml.safe_load(file.read_text()))
        for kind in ("ServiceMonitor", "PrometheusRule"):
            eventually(lambda kind=kind: self._get(f"{self.url}{self._path(kind, 'default')}"), f"{kind} is served")

    def _run(self, name: str, ready: Callable[[], bool], arguments: list[str]) -> None:
        self._programs.append(Program(self._folder, [self._binaries / name, *arguments], ready))

    def _get(self, url: str, trusted: bool = True) -> bool:
        try:
            return httpx.get(url, verify=self._context if trusted else False, timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def _kubeconfig(self, name: str, pair: tuple[Path, Path]) -> Path:
        file = self._folder / f"{name}.kubeconfig"
        file.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self._authority)}}],
            "users": [{"name": "test", "user": {"client-certificate": str(pair[0]), "client-key": str(pair[1])}}],
        }))  # fmt: skip
        return file

    def helm(self, *arguments: str | Path, values: dict[str, Any] | None = None) -> str:
        """What the real helm says. Fails when it does."""
        command = [self._binaries / "helm", *arguments, "--kubeconfig", self.kubeconfig]
        home = self._folder / "helm"
        environment = {
            "HOME": str(home),
            "HELM_CACHE_HOME": str(home),
            "HELM_CONFIG_HOME": str(home),
            "HELM_DATA_HOME": str(home),
            "PATH": "/usr/bin:/bin",
        }
        said = json.dumps(values) if values is not None else None
        command += ["--values", "-"] if said is not None else []
        done = subprocess.run(command, input=said, capture_output=True, text=True, env=environment, timeout=180)
        assert done.returncode == 0, f"helm {' '.join(map(str, arguments))}: {done.stderr}"
        return done.stdout + done.stderr

    def create(self, manifest: dict[str, Any], namespace: str = "default", dry: bool = False) -> dict[str, Any]:
        """Made, or judged only. Raises Refused with the server's own words."""
        return self._ask("POST", self._path(manifest["kind"], namespace) + ("?dryRun=All" if dry else ""), manifest)

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        return self._ask("GET", f"{self._path(kind, namespace)}/{name}")

    def find(self, kind: str, namespace: str, labels: str = "") -> list[dict[str, Any]]:
        return self._ask("GET", self._path(kind, namespace) + (f"?labelSelector={labels}" if labels else ""))["items"]

    def patch(self, kind: str, name: str, namespace: str, patch: dict[str, Any]) -> dict[str, Any]:
        """As `kubectl patch --type strategic` does."""
        return self._ask("PATCH", f"{self._path(kind, namespace)}/{name}", patch, "application/strategic-merge-patch+json")

    def namespace(self, name: str, labels: dict[str, str]) -> str:
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        eventually(
            lambda: any(each["metadata"]["name"] == "default" for each in self.find("ServiceAccount", name)), "its account is made", 60
        )
        return name

    def _path(self, kind: str, namespace: str) -> str:
        plural = kind.lower()[:-1] + "ies" if kind.endswith("y") else kind.lower() + "s"
        space = "" if kind in ("Namespace", "CustomResourceDefinition") else f"/namespaces/{namespace}"
        return f"/{GROUPS.get(kind, 'api/v1')}{space}/{plural}"

    def _ask(self, method: str, path: str, body: Any = None, content: str = "application/json") -> dict[str, Any]:
        # Strict: a field that the server does not know is an error, and no warning.
        if method != "GET":
            path += ("&" if "?" in path else "?") + "fieldValidation=Strict"
        answer = self.client.request(
            method, path, content=json.dumps(body) if body is not None else None, headers={"content-type": content}
        )
        if answer.status_code >= 300:
            raise Refused(f"{method} {path}: {answer.status_code} {answer.text[:2000]}")
        return answer.json()


class Refused(Exception):
    """By the API server, which says why."""
