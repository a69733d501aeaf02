"""The ledger's records as tables, for questions in SQL. Nothing that is asked can change them, or reach any file."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from monitor.audit.reader import Reader
from monitor.errors import BarographError

SECONDS = 120.0  # then a query is broken off
MEMORY = "4GB"
MOST_ROWS, ROWS_AT_ONCE = 1_000_000, 10_000  # that are given as Python's own objects
PART = 32 << 20  # bytes of records that are read at a time

# The fields of records that tables are made of. JSON where they differ from record to record.
FIELDS = {
    "kind": "VARCHAR", "event": "VARCHAR", "seq": "BIGINT", "time": "DOUBLE", "stream": "VARCHAR", "source": "VARCHAR", "rules": "VARCHAR",
    "request": "JSON", "tokens": "BIGINT", "judged": "BIGINT", "dropped": "BIGINT", "gap": "BOOLEAN", "nan": "BOOLEAN", "how": "VARCHAR",
    "outcome": "VARCHAR", "status": "INTEGER", "early": "BIGINT", "streams": "JSON", "halted": "VARCHAR[]", "rule": "VARCHAR", "action": "VARCHAR",
    "mode": "VARCHAR", "shadow": "VARCHAR", "severity": "VARCHAR", "risk": "VARCHAR", "tags": "VARCHAR[]", "desc": "VARCHAR", "when": "VARCHAR",
    "position": "BIGINT", "grade": "VARCHAR", "limited": "BOOLEAN", "issuer": "VARCHAR", "by": "VARCHAR", "via": "VARCHAR", "verb": "VARCHAR",
    "about": "VARCHAR", "name": "VARCHAR", "reason": "VARCHAR", "why": "VARCHAR", "condition": "VARCHAR", "decision": "VARCHAR", "frames": "BIGINT",
    "first": "JSON", "last": "BIGINT", "to": "VARCHAR", "do": "VARCHAR", "tenant": "VARCHAR", "probe": "VARCHAR", "dose": "DOUBLE", "digest": "VARCHAR", "seconds": "DOUBLE",
    "held": "DOUBLE", "said": "VARCHAR",
}  # fmt: skip
SCORES = {"peak": "JSON", "signals": "JSON", "thresholds": "JSON", "model_signal": "JSON"}
PERSONS = {"client_request": "VARCHAR"}
PERSONAL = ("client_request", "conversation")  # columns that stand for a natural person, though under a pseudonym

AT = "make_timestamp(CAST(time * 1e6 AS BIGINT))"


def _part(column: str) -> str:
    return f"b.request->>'{column}' AS {column}"


# A sidecar that comes back may tell of one stream twice: its first begin and its last end count.
_GENERATIONS = f"""
    SELECT b.stream, b.moment AS began, e.moment AS ended, {", ".join(map(_part, ("model", "tenant", "route", "adapter", "engine")))}, b.source, b.rules,
      coalesce(e.event, 'open') AS state, e.tokens, e.judged, e.dropped, e.gap, e.nan {{more}}
    FROM (SELECT *, {AT} AS moment FROM records WHERE kind = 'stream' AND event = 'begin' QUALIFY row_number() OVER (PARTITION BY stream ORDER BY seq) = 1) b
    LEFT JOIN (SELECT *, {AT} AS moment FROM records WHERE kind = 'stream' AND event IN ('end', 'lost')
      QUALIFY row_number() OVER (PARTITION BY stream ORDER BY event = 'end' DESC, seq DESC) = 1) e USING (stream)"""
_REPLIES = f"""
    SELECT seq, {AT} AS time, request->>'$' AS request, status, tokens, early, held, TRY_CAST(streams AS VARCHAR[]) AS streams {{more}}
    FROM records WHERE kind = 'reply'"""
_COVERAGE = f"""
    SELECT g.stream, g.model, g.tenant, g.state, g.tokens, g.judged, g.dropped, g.gap, g.nan, r.request, r.tokens AS delivered, r.early,
      coalesce(g.state = 'end' AND g.dropped = 0 AND g.judged >= g.tokens AND NOT g.gap AND NOT g.nan AND coalesce(r.early, 0) = 0, false) AS whole {{more}}
    FROM ({_GENERATIONS.format(more="")}) g
    LEFT JOIN (SELECT * FROM (SELECT unnest(streams) AS stream, * EXCLUDE streams FROM ({_REPLIES.format(more=", how, outcome")}))
      QUALIFY row_number() OVER (PARTITION BY stream ORDER BY seq DESC) = 1) r USING (stream)"""
_VERDICTS = f"""
    SELECT seq, {AT} AS time, stream, position, rule, event, action, mode, shadow, limited, severity, risk, tags, grade, rules, "desc", "when" {{more}}
    FROM records WHERE kind = 'verdict'"""
_ACTIONS = f"""
    SELECT seq, {AT} AS time, kind AS action, event, stream, rule, "do" AS did, "to" AS target, probe, dose, tenant, why FROM records WHERE kind IN ('reroute', 'steer', 'tenant')
    UNION ALL BY NAME
    SELECT seq, {AT} AS time, 'halt' AS action, outcome AS event, CASE WHEN json_array_length(streams) = 1 THEN streams->>0 END AS stream, unnest(halted) AS rule FROM records WHERE kind = 'reply'"""
_OPERATORS = f"""
    SELECT seq, {AT} AS time, coalesce(issuer, "by") AS who, coalesce(verb, event) AS what, coalesce(said, concat_ws(' ', about, name)) AS about, reason, outcome, via, why, digest
    FROM records WHERE kind IN ('command', 'custody', 'rules', 'key', 'incident')"""
_FAILURES = f"""
    SELECT seq, {AT} AS time, kind, event, stream, source, condition, coalesce(decision, how) AS decision, coalesce(why, reason) AS why, frames, TRY_CAST("first"->>'$' AS BIGINT) AS "first", "last", seconds
    FROM records WHERE kind IN ('failure', 'gap', 'clock') OR (kind = 'tap' AND event IN ('failed', 'refused')) OR (kind = 'ledger' AND event != 'sealed')
      OR (kind = 'witness' AND event != 'well') OR (kind = 'stream' AND event = 'lost')"""

# By view: its text, the kinds of records it is made of, and whether it may stand beside columns that stand for a person.
VIEWS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "generations": (_GENERATIONS, ("stream",), True),
    "replies": (_REPLIES, ("reply",), True),
    "coverage": (_COVERAGE, ("stream", "reply"), True),
    "verdicts": (_VERDICTS, ("verdict",), False),
    "actions": (_ACTIONS, ("reroute", "steer", "tenant", "reply"), False),
    "operators": (_OPERATORS, ("command", "custody", "rules", "key", "incident"), True),
    "failures": (_FAILURES, ("failure", "gap", "clock", "tap", "ledger", "witness", "stream"), True),
}


class QueryError(BarographError):
    """A question that can't be answered, or must not be."""


