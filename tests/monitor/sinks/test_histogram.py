"""Scores as histograms of both forms, against each score alone."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from monitor.sinks.histogram import BOUNDS, BUCKETS, EDGES, LEAST, MOST, SCHEMA, NativeFamily, ScoreHistogram
from monitor.sinks.protobuf import _MADE, _varint, asked_for, encode

SPECIAL = [
    *BUCKETS,
    *(float(np.nextafter(edge, np.float32(99))) for edge in EDGES),
    float("nan"),
    float("inf"),
    float("-inf"),
    0.0,
    1e30,
    -1e30,
]
SCORES = arrays.arrays(
    np.float32, st.tuples(st.integers(0, 300), st.just(2)), elements=st.sampled_from(SPECIAL) | st.floats(-40, 40, width=32)
)


def place(score: float) -> tuple[str, int]:
    """The native bucket of one score, by the format's own words: bucket i holds what is above 2 ** ((i-1) / 2**s) and at most 2 ** (i / 2**s)."""
    if abs(score) <= BOUNDS[0]:
        return "zero", 0
    index = math.ceil(round(math.log2(abs(score)) * 2**SCHEMA, 9))
    return "above" if score > 0 else "below", min(index, MOST + 1)


@given(SCORES)
def test_both_forms_are_those_of_each_score_alone(scores: np.ndarray) -> None:
    histogram = ScoreHistogram(("a", "b"))
    histogram.observe(scores, "m")
    histogram.observe(scores, "m")
    (family,) = histogram.collect()
    assert isinstance(family, NativeFamily)
    classic = {(sample.labels["probe"], sample.labels["le"]): sample.value for sample in family.samples}
    for (labels, native), column in zip(family.native, scores.T.astype(float), strict=True):
        finite = [float(score) for score in column if math.isfinite(score)]
        for edge in BUCKETS:
            assert classic[labels["probe"], str(edge)] == 2 * sum(score <= edge for score in finite)
        assert classic[labels["probe"], "+Inf"] == native.count_value == 2 * len(finite)
        size = sum(map(abs, finite), 1.0)  # added up in float32
        assert abs(native.sum_value - 2 * math.fsum(finite)) < 1e-4 * size
        wanted: dict[tuple[str, int], int] = {}
        for score in finite:
            if -score in BOUNDS.astype(np.float32):  # a negative score that is a bound: the one case in which the forms differ
                continue
            wanted[place(score)] = wanted.get(place(score), 0) + 2
        found = {
            ("zero", 0): int(native.zero_count),
            **buckets("above", native.pos_spans, native.pos_deltas),
            **buckets("below", native.neg_spans, native.neg_deltas),
        }
        if not any(-score in BOUNDS.astype(np.float32) for score in finite):
            assert {key: count for key, count in found.items() if count} == wanted


def buckets(side: str, spans: object, deltas: object) -> dict[tuple[str, int], int]:
    found, count, deltas = {}, 0, list(deltas or ())  # type: ignore[call-overload]
    for span in spans or ():  # type: ignore[attr-defined]
        assert LEAST <= span.offset <= MOST + 1
        for step in range(span.length):
            count += deltas.pop(0)
            found[side, span.offset + step] = count
    assert not deltas
    return found


def test_the_binary_form_has_both() -> None:
    histogram = ScoreHistogram(("a",))
    histogram.observe(np.array([[-5.0], [0.01], [3.5], [3.5]], np.float32), "m")
    raw = encode(histogram.collect())
    size = raw[0] & 0x7F | raw[1] << 7
    assert len(raw) == size + 2
    family = _MADE["MetricFamily"].FromString(raw[2:])
    (metric,) = family.metric
    assert {each.name: each.value for each in metric.label} == {"probe": "a", "model": "m"}
    assert (family.name, family.type, metric.histogram.sample_count, metric.histogram.zero_count) == ("barograph_score", 4, 4, 1)
    assert abs(metric.histogram.sample_sum - 2.01) < 1e-6
    assert [each.cumulative_count for each in metric.histogram.bucket] == [1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 4, 4]
    assert list(metric.histogram.positive_delta) == [2]


def test_lengths_are_written_seven_bits_a_byte() -> None:
    assert [_varint(number) for number in (0, 127, 128, 300, 1 << 21)] == [b"\x00", b"\x7f", b"\x80\x01", b"\xac\x02", b"\x80\x80\x80\x01"]


def test_only_who_names_it_first_gets_it() -> None:
    native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
    assert asked_for(f"{native},application/openmetrics-text;version=1.0.0;q=0.8")
    assert not asked_for(f"application/openmetrics-text;version=1.0.0,{native};q=0.5")
    assert not asked_for("")
