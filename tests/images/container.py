"""A container of an image, run by runc as an orchestrator would: read-only root, no capabilities, no new privileges. Only the network is the machine's."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from deploy.images.archive import Archive

UID = 65532


class Container:
    """`mounts`: what is mounted where, and how. `command` goes behind the image's entrypoint, or in its place with `entrypoint`."""

    def __init__(
        self, archive: Archive, root: Path, folder: Path, command: list[str], mounts: list[tuple[Path, str, str]],
        environment: dict[str, str] | None = None, entrypoint: list[str] | None = None,
    ) -> None:  # fmt: skip
        about = archive.config["config"]
        user, group = about["User"].split(":")
        env = dict(each.split("=", 1) for each in about["Env"]) | (environment or {})
        self.name = f"barograph-{folder.name}-{time.monotonic_ns()}"
        self._bundle = folder
        self.log = folder / "log"
        spec: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": int(user), "gid": int(group)}, "cwd": about["WorkingDir"], "noNewPrivileges": True,
                "args": [*(about["Entrypoint"] if entrypoint is None else entrypoint), *command],
                "env": [f"{name}={value}" for name, value in env.items()],
                "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            },
            "root": {"path": str(root), "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev", "subset=pid"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755", "size=64k"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec", "mode=1777"]},
                *(
                    {"destination": where, "type": "bind", "source": str(what), "options": ["bind", "nosuid", "nodev", "noexec", how]}
                    for what, where, how in mounts
                ),
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
            },
        }  # fmt: skip
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(spec))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Container:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "runc", "run", "--bundle", self._bundle, self.name], stdout=log, stderr=log
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            subprocess.run(["runc", "kill", self.name, "KILL"], check=False, capture_output=True)
            self._process.wait(30)
        subprocess.run(["runc", "delete", "--force", self.name], check=False, capture_output=True)

    def alive(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said()
        return True

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def pid(self) -> int:
        """Of its first process, as the machine counts them."""
        state = subprocess.run(["runc", "state", self.name], check=True, capture_output=True)
        found: int = json.loads(state.stdout)["pid"]
        return found

    def stop(self) -> int:
        """As an orchestrator stops it; the exit code."""
        assert self._process is not None
        subprocess.run(["runc", "kill", self.name, "TERM"], check=True)
        return self._process.wait(40)

    def finish(self, seconds: float = 60) -> tuple[int, str]:
        """Wait for a command that ends by itself: its exit code and what it said."""
        assert self._process is not None
        code = self._process.wait(seconds)
        return code, self.said()


def owned(folder: Path, mode: int = 0o700) -> Path:
    """A folder that belongs to the image's user."""
    folder.mkdir()
    folder.chmod(mode)
    shutil.chown(folder, UID, UID)
    return folder
