"""The way of a bank on a small random model: read, fit, calibrate, measure, validate, compare."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from monitor.config import BANKS
from monitor.pipeline.rulefiles import facts
from probes import prompts
from probes.bank import Bank, BankError, Threshold
from probes.calibration import calibrate, registers, reply_thresholds, thresholds
from probes.cause import MONOTONE, validate
from probes.compare import compare, worst
from probes.corpus import DEEP, Corpus, Text
from probes.evaluation import Evaluation, long_context
from probes.fit import SAFETY, FitError, fit
from probes.labelled import Labelled
from probes.lead import lead_time
from probes.norms import against_norms
from probes.page import page
from probes.passport import Passport
from probes.prompts import setting
from probes.quiet import quiet as quieted
from probes.reader import SKIP, Reader, ReadError, _shared, batches
from probes.registers import neutral_registers
from probes.scoring import generate, token_scores
from rules.document import DocumentError
from rules.engine import RuleEngine

quiet = lambda text: None  # noqa: E731


@pytest.fixture(scope="module")
def reader(tiny: str) -> Reader:
    return Reader(tiny, "tiny", "cpu")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> list[Labelled]:
    folder = tmp_path_factory.mktemp("labelled")
    rows = [
        f"{text.reply[:60].replace(',', ';').splitlines()[0]},{'fear' if text.concept == 'panic' else 'neutral'}"
        for text in corpus.texts[:300]
    ]
    (folder / "labels.csv").write_text("\n".join(["text,labels", *rows]))
    rated = [f"{text.reply[:40].replace(',', ';').splitlines()[0]},{i % 5},{i % 3}" for i, text in enumerate(corpus.texts[:200])]
    (folder / "rated.csv").write_text("\n".join(["text,V,A", *rated]))
    return [Labelled.read(folder / "labels.csv"), Labelled.read(folder / "rated.csv")]


@pytest.fixture(scope="module")
def made(reader: Reader, corpus: Corpus, work: Path, labelled: list[Labelled]) -> Bank:
    bank = calibrate(reader, fit(reader, corpus, labelled, work, None, quiet, 200), setting(corpus)[::2], 1, work, quiet)
    return registers(bank, neutral_registers(reader, bank, corpus, labelled, work))


def test_the_read_out_is_the_state_that_produces_each_token(reader: Reader, corpus: Corpus, tmp_path: Path) -> None:
    """Whatever the texts beside it: with a prompt, whose beginning is read once, or without."""
    texts = [
        *corpus.texts[:3],
        *corpus.neutral[:4],
        Text("", "", "", "Alone it stands, and says little.", "train"),
        Text("", "", "Why?", "So.", "train"),
    ]
    means = reader.means(texts, tmp_path)
    assert len({_shared([reader.encode(texts[i]) for i in batch]) for batch in batches([reader.encode(text) for text in texts])}) > 1
    for text, mean in zip(texts, means, strict=True):
        ids, prompt = reader.encode(text)
        with torch.no_grad():
            hidden = reader.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        first = prompt - 1 + min(SKIP, (len(ids) - prompt) // 4)
        expected = torch.stack(hidden[:-1])[:, 0, first:-1].mean(dim=1).numpy()
        assert np.allclose(mean, expected, atol=2e-3)


def test_an_interrupted_reading_goes_on(reader: Reader, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus.texts[:120]
    whole = np.array(reader.means(texts, tmp_path / "a"))
    read, calls = Reader._read, []

    def breaking(self: Reader, encoded: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(self, encoded)  # type: ignore[arg-type]

    monkeypatch.setattr(Reader, "_read", breaking)
    with pytest.raises(KeyboardInterrupt):
        reader.means(texts, tmp_path / "b")
    before = len(calls)
    assert np.allclose(reader.means(texts, tmp_path / "b"), whole, atol=1e-3)
    again = len(calls)
    assert again > before
    reader.means(texts, tmp_path / "b")
    assert len(calls) == again


def test_scores_of_a_text_are_those_of_its_generation(reader: Reader, made: Bank) -> None:
    """Scored while it is produced or afterwards: a token has one score."""
    each = next(
        generate(reader, made, ["Explain how a pump works.", "Tell me a long story about a sea captain, please."], 12, temperature=0)
    )
    ids, prompt = reader.encode(Text("", "", each.prompt, "x", "test"))
    reader_text = Text("", "", each.prompt, reader.tokenizer.decode(each.tokens), "test")
    if reader.encode(reader_text)[0][prompt:] == each.tokens:
        assert np.allclose(token_scores(reader, made, reader_text), each.scores, atol=0.05)
    assert len(ids) > prompt


def test_a_fit_gives_a_whole_bank(made: Bank, tmp_path: Path) -> None:
    made.save(tmp_path)
    bank = Bank.load(tmp_path)
    assert bank.names[:7] == (*DEEP, "valence", "arousal")
    assert sum(card.group == "emotion" for card in bank.card.probes) == 171
    assert len(set(bank.names)) == 178
    assert np.allclose(np.linalg.norm(bank.patterns, axis=1), 1, atol=1e-5)
    assert np.array_equal(bank.patterns[7:], bank.directions[7:])
    for card in bank.card.probes[:7]:
        assert 2 <= card.layer <= 4
        # Of a rarer rate these replies know nothing: none of their windows above it would be no proof.
        assert [threshold.rate for threshold in card.thresholds["ewma(8)"]] == [0.01, 0.001]
        assert card.reply_thresholds["ewma(8)"] == []
        assert all(t.ci and t.ci[0] <= t.value <= t.ci[1] for t in card.thresholds["max(8)"])
        assert "code" in card.registers
    assert bank.card.calibration["tokens"] > 1000
    assert bank.card.passport.dtype == "float32"
    assert {"difference of means", "whitened", "logistic"} <= set(bank["panic"].methods)


def test_z_units_are_those_of_neutral_generations(reader: Reader, corpus: Corpus, made: Bank) -> None:
    ordinary = [each.turns[0] for each in prompts.read() if each.kind == "ordinary"]
    scores = np.concatenate([each.scores for each in generate(reader, made, ordinary, 64)])
    assert np.abs(scores.mean(axis=0)).max() < 0.3
    assert np.abs(scores.std(axis=0) - 1).max() < 0.3


def test_thresholds_are_exceeded_at_their_rate() -> None:
    random = np.random.default_rng(0)
    generations = [random.normal(size=(64, 1)).astype(np.float32) for _ in range(400)]
    owner = np.arange(400) // 2
    found = thresholds(generations, owner, "last", 100)
    assert found[0].value == pytest.approx(2.326, abs=0.15)
    assert found[0].ci is not None
    assert found[0].ci[0] < 2.326 < found[0].ci[1]
    assert [each.rate for each in found] == [0.01, 0.001]
    # In one reply of a hundred the highest of 64 scores passes this.
    (whole,) = reply_thresholds(generations, owner, "last", 100)
    assert whole.rate == 0.01
    assert whole.value == pytest.approx(3.60, abs=0.25)
    assert reply_thresholds(generations[:299], owner[:299], "last", 0) == []


def test_replies_to_one_prompt_are_one_unit() -> None:
    """Of replies that are copies, an interval must not grow narrower."""
    random = np.random.default_rng(0)
    apart = [random.normal(size=(64, 1)).astype(np.float32) for _ in range(100)]
    single = thresholds(apart, np.arange(100), "last", 200)[0].ci
    copied = thresholds([each for each in apart for _ in range(4)], np.arange(400) // 4, "last", 200)[0].ci
    assert single is not None
    assert copied is not None
    assert copied[1] - copied[0] > 0.7 * (single[1] - single[0])


def test_false_alarms_are_counted_on_prompts_of_their_own(reader: Reader, made: Bank, work: Path) -> None:
    """Thresholds as low as can be let every window through, and thresholds as high as can be let none."""
    few = prompts.checking()[::20]
    assert not set(few) & set(prompts.setting(Corpus.read()))
    for value, expected in ((-1e9, 1.0), (1e9, 0.0)):
        limit = {"ewma(8)": [Threshold(rate=rate, value=value) for rate in (0.01, 0.005)]}
        bank = made.with_cards([card.model_copy(update={"thresholds": limit, "reply_thresholds": limit}) for card in made.card.probes])
        found = quieted(reader, bank, few, work, quiet)
        assert [each.suite for each in found.card.false_alarms] == [
            "ordinary replies that meet a default rule",
            "topical replies that meet a default rule",
        ]
        assert all(
            each.fpr == pytest.approx(expected, abs=0.1) for each in found.card.false_alarms
        )  # a reply of under eight tokens meets none
        windows = {each.suite: each.windows_over for each in found["panic"].evaluation}
        assert windows["benign topical replies"] == expected
        assert any(suite.startswith("benign replies: ") for suite in windows)


def test_it_is_measured(reader: Reader, corpus: Corpus, made: Bank, labelled: list[Labelled], work: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(reader, made, corpus, labelled, work, quiet, 200)
    bank = evaluation.run()
    suites = {figure.suite for figure in bank["panic"].evaluation}
    assert {
        "held-out topics",
        "held-out form: agents' logs and notes",
        "the other emotions",
        "implied",
        "negation, pairs",
        "mention",
        "quote",
        "echo",
        "foreign",
    } <= suites
    assert any(suite.startswith("topics and hard cases together: ahead of ") for suite in suites)
    against = next(suite for suite in suites if suite.startswith("against readers of text, topics and hard cases: ahead of "))
    assert not against.endswith("embedding")
    topics = bank["panic"].evaluation[0]
    assert set(topics.baselines) == {"TF-IDF", "lexicon", "embedding"}
    assert topics.auroc_ci is not None
    # The model was never trained: what its probes tell they mostly owe to the words, their cards say so, and rules that stop replies are refused.
    worth = {name: bank[name].worthwhile for name in SAFETY if name in bank.names}
    assert sum(each is False for each in worth.values()) >= len(worth) - 1, worth
    assert "does not surely tell more than words alone do" in page(bank)
    assert Bank.load(BANKS / "smollm2-135m-instruct")["panic"].worthwhile
    rule = "rules:\n- {rule: r, desc: d, when: hostility.last > 3, do: halt, mode: armed}\n"
    with pytest.raises(DocumentError, match="does not surely tell more than words alone do"):
        RuleEngine.from_text(rule, facts(bank.with_card("hostility", causal=None)))
    assert any(figure.suite.startswith("correlation with ratings") for figure in bank["valence"].evaluation)
    lead = {each.suite: each for each in lead_time(reader, evaluation, "panic")}
    assert {"held-out topics, first 8 tokens", "held-out topics, first 32 tokens"} <= set(lead)
    assert all(each.baselines for suite, each in lead.items() if suite.startswith("held-out topics"))
    assert any(suite.startswith("first score with the tone") for suite in lead)
    long = long_context(reader, evaluation, "panic", tokens=300)
    assert long.positives == 5
    norms = tmp_path / "norms.csv"
    norms.write_text("word,V,A\n" + "".join(f"{card.name.replace('_', ' ')},{i % 7},{i % 4}\n" for i, card in enumerate(bank.card.probes)))
    assert any("component 1" in figure.suite for figure in against_norms(bank, norms)["arousal"].evaluation)
    norms.write_text("word,V\n" + "".join(f"{card.name.replace('_', '-')},{i % 7}\n" for i, card in enumerate(bank.card.probes)))
    rated = against_norms(bank, norms)
    assert any("component 1" in figure.suite for figure in rated["valence"].evaluation)
    assert not any("component 1" in figure.suite for figure in rated["arousal"].evaluation)


def test_cause_is_judged_against_random_directions(reader: Reader, corpus: Corpus, made: Bank) -> None:
    bank = validate(reader, made, corpus, ["panic"], quiet)
    card = bank["panic"]
    assert card.cause is not None
    assert card.cause.outcomes["words"][card.cause.doses.index(0.0)] == pytest.approx(0, abs=1e-6)
    cause = card.cause
    assert cause.slope_ci is not None
    assert cause.matched_slope is not None
    assert cause.slope_ci[0] <= cause.slope <= cause.slope_ci[1]
    assert set(cause.cross) == {"desperation", "hostility", "frustration"}
    # Words that rise with the dose are not enough: surely, and more than along other directions, and more than other concepts' words.
    rivals = (cause.random_slope, cause.matched_slope, *cause.cross.values())
    assert card.causal == (cause.monotone["words"] >= MONOTONE and cause.slope_ci[0] > 0 and cause.slope > max(rivals))
    assert card.cause.random_slope > 0
    assert len(card.cause.matched) == len(card.cause.doses)
    assert card.cause.matched[0] < 0 < card.cause.matched[-1]
    assert bank["hostility"].causal is None


def test_the_page_stands_by_itself(made: Bank) -> None:
    html = page(made)
    assert "<svg" in html
    assert "no proof of calm" in html
    assert "http" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


def test_a_layer_that_is_not_there_is_refused(reader: Reader, corpus: Corpus, work: Path) -> None:
    with pytest.raises(FitError, match="layer 9 cannot be read"):
        fit(reader, corpus, [], work, 9, quiet)


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot load model"):
        Reader(str(tmp_path), "none", "cpu")


def test_the_same_model_passes_and_another_does_not(
    reader: Reader, corpus: Corpus, made: Bank, tiny: str, work: Path, tmp_path: Path
) -> None:
    assert worst(compare(reader, reader, made, corpus, work, quiet)) == "PASS"
    changed = Path(shutil.copytree(tiny, tmp_path / "changed"))
    model = transformers.AutoModelForCausalLM.from_pretrained(changed)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.add_(0.3)
    model.save_pretrained(changed)
    other = Reader(str(changed), "tiny", "cpu")
    assert Passport.of(other.model, "").weights != made.card.passport.weights
    assert worst(compare(reader, other, made, corpus, work, quiet)) in ("RECALIBRATE", "REFIT")


def test_unknown_probes_cannot_be_selected(made: Bank) -> None:
    assert made.select("alarm").names == made.names[:7]
    assert made.select(["panic", "joyful"]).names == ("panic", "joyful")
    assert made.select(["panic"]).digest != made.digest
    with pytest.raises(BankError, match="has no probe 'rage'"):
        made.select(["rage"])


def test_passports_differ_only_where_both_know() -> None:
    a, b = Passport(dtype="bfloat16", engine="x 1"), Passport(dtype="int8")
    assert a.differences(b) == {"dtype": ("bfloat16", "int8")}
    assert Passport(weights="1").differences(Passport(weights="vllm:2")) == {}
    assert Passport(weights="vllm:1").differences(Passport(weights="vllm:2")) == {"weights": ("vllm:1", "vllm:2")}
