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

TOKENS_A_BATCH = 1024  # padding included; with four times as many, what lies between the layers no longer fits into a processor's cache
MAX_TOKENS = 512  # a longer text is cut: the probes are fitted on short ones
SKIP = 8  # first tokens of a reply that are left out, or a quarter of a short one: the concept is not there yet
READ_OUT = 3  # how texts become means; another number where that or their order changes, so that kept states of the old way are not taken

Halves = NDArray[np.float16]
Encoded = tuple[Sequence[int], int]  # token ids of a prompt and its reply, and how many of them are the prompt
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
        for batch in batches(encoded, done):
            array[batch] = self._read([encoded[i] for i in batch])
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
    def _read(self, encoded: Sequence[Encoded]) -> Halves:
        """Means [texts, columns, width]."""
        output, shared = self.forward(encoded, output_hidden_states=True)
        share = torch.zeros(len(encoded), 1, output.hidden_states[0].shape[1], device=self.model.device)
        for row, (tokens, prompt) in enumerate(encoded):
            # The state at position p produces token p + 1. What the last one produces is not in the text, and no tap would have scored it.
            first = prompt - 1 + min(SKIP, (len(tokens) - prompt) // 4) - shared
            behind = max(first + 1, len(tokens) - 1 - shared)
            share[row, 0, first:behind] = 1 / (behind - first)
        # hidden_states[0] is the embedding, [layer + 1] what a decoder layer returns.
        means = torch.cat([share @ states.float() for states in output.hidden_states[: self.columns]], dim=1)
        found: Halves = means.to(torch.float16).cpu().numpy()
        return found

    @torch.no_grad()
    def forward(self, encoded: Sequence[Encoded], **more: Any) -> tuple[Any, int]:
        """What the model makes of a batch, from the position on that is given too: what all of the prompts begin with is read once, and its states are not returned."""
        shared = _shared(encoded)
        length = max(len(ids) for ids, _ in encoded)
        pad, where = self.tokenizer.pad_token_id, self.model.device
        # Padding on the right: causal attention keeps it away from the tokens that are read.
        ids = torch.tensor([[*ids[shared:], *[pad] * (length - len(ids))] for ids, _ in encoded], device=where)
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in encoded], device=where)
        if shared:
            cache = self.model(
                input_ids=torch.tensor([encoded[0][0][:shared]], device=where), use_cache=True, logits_to_keep=1
            ).past_key_values
            cache.reorder_cache(torch.zeros(len(encoded), dtype=torch.long, device=where))  # the same for each row
            more["past_key_values"] = cache
        return self.model(input_ids=ids, attention_mask=mask, use_cache=bool(shared), logits_to_keep=1, **more), shared


def batches(encoded: Sequence[Encoded], done: int = 0) -> Iterator[list[int]]:
    """Numbers of texts that are read together, from the one after the first `done` on: like lengths, so that little is padded, and alike with a prompt or without."""

    def prompted(i: int) -> bool:
        return encoded[i][1] > 1

    order = sorted(range(len(encoded)), key=lambda i: (prompted(i), len(encoded[i][0]), i))
    while done < len(order):
        batch: list[int] = []
        for i in order[done:]:
            if batch and (prompted(i) != prompted(batch[0]) or len(encoded[i][0]) * (len(batch) + 1) > TOKENS_A_BATCH):
                break
            batch.append(i)
        yield batch
        done += len(batch)


def _shared(encoded: Sequence[Encoded]) -> int:
    """How many tokens all begin with, the last of a prompt not among them: its state produces a token that is read. Nothing where the rows are too few for it to pay."""
    if len(encoded) < 2:
        return 0
    alone = [list(ids) for ids, _ in encoded]
    first, last = min(alone), max(alone)  # what these two begin with, all between them in order begin with
    alike = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))
    return min(alike, *(prompt - 1 for _, prompt in encoded))
