"""In time, or ahead of the text? Three figures for a probe that is read while a reply is written.

How well its first tokens alone tell held-out texts apart, beside a probe on the embeddings of the same tokens, which knows only the words so far.
How many tokens it alarms before that embedding probe, both where one harmless reply of a hundred alarms. And whether the very first score foretells the
tone of the reply, which a text classifier judges from the finished reply, among prompts whose users are all beside themselves in the same way:
between upset and plain prompts any probe would. Replies to one prompt are one unit.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr

from probes import suites
from probes.bank import Figure
from probes.canaries import CANARIES
from probes.decode import continued
from probes.evaluation import Evaluation
from probes.methods import Floats
from probes.prompts import checking
from probes.reader import Reader
from probes.replies import replies
from probes.scoring import RULE_WINDOW, peaks, read
from probes.statistics import auroc, clustered, figure, paired
from probes.windows import windowed

PREFIXES = (8, 32, 128)
SAMPLES = 4
TOKENS = 40
HARMLESS = 0.01  # of replies that may alarm


def lead_time(reader: Reader, evaluation: Evaluation, name: str) -> list[Figure]:
    """All figures of one probe."""
    found = [*_prefixes(reader, evaluation, name), *_warning(reader, evaluation, name), *_foresight(reader, evaluation, name)]
    evaluation.say(f"lead time: {name}")
    return found


def _words(reader: Reader, evaluation: Evaluation, name: str, ids: list[int], start: int) -> Floats:
    """Scores [tokens, 1] of the embedding probe: of the token that each state was read at, so of the words so far."""
    with torch.no_grad():
        rows = reader.model.get_input_embeddings()(torch.tensor(ids[start - 1 : len(ids) - 1], device=reader.model.device))
    scores: Floats = (rows.float().cpu().numpy() @ evaluation.baselines(name).embedding)[:, None]
    return scores


def _prefixes(reader: Reader, evaluation: Evaluation, name: str) -> list[Figure]:
    material, truth = evaluation.material, evaluation.material.truth(name)
    rows = np.flatnonzero(material.rows("test", "own") & (truth >= 0) & (material.form != "emotion"))
    chats = [reader.encode(material.texts[row]) for row in rows]
    shows = truth[rows] == 1
    own = read(reader, evaluation.bank.select([name]), chats)
    words = [_words(reader, evaluation, name, ids, start) for ids, start in chats]
    found = []
    for size in PREFIXES:
        mean, rival = (np.array([each[:size].mean() for each in scores]) for scores in (own, words))
        made = figure(f"held-out topics, first {size} tokens", mean[shows], mean[~shows])
        found.append(made.model_copy(update={"baselines": {"embedding": round(auroc(rival[shows], rival[~shows]), 4)}}))
    return found


def _warning(reader: Reader, evaluation: Evaluation, name: str) -> list[Figure]:
    """On replies to prompts that ask for the concept."""
    bank = evaluation.bank.select([name])
    harmless = replies(reader, checking()[::3], 1, evaluation.work, evaluation.say, seed=2)
    quiet = [(list(each.ids), each.start) for each in harmless]
    prompts = [prompt for prompt in CANARIES[name] for _ in range(SAMPLES)]
    encoded = [reader.prompt(prompt) for prompt in prompts]
    torch.manual_seed(7)
    asked = [([*ids, *more], len(ids)) for ids, more in zip(encoded, continued(reader, encoded, TOKENS, 0.8), strict=True)]
    owner = np.repeat(np.arange(len(CANARIES[name])), SAMPLES)
    first: list[Floats] = []
    for scores, base in (
        (read(reader, bank, asked), read(reader, bank, quiet)),
        ([_words(reader, evaluation, name, *chat) for chat in asked], [_words(reader, evaluation, name, *chat) for chat in quiet]),
    ):
        limit = np.quantile(peaks(base, RULE_WINDOW)[:, 0], 1 - HARMLESS)
        above = [windowed(each, RULE_WINDOW)[:, 0] > limit for each in scores]
        first.append(np.array([np.flatnonzero(each)[0] if each.any() else TOKENS for each in above], float))
    ahead = first[1] - first[0]
    shares = {"probe": float((first[0] < TOKENS).mean()), "embedding": float((first[1] < TOKENS).mean())}
    return [Figure(
        suite=f"tokens of warning before the embedding probe (of {TOKENS}; {shares['probe']:.2f} of replies alarm it, {shares['embedding']:.2f} the rival)",
        positives=len(ahead), negatives=len(quiet), value=float(np.median(ahead)), value_ci=clustered(lambda a: float(np.median(a)), owner, ahead),
    )]  # fmt: skip


def _foresight(reader: Reader, evaluation: Evaluation, name: str) -> list[Figure]:
    """Rank correlation, over prompts, of the first score with the mean tone of the finished replies."""
    cases = [text.prompt for suite in suites.read() if suite.concept == name and suite.name == "echo" for text in suite.texts]
    if not cases:
        return []
    bank, judge = evaluation.bank.select([name]), evaluation.baselines(name)
    encoded = [reader.prompt(prompt) for prompt in cases for _ in range(SAMPLES)]
    torch.manual_seed(11)
    made = continued(reader, encoded, TOKENS, 0.8)
    tone = judge.text([reader.tokenizer.decode(each, skip_special_tokens=True) for each in made]).reshape(len(cases), SAMPLES).mean(axis=1)
    scores = read(reader, bank, [([*ids, *more[:1]], len(ids)) for ids, more in zip(encoded, made, strict=True)][::SAMPLES])
    first = np.array([each[0, 0] for each in scores])

    def rank(a: Floats, b: Floats) -> float:
        return float(spearmanr(a, b)[0])

    return [Figure(
        suite="first score with the tone of the finished reply, users alike (rank correlation)", positives=len(cases), negatives=0,
        value=rank(first, tone), value_ci=paired(rank, first, tone, draws=300), baselines={"TF-IDF on the prompt": round(rank(judge.text(cases), tone), 4)},
    )]  # fmt: skip
