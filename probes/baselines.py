"""What a probe has to beat: detectors that read the text, and a probe on the embeddings, which hold words only."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from probes.encoder import Encoder
from probes.material import Material, weights
from probes.methods import Floats, logistic

# Words that a reader would put on a list for the concept, by stem.
LEXICON = {
    "desperation": "desperat despair beg plead please implore anything hopeless last chance only way nothing left save must give up lose",
    "panic": "panic scream scare fear terrif afraid fright help run hurry quick breath oh god fire alarm shak heart horror danger escape",
    "hostility": "hate stupid idiot moron scum filth kill hurt shut fool pig disgust ugly worthless pathetic threat smash angry curse damn trash",
    "frustration": "again still frustrat annoy stuck wrong fail useless every time ridiculous broken tired of",
    "calm": "calm quiet peace slow gentle still rest soft relax breath ease silence",
}


class Baselines:
    """TF-IDF of words and of letters with logistic regression, a word list, the embedding layer, and a sentence encoder if there is one: on the
    training texts of the probes, with their weights."""

    def __init__(self, material: Material, concept: str, encoder: Encoder | None = None) -> None:
        truth = material.truth(concept)
        kept = (material.split != "test") & (truth >= 0)
        rows, weight = np.flatnonzero(kept), weights(material, truth, kept)
        texts = [material.texts[row].reply for row in rows]
        self._text: Pipeline = make_pipeline(
            FeatureUnion([
                ("words", TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)),
                ("letters", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=3, sublinear_tf=True, max_features=60_000)),
            ]),
            LogisticRegression(C=10, class_weight="balanced", max_iter=300),
        )  # fmt: skip
        self._text.fit(texts, truth[rows] == 1, logisticregression__sample_weight=weight)
        self.embedding = logistic(material.states[rows, 0].astype(np.float32), truth[rows] == 1, weight)
        self._encoder = encoder
        if encoder is not None:
            self._sentence = LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
            self._sentence.fit(encoder(texts), truth[rows] == 1, sample_weight=weight)
        stems = LEXICON.get(concept, concept).split()
        self._words = re.compile(r"\b(?:" + "|".join(stems) + r")\w*", re.IGNORECASE)

    def scores(self, texts: Sequence[str], states: NDArray[np.float16]) -> dict[str, Floats]:
        """Scores [n] of each baseline; states are [n, columns, width]."""
        words = [len(self._words.findall(text)) / max(1, len(text.split())) for text in texts]
        found = {
            "TF-IDF": self.text(texts),
            "lexicon": np.array(words, np.float32),
            "embedding": states[:, 0].astype(np.float32) @ self.embedding,
        }
        if self._encoder is not None:
            found["sentence encoder"] = self._sentence.decision_function(self._encoder(texts)).astype(np.float32)
        return found

    def text(self, texts: Sequence[str]) -> Floats:
        """Log-odds [n] of the text classifier alone."""
        odds: Floats = self._text.decision_function(list(texts)).astype(np.float32)
        return odds
