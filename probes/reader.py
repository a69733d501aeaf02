"""Reads what a model's layers hold for texts, as the tap would: the states whose logits produce the reply's tokens.

Every text becomes one mean a layer, written at once to an array on disk. So memory stays bounded whatever the corpus,
and a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from probes import processor
from probes.corpus import Text
from probes.nn import TransformersModel
from probes.passport import fingerprint

TOKENS_A_BATCH = 4096
MAX_TOKENS = 512  # a longer text is cut: the probes are fitted on short ones
SKIP = 8  # first tokens of a reply that are left out, or a quarter of a short one: the concept is not there yet
READ_OUT = 2  # how texts become means; another number where that changes, so that kept states of the old way are not taken

Halves = NDArray[np.float16]
Say = Callable[[str], None]


class ReadError(Exception):
    """A model cannot be loaded or read."""


class Reader:
    """A causal language model and its tokenizer.

    A state array has one column for the embedding (0) and one for each decoder layer but the last (1 + layer): what the
    last layer returns has gone through the final norm and is no residual stream.
    """

    def __init__(self, source: str, name: str, device: str = "auto", dtype: str = "auto", fast: bool = False) -> None:
        """`fast`: where the dtype is left open, take float32 on a processor that is slow in the checkpoint's: reading is all prompts."""
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if fast and dtype == "auto" and where == "cpu" and not processor.bfloat16():
            dtype = "float32"
        transformers.utils.logging.disable_progress_bar()
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source)
            self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(where).eval()
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ReadError(f"cannot load model '{source}' ({reason}); expected a causal language model") from None
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.nn = TransformersModel(self.model, tokenizer=self.tokenizer)
        self.source, self.name = source, name
        self.config: Any = self.model.config.get_text_config()
        self.layers: int = self.config.num_hidden_layers
        self.width: int = self.config.hidden_size
        self.dtype = str(self.model.dtype).removeprefix("torch.")

    def quantise(self) -> None:
        """Weights of the linear layers to int8, activations on the fly (CPU): a serving configuration to compare with."""
        quantise: Any = torch.ao.quantization.quantize_dynamic
        self.model = quantise(self.model.float(), {torch.nn.Linear}, dtype=torch.qint8)
        self.nn = TransformersModel(self.model, tokenizer=self.tokenizer)
        self.dtype = "int8"

    @property
    def columns(self) -> int:
        return self.layers

    def encode(self, text: Text, limit: int = MAX_TOKENS) -> tuple[list[int], int]:
        """Token ids of prompt and reply, and how many of them are the prompt. A text without a prompt stands alone."""
        prompt = self.prompt(text.prompt) if text.prompt else self._start()
        reply = list(self.tokenizer(text.reply, add_special_tokens=False)["input_ids"])
        return prompt + reply[:limit], len(prompt)

    def prompt(self, user: str | Sequence[str]) -> list[int]:
        """A user's message, or a chat's turns from the user's first to the user's last, up to where the reply begins."""
        said = [user] if isinstance(user, str) else list(user)
        if self.tokenizer.chat_template:
            turns = [{"role": "assistant" if number % 2 else "user", "content": each} for number, each in enumerate(said)]
            return list(self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))
        return list(self.tokenizer("".join(each + "\n\n" for each in said))["input_ids"])

    def _start(self) -> list[int]:
        first = self.tokenizer.bos_token_id
        return [first if first is not None else self.tokenizer.eos_token_id]

    def means(self, texts: Sequence[Text], work: Path, say: Say = lambda _: None) -> Halves:
        """Mean states [texts, columns, width] of the texts' replies, read or taken from `work`."""
        work.mkdir(parents=True, exist_ok=True)
        stem = work / self._key(texts)
        shape = (len(texts), self.columns, self.width)
        done_path = stem.with_suffix(".done")
        done = int(done_path.read_text()) if done_path.is_file() else 0
        array: Halves = np.lib.format.open_memmap(
            stem.with_suffix(".npy"), mode="r+" if done else "w+", dtype=np.float16, shape=None if done else shape
        )  # type: ignore[no-untyped-call]
        encoded = [self.encode(text) for text in texts]
        order = np.argsort([len(ids) for ids, _ in encoded], kind="stable")  # like lengths together: little padding
        while done < len(order):
            batch = fitting(order[done:], encoded)
            for index, mean in zip(batch, self._read([encoded[i] for i in batch]), strict=True):
                array[index] = mean
            done += len(batch)
            array.flush()  # type: ignore[attr-defined]
            done_path.write_text(str(done))
            say(f"read {done} of {len(texts)} texts")
        return array

    def _key(self, texts: Sequence[Text]) -> str:
        """The same for the same model and texts, so that a work folder may serve several runs."""
        digest = hashlib.sha256(json.dumps([self.source, self.dtype, SKIP, MAX_TOKENS, READ_OUT, fingerprint(self.model)]).encode())
        for text in texts:
            digest.update(f"{text.prompt}\0{text.reply}\0".encode())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _read(self, encoded: Sequence[tuple[list[int], int]]) -> Iterator[Halves]:
        # Padding on the right: causal attention keeps it away from the tokens that are read.
        length = max(len(ids) for ids, _ in encoded)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in encoded], device=self.model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in encoded], device=self.model.device)
        hidden = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states
        # hidden_states[0] is the embedding, [layer + 1] what a decoder layer returns.
        rows = torch.stack(hidden[: self.columns], dim=2)
        for row, (tokens, prompt) in enumerate(encoded):
            # The state at position p produces token p + 1. What the last one produces is not in the text, and no tap would have scored it.
            first = prompt - 1 + min(SKIP, (len(tokens) - prompt) // 4)
            mean: Halves = rows[row, first : len(tokens) - 1].float().mean(dim=0).to(torch.float16).cpu().numpy()
            yield mean


def fitting(order: NDArray[np.intp], encoded: Sequence[tuple[Sequence[int], int]]) -> list[int]:
    """As many of the next texts as fit into a batch when all are padded to the longest, which is the last."""
    picked: list[int] = []
    for index in order:
        if picked and len(encoded[index][0]) * (len(picked) + 1) > TOKENS_A_BATCH:
            break
        picked.append(int(index))
    return picked
