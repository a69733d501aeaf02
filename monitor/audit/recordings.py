"""Recorded scores, from where they lie: a ledger, a Kafka topic with a ledger's records, or a Parquet file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from monitor.audit import reader
from monitor.errors import BarographError
from rules.replay import Recording

TOPIC = re.compile(r"kafka://(?P<servers>[^/]+)/(?P<topic>[A-Za-z0-9._-]{1,249})")
ABOUT = ("model", "tenant", "route", "adapter", "engine")
NOTHING = "{}: no recorded scores; expected records of the kind 'scores', which a sidecar with audit.level: scores writes"
IDLE_MS = 3000  # a topic is read until nothing comes for so long


class RecordingError(BarographError):
    """A recording that cannot be read, or is of other probes."""


def recordings(source: str, probes: tuple[str, ...]) -> list[Recording]:
    """Whole streams with the scores of `probes`, in the order in which they began. Raises RecordingError.

    source: a path that ends in .parquet, `kafka://host:port/topic`, else a ledger.
    """
    if found := TOPIC.fullmatch(source):
        read = _from_records(_topic(found["servers"], found["topic"]), probes, source)
    elif source.endswith(".parquet"):
        read = _from_parquet(Path(source), probes)
    else:
        read = _from_records(_ledger(Path(source)), probes, source)
    if not read:
        raise RecordingError(NOTHING.format(source))
    return read


def table(source: str, probes: tuple[str, ...] = ()) -> Any:
    """Recorded scores as an Arrow table, one row a token, for notebooks: `table("barograph-ledger").to_pandas()`. Needs pyarrow. Raises RecordingError.

    source: as for `recordings`. probes: by default all that were recorded. Columns: stream, position, time, conversation, model, tenant,
    route, adapter, engine, and `score.PROBE` for each probe, in float32: standard deviations above the model's own neutral text.
    """
    import pyarrow

    probes = probes or _recorded(source)
    return pyarrow.table(_columns(recordings(source, probes), probes))


def write_parquet(path: Path, streams: Iterable[Recording], probes: tuple[str, ...]) -> None:
    """The same as a file."""
    import duckdb

    columns = _columns(list(streams), probes)
    with duckdb.connect() as database:
        database.register("tokens", columns)
        database.sql("SELECT * FROM tokens").write_parquet(str(path), compression="zstd")


def _columns(kept: list[Recording], probes: tuple[str, ...]) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "stream": np.concatenate([np.full(len(each.scores), each.stream, object) for each in kept]),
        "position": np.concatenate([np.arange(len(each.scores), dtype=np.int32) for each in kept]),
        "time": np.concatenate([each.times for each in kept]),
        "conversation": np.concatenate([np.full(len(each.scores), each.conversation, object) for each in kept]),
    }
    for name in ABOUT:
        columns[name] = np.concatenate([np.full(len(each.scores), str(each.request.get(name, "")), object) for each in kept])
    for i, probe in enumerate(probes):
        columns[f"score.{probe}"] = np.concatenate([each.scores[:, i] for each in kept])
    return columns


def _recorded(source: str) -> tuple[str, ...]:
    """Names of the probes that a recording has: those of its first scores."""
    if source.endswith(".parquet"):
        import duckdb

        try:
            with duckdb.connect() as database:
                names = [name.removeprefix("score.") for name in database.read_parquet(source).columns if name.startswith("score.")]
        except duckdb.Error as error:
            raise RecordingError(f"{source}: {str(error).splitlines()[0]}; expected a Parquet file") from None
    else:
        found = TOPIC.fullmatch(source)
        records = _topic(found["servers"], found["topic"]) if found else _ledger(Path(source))
        names = next((list(each["probes"]) for each in records if each.get("kind") == "scores"), [])
    if not names:
        raise RecordingError(NOTHING.format(source))
    return tuple(names)


def _from_parquet(path: Path, probes: tuple[str, ...]) -> list[Recording]:
    import duckdb

    if not path.is_file():
        raise RecordingError(f"{path}: no such file")
    try:
        with duckdb.connect() as database:
            relation = database.read_parquet(str(path))
            known = relation.columns
            missing = [name for name in ("stream", "position", "time", *(f"score.{probe}" for probe in probes)) if name not in known]
            if missing:
                raise RecordingError(
                    f"{path}: no column {', '.join(missing[:5])}; expected stream, position, time and score.PROBE; it has {', '.join(known)}"
                )
            rows = relation.fetchnumpy()
    except duckdb.Error as error:
        raise RecordingError(f"{path}: {str(error).splitlines()[0]}; expected a Parquet file") from None
    streams = np.asarray(rows["stream"], object).astype(str)
    order = np.lexsort((np.asarray(rows["position"]), streams))
    streams = streams[order]
    starts = np.flatnonzero(np.r_[True, streams[1:] != streams[:-1]]) if len(streams) else np.empty(0, np.intp)
    scores = np.stack([np.asarray(np.ma.filled(rows[f"score.{probe}"], np.nan), np.float32)[order] for probe in probes], axis=1)
    times = np.asarray(rows["time"], np.float64)[order]
    about = {name: np.asarray(rows[name], object)[order] for name in (*ABOUT, "conversation") if name in rows}
    found = []
    for start, end in zip(starts, np.r_[starts[1:], len(streams)], strict=True):
        request: dict[str, str] = {name: str(values[start]) for name, values in about.items() if name != "conversation"}
        conversation = str(about["conversation"][start]) if "conversation" in about else ""
        found.append(Recording(str(streams[start]), scores[start:end], times[start:end], request, conversation))
    return sorted(found, key=lambda each: float(each.times[0]))


def _ledger(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from reader.records(path)
    except reader.ReadError as error:
        raise RecordingError(f"{error}, a .parquet file, or kafka://host:port/topic") from None


def _topic(servers: str, topic: str) -> Iterator[dict[str, Any]]:
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    try:
        consumer = KafkaConsumer(
            bootstrap_servers=servers.split(","), consumer_timeout_ms=IDLE_MS, enable_auto_commit=False, request_timeout_ms=10_000
        )
    except (KafkaError, OSError, ValueError) as error:
        raise RecordingError(f"kafka://{servers}/{topic}: {type(error).__name__}: {error}") from None
    try:
        partitions = consumer.partitions_for_topic(topic)
        if not partitions:
            raise RecordingError(f"kafka://{servers}/{topic}: no such topic")
        consumer.assign([TopicPartition(topic, each) for each in sorted(partitions)])
        consumer.seek_to_beginning()
        for message in consumer:
            try:
                record = msgspec.json.decode(message.value)
            except msgspec.DecodeError:
                continue
            if isinstance(record, dict):
                yield record
    finally:
        consumer.close()


def _from_records(records: Iterable[dict[str, Any]], probes: tuple[str, ...], name: str) -> list[Recording]:
    """Streams from the records of a ledger. One whose beginning or middle is missing is left out."""
    about: dict[str, dict[str, str]] = {}
    parts: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record.get("kind") == "stream" and record.get("event") == "begin":
            about[record["stream"]] = record.get("request") or {}
        elif record.get("kind") == "scores":
            parts.setdefault(record["stream"], []).append(record)
    found = []
    for stream, chunks in parts.items():
        chunks.sort(key=lambda chunk: chunk["first"])
        unique = [
            chunk for i, chunk in enumerate(chunks) if i == 0 or chunk["first"] != chunks[i - 1]["first"]
        ]  # Kafka delivers at least once
        ends = [0, *(chunk["first"] + chunk["tokens"] for chunk in unique)]
        if [chunk["first"] for chunk in unique] != ends[:-1]:
            continue
        request = dict(about.get(stream, {}))
        conversation = request.pop("conversation", "")
        scores = np.concatenate([_chosen(chunk, probes, name) for chunk in unique])
        times = np.concatenate([np.linspace(chunk["since"], chunk["until"], chunk["tokens"]) for chunk in unique])
        found.append(Recording(stream, scores, times, request, conversation))
    return sorted(found, key=lambda each: float(each.times[0]))


def _chosen(chunk: dict[str, Any], probes: tuple[str, ...], name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    known = list(chunk["probes"])
    missing = [probe for probe in probes if probe not in known]
    if missing:
        raise RecordingError(f"{name}: recorded without {', '.join(missing[:5])}; it has: {', '.join(known[:20])}")
    scores = np.frombuffer(base64.b64decode(chunk["scores"]), "<f2").reshape(-1, len(known)).astype(np.float32)
    return scores[:, [known.index(probe) for probe in probes]]
