from __future__ import annotations

from pathlib import Path

import pytest

from probes import prompts, replies
from probes.corpus import Corpus, CorpusError
from probes.reader import Reader


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


def test_replies_that_were_interrupted_go_on(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "WAYS", ((6, 1.0), (4, 0.0), (8, 0.7)))
    reader, few = Reader(tiny, "tiny", "cpu"), prompts.checking()[::60]
    whole = replies.replies(reader, few, 2, tmp_path / "a", print)
    assert [each.prompt for each in whole] == [number for number in range(len(few)) for _ in range(2)]
    assert all(list(each.ids[: each.start]) == reader.prompt(few[each.prompt].turns) for each in whole)
    assert max(len(each.ids) - each.start for each in whole) == 8
    (file,) = (tmp_path / "a").iterdir()
    kept = file.read_text()
    file.write_text(kept[: len(kept) // 2])  # killed in the middle of a line
    again = replies.replies(reader, few, 2, tmp_path / "a", print)
    assert [(each.prompt, each.start) for each in again] == [(each.prompt, each.start) for each in whole]
    assert file.read_text()[:200] == kept[:200]
    monkeypatch.setattr(replies, "continued", None)  # nothing is made twice
    assert replies.replies(reader, few, 2, tmp_path / "a", print) == again


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
