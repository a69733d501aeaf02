"""Prometheus' binary format, which servers ask for that want native histograms. prometheus-client writes text only, and text has none.

The messages are those of prometheus/client_model (io.prometheus.client), as far as they are needed; names and numbers of the fields are the format's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar, NativeHistogram, Sample

CONTENT_TYPE = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
ASKED = "proto=io.prometheus.client.metricfamily"
TYPES = {"counter": 0, "gauge": 1, "summary": 2, "unknown": 3, "info": 1, "histogram": 4}  # an info is a gauge of 1 there

_PACKAGE = "io.prometheus.client"
_FIELDS = {
    "LabelPair": {"name": (1, "string"), "value": (2, "string")},
    "Exemplar": {"label": (1, "*LabelPair"), "value": (2, "double")},
    "Gauge": {"value": (1, "double")},
    "Counter": {"value": (1, "double"), "exemplar": (2, "Exemplar")},
    "Untyped": {"value": (1, "double")},
    "BucketSpan": {"offset": (1, "sint32"), "length": (2, "uint32")},
    "Bucket": {"cumulative_count": (1, "uint64"), "upper_bound": (2, "double"), "exemplar": (3, "Exemplar")},
    "Histogram": {
        "sample_count": (1, "uint64"), "sample_sum": (2, "double"), "bucket": (3, "*Bucket"), "schema": (5, "sint32"), "zero_threshold": (6, "double"),
        "zero_count": (7, "uint64"), "negative_span": (9, "*BucketSpan"), "negative_delta": (10, "*sint64"), "positive_span": (12, "*BucketSpan"),
        "positive_delta": (13, "*sint64"),
    },
    "Metric": {"label": (1, "*LabelPair"), "gauge": (2, "Gauge"), "counter": (3, "Counter"), "untyped": (5, "Untyped"), "histogram": (7, "Histogram")},
    "MetricFamily": {"name": (1, "string"), "help": (2, "string"), "type": (3, "int32"), "metric": (4, "*Metric")},
}  # fmt: skip


def asked_for(accept: str) -> bool:
    """Whether a server prefers this format: those that do name it first."""
    return ASKED in accept.split(",")[0].replace(" ", "").lower()


def encode(families: Iterable[Metric]) -> bytes:
    """Each family as a message with its length before it."""
    made = []
    for family in families:
        if (message := _family(family)) is not None:
            raw = message.SerializeToString()
            made += [_varint(len(raw)), raw]
    return b"".join(made)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the least first; the high bit says that more come."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def _messages() -> dict[str, Any]:
    """Message classes from the table above: no file that a compiler wrote."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="barograph/metrics.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for label, (number, kind) in fields.items():
            single = kind.removeprefix("*")
            made = message.field.add(
                name=label, number=number, label=field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            )
            if single in _FIELDS:
                made.type, made.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{single}"
            else:
                made.type = getattr(field, f"TYPE_{single.upper()}")
    pool = descriptor_pool.DescriptorPool()  # of our own: somebody else's client_model may live in the process
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _FIELDS}


_MADE = _messages()


def _family(family: Metric) -> Any:
    """None for a family without samples, which the format does not know."""
    name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
    message = _MADE["MetricFamily"](name=name, help=family.documentation, type=TYPES.get(family.type, TYPES["unknown"]))
    if family.type == "histogram":
        made = _histograms(message, family.samples)
        for labels, histogram in getattr(family, "native", ()):
            made[tuple(labels.items())].MergeFrom(_native(histogram))
    else:
        for sample in family.samples:
            metric = _labelled(message.metric.add(), sample.labels)
            if family.type == "counter":
                metric.counter.value = sample.value
                _exemplar(metric.counter, sample.exemplar)
            else:
                (metric.gauge if family.type in ("gauge", "info") else metric.untyped).value = sample.value
    return message if message.metric else None


def _histograms(message: Any, samples: Iterable[Sample]) -> dict[tuple[tuple[str, str], ...], Any]:
    """The classic form, by labels."""
    made: dict[tuple[tuple[str, str], ...], Any] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        key = tuple(labels.items())
        if key not in made:
            made[key] = _labelled(message.metric.add(), labels).histogram
        if sample.name.endswith("_bucket"):
            bucket = made[key].bucket.add(cumulative_count=int(sample.value), upper_bound=float(sample.labels["le"]))
            _exemplar(bucket, sample.exemplar)
        elif sample.name.endswith("_count"):
            made[key].sample_count = int(sample.value)
        elif sample.name.endswith("_sum"):
            made[key].sample_sum = sample.value
    return made


def _native(histogram: NativeHistogram) -> Any:
    def spans(of: Any) -> list[Any]:
        return [_MADE["BucketSpan"](offset=each.offset, length=each.length) for each in of or ()]

    return _MADE["Histogram"](
        sample_count=int(histogram.count_value), sample_sum=histogram.sum_value, schema=histogram.schema, zero_threshold=histogram.zero_threshold,
        zero_count=int(histogram.zero_count), positive_span=spans(histogram.pos_spans), positive_delta=histogram.pos_deltas or (),
        negative_span=spans(histogram.neg_spans), negative_delta=histogram.neg_deltas or (),
    )  # fmt: skip


def _labelled(metric: Any, labels: dict[str, str]) -> Any:
    for name, value in sorted(labels.items()):
        metric.label.add(name=name, value=value)
    return metric


def _exemplar(of: Any, exemplar: Exemplar | None) -> None:
    if exemplar is not None:
        for name, value in exemplar.labels.items():
            of.exemplar.label.add(name=name, value=value)
        of.exemplar.value = exemplar.value
