from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from probes.corpus import DEEP, FOLDER, PAIR, Corpus, CorpusError
from probes.writing import uses_word

STEMS = {"desperation": "despera", "panic": "panic", "hostility": "hostil", "frustration": "frustrat", "calm": "calm"}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.read()


def test_there_is_as_much_as_the_recipe_asks_for(corpus: Corpus) -> None:
    count = {name: sum(text.concept == name for text in corpus.texts) for name in corpus.concepts}
    assert len(count) == 171
    assert all(count[name] >= 60 for name in DEEP)
    assert all(count[name] >= 8 for name in corpus.concepts)
    assert sum(not text.concept for text in corpus.texts) >= 300


def test_no_text_names_its_concept_and_no_text_stands_twice(corpus: Corpus) -> None:
    for text in corpus.texts:
        if text.concept and text.form != PAIR:  # what is denied is named in some
            assert not uses_word(STEMS.get(text.concept, text.concept), text.reply), (text.concept, text.reply)
    assert len({text.reply for text in corpus.texts}) == len(corpus.texts)


def test_topics_are_shared_and_splits_apart(corpus: Corpus) -> None:
    where: dict[tuple[str, str], set[str]] = {}
    for text in corpus.texts:
        if text.concept and text.form != PAIR:
            where.setdefault((text.form, text.topic), set()).add(text.split)
    assert all(len(splits) == 1 for splits in where.values())
    for form, topic in where:
        having = {text.concept for text in corpus.texts if (text.form, text.topic) == (form, topic) and text.concept}
        assert having == (set(corpus.concepts) - set(DEEP) if form == "emotion" else set(DEEP))
    for name in corpus.concepts:
        assert {text.split for text in corpus.texts if text.concept == name} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("panic", "story | sea", "story | land", "'story | land' where the other concepts have 'story | sea'"),
        ("calm", "story | dog", "story dog", "needs a line 'form | topic'"),
        ("emotions", "# amused", "# amused\nOne more.", "'amused' has 9 texts; expected 8"),
        (
            "voices",
            "# panic | tweet",
            "# panic | tweet\nOne more.",
            "'panic | tweet' has 19 texts; expected one for each of the voice's topics",
        ),
        ("voices", "# panic | tweet", "# panics | tweet", "'panics | tweet'"),
        ("benign", "# panic | pairs", "# panic | pairs\nNo pair here.", "'No pair here.' is no pair; expected 'affirmed || denied'"),
        ("benign", "# panic | topical", "# panic", "every section needs a line '# concept | kind'"),
        ("neutral", "> ", "> A question alone\n\n> ", "every record needs a line '> prompt' and a reply; got 'A question alone'"),
    ],
)
def test_a_broken_corpus_is_refused(name: str, old: str, new: str, expected: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "c"))
    file = folder / f"{name}.txt"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(CorpusError, match=expected.replace("|", r"\|")):
        Corpus.read(folder)


def test_a_corpus_that_leaves_a_step_without_texts_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "c"))
    file = folder / "neutral.txt"
    file.write_text("\n\n> ".join(file.read_text().split("\n\n> ")[:4]))
    with pytest.raises(CorpusError, match=r"neutral\.txt: no text is left for validation and test; expected six texts or more"):
        Corpus.read(folder)


def test_a_missing_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        Corpus.read(tmp_path)


def test_the_check_for_the_word_knows_derived_words() -> None:
    assert uses_word("frustrated", "What a frustration!")
    assert uses_word("mad", "He was mad.")
    assert not uses_word("mad", "He made it.")
