from __future__ import annotations

from pathlib import Path

import pytest

from probes import prompts
from probes.corpus import Corpus, CorpusError


def test_there_are_enough_of_both_kinds_and_none_twice() -> None:
    found = prompts.read()
    assert len({each.turns for each in found}) == len(found)
    for checks in (True, False):
        kinds = [each.kind for each in found if each.checks == checks]
        assert kinds.count("topical") >= 300
        assert kinds.count("ordinary") >= 120
    assert sum(len(each.turns) == 3 for each in found) >= 42


def test_what_sets_thresholds_does_not_check_them() -> None:
    setting = {each.turns for each in prompts.setting(Corpus.read())}
    assert not setting & {each.turns for each in prompts.checking()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# news | loud\nHello?\n", "has the kind 'loud'; expected '# family | ordinary'"),
        ("# news | topical\na >> b\n", "expected the user's turn last"),
    ],
)
def test_a_broken_file_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(CorpusError, match=expected.replace("|", r"\|")):
        prompts.read(tmp_path / "p.txt")