class Tables:
    """The views that a text names, over the ledger as it is now. A view that it does not name is not there.

    Scores are never beside what stands for a natural person: where the text names a column of PERSONAL, no view has scores or verdicts; elsewhere none
    has such a column. So no score can be told, or added up, by person.
    """

    def __init__(
        self, folder: Path, text: str, out: Path | None = None, scores: Collection[str] = tuple(SCORES), sealed: bool = False
    ) -> None:
        """`out`: the one file that a result may be written to. `scores`: those of its columns that are read; they are most of the bytes. `sealed`: only what a checkpoint covers. Raises ReadError, TileError, QueryError."""
        words = set(re.findall(r"\w+", text.lower()))
        named = [view for view in VIEWS if view in words]
        if not named:
            raise QueryError(f"no view is named; there are: {', '.join(VIEWS)}")
        self.personal = bool(words & set(PERSONAL))
        if self.personal and (refused := [view for view in named if not VIEWS[view][2]]):
            raise QueryError(
                f"refused: {', '.join(refused)} beside {' or '.join(PERSONAL)}. A score is a state of the model, and is never told or added up by natural person"
            )
        self._scores = () if self.personal else tuple(scores)
        self._database = duckdb.connect(config={"max_memory": MEMORY, "temp_directory": ""})
        try:
            self._fill(folder, named, sealed)
        except duckdb.Error as error:
            raise QueryError(
                f"the ledger does not fit into {MEMORY} of memory, or has records that no table takes: {str(error).splitlines()[0]}"
            ) from None
        if out is not None:
            if os.path.lexists(out):
                raise QueryError(f"{out}: it is there already; expected a new file")
            self._database.execute("SET allowed_paths = [?]", [str(out.absolute())])
        self._database.execute("SET enable_external_access = false; SET lock_configuration = true")

    def ask(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The columns and rows of one SELECT. Raises QueryError."""
        with self._asked(sql) as found:
            rows: list[tuple[Any, ...]] = []
            while some := found.fetchmany(ROWS_AT_ONCE):
                rows += some
                if len(rows) > MOST_ROWS:
                    raise QueryError(f"more than {MOST_ROWS} rows; ask for less, or write them to a file with --out")
            return [each[0] for each in found.description or ()], rows

    def write(self, sql: str, out: Path, form: str) -> int:
        """Write its result to the file that was named at first, as csv, json or parquet. Gives the number of rows. Raises QueryError."""
        place = str(out.absolute()).replace("'", "''")
        with self._asked(sql, "COPY (", f") TO '{place}' (FORMAT {form})") as found:
            return int((found.fetchone() or (0,))[0])

    def close(self) -> None:
        self._database.close()

    def _fill(self, folder: Path, named: list[str], sealed: bool) -> None:
        kinds = {kind for view in named for kind in VIEWS[view][1]}
        fields = {**FIELDS, **(PERSONS if self.personal else {name: SCORES[name] for name in self._scores})}
        used = set(re.findall(r"\w+", " ".join(VIEWS[view][0] + self._more(view) for view in named))) | set(fields) - set(FIELDS)
        columns = {name: kind for name, kind in fields.items() if name in used or name in ("kind", "event", "time", "seq")}
        self._database.execute("CREATE TABLE records (" + ", ".join(f'"{name}" {kind}' for name, kind in columns.items()) + ")")
        with ThreadPoolExecutor(1) as loader:
            loading: Future[None] | None = None  # the database reads one part while the next is gathered
            for part in _parts(folder, kinds, sealed):
                if loading is not None:
                    loading.result()
                loading = loader.submit(self._load, part, columns, kinds)
            if loading is not None:
                loading.result()
        for view in named:
            self._database.execute(f"CREATE TABLE {view} AS {VIEWS[view][0].format(more=self._more(view))}")
        self._database.execute("DROP TABLE records")  # it had all fields side by side

    def _load(self, part: bytes, columns: dict[str, str], kinds: set[str]) -> None:
        """A field that in some record is of another type than FIELDS says makes its part be read as JSON, slower; what does not fit is then null."""
        read = "FROM read_json(?, format = 'newline_delimited', columns = ?, maximum_object_size = 1048576)"
        with _in_memory(part) as file:
            wanted = [file, columns, sorted(kinds)]
            try:
                self._database.execute(f"INSERT INTO records SELECT * {read} WHERE list_contains(?, kind)", wanted)
            except duckdb.InvalidInputException:
                values = ", ".join(_value(name, kind) for name, kind in columns.items())
                wanted[1] = dict.fromkeys(columns, "JSON")
                self._database.execute(f"INSERT INTO records SELECT {values} {read} WHERE list_contains(?, kind->>'$')", wanted)

    def _more(self, view: str) -> str:
        """The columns that a view has beside the others: scores and what came of them, or what stands for a person."""
        if self.personal:
            return {"generations": ", b.request->>'conversation' AS conversation", "replies": ", client_request"}.get(view, "")
        if view == "verdicts":
            return "".join(f", {name}" for name in self._scores if name != "peak")
        peak = ", e.peak" if "peak" in self._scores else ""
        return {"generations": peak, "replies": ", how, outcome, halted", "coverage": ", r.how, r.outcome"}.get(view, "")

    def _changes(self, sql: str) -> bool:
        """Whether a part of a SELECT would change what it reads."""
        (tree,) = self._database.execute("SELECT json_serialize_sql(?)", [sql]).fetchone() or ("",)
        return bool(re.search(r'"type":"(INSERT|UPDATE|DELETE|MERGE_INTO|MERGE)[A-Z_]*NODE"', tree)) or '"error":true' in tree[:20]

    @contextmanager
    def _asked(self, sql: str, before: str = "", behind: str = "") -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            statements = self._database.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT or self._changes(sql):
                raise QueryError("expected one SELECT: the ledger can be read, and nothing else")
            timer = threading.Timer(SECONDS, self._database.interrupt)
            timer.start()
            try:
                yield self._database.execute(before + statements[0].query.strip().rstrip(";") + f"\n{behind}")
            finally:
                timer.cancel()
        except duckdb.InterruptException:
            raise QueryError(f"broken off after {SECONDS:g} s; ask for less") from None
        except (OverflowError, UnicodeEncodeError, TypeError) as error:  # a value or a text that Python's own types do not hold
            raise QueryError(f"an answer that cannot be shown: {error}") from None
        except duckdb.Error as error:
            first, *more = str(error).strip().splitlines()
            hint = "".join(f"; {line.strip()}" for line in more if line.startswith("Candidate"))
            if isinstance(error, duckdb.CatalogException):
                hint = f"; there are the views {', '.join(VIEWS)}"
            raise QueryError(first + hint) from None


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """The path of a file that no disk has: records are not to lie about elsewhere, and a container's disk may be read-only."""
    number = os.memfd_create("records", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(number), "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _value(name: str, kind: str) -> str:
    """A field that was read as JSON, as SQL of its kind; null where it is of another."""
    if kind == "JSON":
        return f'"{name}"'
    return f'TRY_CAST("{name}" AS {kind})' if kind.endswith("[]") else f"""TRY_CAST("{name}"->>'$' AS {kind})"""


def _parts(folder: Path, kinds: set[str], sealed: bool) -> Iterator[bytes]:
    """The records of these kinds, a line each; also a few of others, whose inner objects name such a kind."""
    wanted = re.compile(b'"kind":"(?:%s)"' % "|".join(sorted(kinds)).encode()).search  # canonical JSON has no space there
    lines: list[bytes] = []
    size = 0
    reader = Reader(folder, sealed=sealed)
    try:
        while some := reader.take():
            found = [entry for entry in some if wanted(entry)]
            lines += found
            size += sum(map(len, found))
            if size >= PART:
                yield b"\n".join(lines)
                lines, size = [], 0
    finally:
        reader.close()
    if lines:
        yield b"\n".join(lines)


def filtered(view: str, where: dict[str, str], since: float | None, until: float | None, last: int) -> str:
    """SQL for the last rows of a view that match, without writing SQL. Raises QueryError."""
    if view not in VIEWS:
        raise QueryError(f"no view '{view}'; there are: {', '.join(VIEWS)}")
    at = {"generations": "began", "coverage": None}.get(view, "time")
    clauses = [f"{_name(name)} = {_text(value)}" for name, value in where.items()]
    for sign, moment in ((">=", since), ("<", until)):
        if moment is not None:
            if at is None:
                raise QueryError(f"{view} has no time; name generations, or write SQL")
            clauses.append(f"{at} {sign} make_timestamp({round(moment * 1e6)})")
    matching = f"SELECT * FROM {view}" + (f" WHERE {' AND '.join(clauses)}" if clauses else "")
    return f"{matching} ORDER BY {at} DESC LIMIT {last}" if at is not None else f"{matching} LIMIT {last}"


def _name(name: str) -> str:
    if not re.fullmatch(r"[a-z_]{1,64}", name):
        raise QueryError(f"'{name[:64]}' is no column")
    return f'"{name}"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
