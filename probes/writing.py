"""A corpus written by a model itself, in the form that `probes fit --corpus` reads. Resumable: a text that is there is not written again.

The way of arXiv 2604.07729: stories on shared topics in which a character feels an emotion that is never named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from probes.corpus import BENIGN, BROAD_TOPICS, DEEP, FOLDER, NEUTRAL, PAIR, VOICES, Corpus
from probes.reader import Reader, Say

TOKENS = 180
TRIES = 4
ASK = (
    "Write one short paragraph of a story about this topic: {topic}. Its main character feels {word}, very strongly. "
    "Show it only by what the character does, says and thinks. Never use the word '{word}' or a word derived from it."
)
ASK_NEUTRAL = "{prompt}"
JOURNAL = "written.jsonl"


def write(reader: Reader, out: Path, seed: int, say: Say) -> Corpus:
    """Write the corpus to `out` with topics and neutral prompts of the shipped one. Returns it."""
    out.mkdir(parents=True, exist_ok=True)
    shipped = Corpus.read()
    journal = out / JOURNAL
    done: dict[str, str] = {}
    if journal.is_file():
        for line in journal.read_text("utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
            done[record["key"]] = record["text"]
    wanted = list(_wanted(shipped))
    with journal.open("a", encoding="utf-8") as log:
        for number, (key, ask, word) in enumerate(wanted):
            if key not in done:
                done[key] = _one(reader, ask, word, seed + number)
                log.write(json.dumps({"key": key, "text": done[key]}) + "\n")
                log.flush()
            say(f"wrote {number + 1} of {len(wanted)} texts")
    _save(out, shipped, done)
    return Corpus.read(out)


def _wanted(shipped: Corpus) -> Iterator[tuple[str, str, str]]:
    for number, text in enumerate(shipped.texts):
        if text.form in (BENIGN, PAIR, *VOICES):
            continue  # other hands' ways of writing, which a model would not have of itself
        if text.form == NEUTRAL:
            yield f"neutral:{number}", ASK_NEUTRAL.format(prompt=text.prompt), ""
        else:
            word = DEEP.get(text.concept, text.concept)
            yield f"{text.concept}:{number}", ASK.format(topic=text.topic, word=word), word


@torch.no_grad()
def _one(reader: Reader, ask: str, word: str, seed: int) -> str:
    """A reply without the word; after some tries, with the sentences that have it taken out."""
    model, tokenizer = reader.model, reader.tokenizer
    ids = torch.tensor([reader.prompt(ask)], device=model.device)
    text = ""
    for attempt in range(TRIES):
        torch.manual_seed(seed * TRIES + attempt)
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TOKENS,
            do_sample=True,
            temperature=0.9,
            pad_token_id=tokenizer.pad_token_id,
        )
        text = " ".join(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).split())
        if text and not (word and uses_word(word, text)):
            return text
    kept = [sentence for sentence in re.split(r"(?<=[.!?]) ", text) if not (word and uses_word(word, sentence))]
    return " ".join(kept) or "He said nothing and went on."


def uses_word(word: str, text: str) -> bool:
    """Whether a text uses an emotion's word or one derived from it."""
    stem = word.replace("-stricken", "")
    if len(stem) > 6 and " " not in stem:
        stem = stem[: max(5, len(stem) - 3)]
    return re.search(rf"\b{re.escape(stem)}" + (r"\b" if len(stem) < 5 else ""), text, re.IGNORECASE) is not None


def _save(out: Path, shipped: Corpus, done: dict[str, str]) -> None:
    """The three kinds of file that `Corpus.read` takes, with the shipped headers."""
    headers = {name: re.findall(r"(?:^|\n\n)([^\n]+ \| [^\n]+)\n", (FOLDER / f"{name}.txt").read_text("utf-8")) for name in DEEP}
    numbered = {key.split(":")[0]: [] for key in done}  # type: dict[str, list[str]]
    for key, text in sorted(done.items(), key=lambda item: int(item[0].split(":")[1])):
        numbered[key.split(":")[0]].append(text)
    for name in DEEP:
        records = [f"{header}\n{text}" for header, text in zip(headers[name], numbered[name], strict=True)]
        (out / f"{name}.txt").write_text("\n\n".join(records) + "\n", "utf-8")
    broad = [name for name in shipped.concepts if name not in DEEP]
    assert all(len(numbered[name]) == len(BROAD_TOPICS) for name in broad)
    (out / "emotions.txt").write_text("\n\n".join("\n".join([f"# {name}", *numbered[name]]) for name in broad) + "\n", "utf-8")
    prompts = [text.prompt for text in shipped.neutral]
    (out / "neutral.txt").write_text("\n\n".join(f"> {p}\n{t}" for p, t in zip(prompts, numbered["neutral"], strict=True)) + "\n", "utf-8")
