from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from probes.labelled import Labelled, LabelledError


def test_labels_become_truth(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text('text\tlabels\nRun!\tfear,surprise\nFine.\tneutral\nUgh "you\tanger\nHm.\tconfusion\n')
    read = Labelled.read(file)
    assert read.texts[2] == 'Ugh "you'
    assert read.truth("panic").tolist() == [1, 0, 0, -1]
    assert read.truth("hostility").tolist() == [0, 0, 1, 0]
    assert read.neutral().tolist() == [False, True, False, False]


def test_json_lines_and_gzip_are_read(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.csv.gz"
    plain.write_text('{"text": "Run!", "labels": ["fear"]}\n')
    packed.write_bytes(gzip.compress(b"text,V,A\nFine.,4.0,2.5\n"))
    assert Labelled.read(plain).truth("panic").tolist() == [1]
    ratings = Labelled.read(packed).ratings
    assert ratings is not None
    assert ratings.tolist() == [[4.0, 2.5]]


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("a.csv", b"words,labels\nx,y\n", "columns are words, labels; expected 'text'"),
        ("a.csv", b"", "columns are none"),
        ("a.csv.gz", b"no gzip", "cannot be read"),
        ("a.csv", b"\xff\xfe\xff", "cannot be read"),
        ("a.jsonl", b"{nope\n", "expected CSV, TSV or JSON lines"),
        ("a.csv", b"text,V,A\nx,high,2\n", "a rating is no number"),
    ],
)
def test_bad_files_are_refused(name: str, raw: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(LabelledError, match=expected):
        Labelled.read(tmp_path / name)


def test_a_sample_takes_rare_labels_first(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,labels\n" + "".join(f"t{i},{'fear' if i % 50 == 0 else 'neutral'}\n" for i in range(1000)))
    read = Labelled.read(file)
    rows = read.sample(200)
    assert len(set(rows.tolist())) == 200
    assert np.array_equal(rows, read.sample(200))
    assert (read.truth("panic")[rows] == 1).mean() > 0.04
