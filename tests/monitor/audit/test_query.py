"""Questions to the ledger, and those that get no answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from monitor.audit import query
from monitor.audit.query import QueryError, Tables, filtered
from monitor.errors import BarographError
from tests.ledgers import ledger


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three generations: one whole, one with lost scores and a halt, one still open."""
    kept = ledger(tmp_path_factory.mktemp("query") / "l")
    about = {"model": "m", "tenant": "acme", "route": "/v1/chat/completions", "adapter": "", "engine": "e", "conversation": "c0ffee"}
    for name in ("a", "b", "c"):
        kept.append("stream", event="begin", stream=f"{name}#0", source="tap", rules="d1", request=about)
    kept.append(
        "verdict", event="fired", stream="b#0", position=3, rule="high", rules="d1", action="halt", mode="armed", shadow="", severity="critical",
        tags=["x"], signals={"panic.last": 4.5}, thresholds={"t": 3}, model_signal={"panic": [1, 4.5]}, desc="d", when="panic.last > 3",
    )  # fmt: skip
    kept.append("stream", event="end", stream="a#0", tokens=9, judged=9, dropped=0, gap=False, nan=False, peak={"panic": 1.5})
    kept.append("stream", event="end", stream="b#0", tokens=9, judged=4, dropped=5, gap=True, nan=False, peak={"panic": 4.5})
    for name, halted in (("a", []), ("b", ["high"])):
        kept.append("reply", request=name, how="judged", outcome="ended", status=200, tokens=4, early=0, streams=[f"{name}#0"], halted=halted, client_request="f00d")  # fmt: skip
    kept.append("command", id="1", issuer="ann", via="api", verb="stop", about="tenant", name="acme", reason="a test", outcome="done")
    kept.append("custody", event="held", by="bob", reason="a court", name="case")
    kept.append("failure", stream="b#0", condition="missing_score", why="late", decision="closed")
    kept.append("reroute", event="intent", request="b", stream="b#0", rule="high", to="safe", do="continue", why="")
    kept.append("tenant", event="throttled", tenant="acme", rule="high", why="w")
    kept.append("steer", event="began", stream="b#0", source="tap", rule="high", position=3, probe="panic", dose=-0.1, wanted=8)
    kept.append("gap", source="tap", frames=2)
    kept.append("command", id="2", issuer="ann", via="api", verb="stop", about="all", name="", reason="r", outcome="done", streams=3)
    kept.append("noise", said={"kind": "verdict", "rule": "not one"})
    kept.close()
    return kept.path


def ask(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    tables = Tables(folder, sql)
    try:
        return tables.ask(sql)[1]
    finally:
        tables.close()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT stream, state, tokens, judged, dropped, gap FROM generations ORDER BY 1", [("a#0", "end", 9, 9, 0, False), ("b#0", "end", 9, 4, 5, True), ("c#0", "open", None, None, None, None)]),
        ("SELECT (peak->>'panic')::DOUBLE, model, tenant FROM generations WHERE stream = 'b#0'", [(4.5, "m", "acme")]),
        ("SELECT stream, delivered, early, whole FROM coverage ORDER BY 1", [("a#0", 4, 0, True), ("b#0", 4, 0, False), ("c#0", None, None, False)]),
        ("SELECT rule, action, mode, position, tags, signals->>'$.\"panic.last\"' FROM verdicts", [("high", "halt", "armed", 3, ["x"], "4.5")]),
        ("SELECT action, event, stream, rule, did, target, tenant, dose FROM actions ORDER BY seq", [
            ("halt", "ended", "b#0", "high", None, None, None, None), ("reroute", "intent", "b#0", "high", "continue", "safe", None, None),
            ("tenant", "throttled", None, "high", None, None, "acme", None), ("steer", "began", "b#0", "high", None, None, None, -0.1),
        ]),
        ("SELECT who, what, about, reason FROM operators ORDER BY seq", [("ann", "stop", "tenant acme", "a test"), ("bob", "held", "case", "a court"), ("ann", "stop", "all ", "r")]),
        ("SELECT kind, condition, decision, frames FROM failures ORDER BY seq", [("failure", "missing_score", "closed", None), ("gap", None, None, 2)]),
        ("SELECT request, halted FROM replies ORDER BY 1", [("a", []), ("b", ["high"])]),
        ("FROM verdicts SELECT count(*);", [(1,)]),
        ("WITH bad AS (SELECT * FROM coverage WHERE NOT whole) SELECT count(*) FROM bad JOIN generations USING (stream)", [(2,)]),
    ],
)  # fmt: skip
def test_answers(folder: Path, sql: str, expected: list[tuple[Any, ...]]) -> None:
    assert ask(folder, sql) == expected


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT 1", "no view is named; there are: generations"),
        ("DROP VIEW verdicts", "expected one SELECT"),
        ("SELECT * FROM verdicts; SELECT 1", "expected one SELECT"),
        ("COPY verdicts TO '/tmp/x'", "expected one SELECT"),
        ("INSERT INTO verdicts VALUES (1)", "expected one SELECT"),
        ("SELECT * FROM verdicts, read_csv('/etc/passwd')", "Permission Error"),
        ("SELECT * FROM verdicts, '/etc/passwd'", "there are the views"),
        ("SELECT nope FROM verdicts", "nope"),
        ("SELEKT * FROM verdicts", "syntax error"),
        ("WITH x AS (UPDATE verdicts SET rule = 'innocent' RETURNING rule) SELECT * FROM x, verdicts", "expected one SELECT"),
        ("WITH x AS (DELETE FROM verdicts RETURNING rule) SELECT * FROM x", "expected one SELECT"),
        ("WITH x AS (INSERT INTO verdicts BY NAME SELECT 'a' AS rule RETURNING rule) SELECT * FROM x", "expected one SELECT"),
        ("SELECT * FROM records, verdicts", "records does not exist"),
        ("SELECT INTERVAL '1000000000 days' FROM verdicts", "cannot be shown"),
        ("SELECT '\ud800' FROM verdicts", "cannot be shown"),
    ],
)
def test_refusals(folder: Path, sql: str, why: str) -> None:
    with pytest.raises(QueryError, match=why):
        ask(folder, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT client_request, avg((peak->>'panic')::DOUBLE) FROM generations, replies GROUP BY 1",
        "SELECT conversation, max(peak) FROM generations GROUP BY 1",
        "SELECT Conversation, count(*) FROM generations JOIN verdicts USING (stream) GROUP BY 1",
        'SELECT "client_request", r.rule FROM replies JOIN verdicts r ON true',
        "SELECT * FROM generations JOIN verdicts USING (stream) /* conversation */",
        "SELECT conversation, halted FROM actions, generations",
        "SELECT client_request, halted FROM replies",
        "SELECT client_request, outcome FROM replies",
        "SELECT conversation, how FROM generations JOIN coverage USING (stream)",
        "SELECT r.request, g.peak FROM records r JOIN generations g USING (stream) WHERE r.event = 'begin'",
        "SELECT r.request->>('conver' || 'sation'), avg((g.peak->>'panic')::DOUBLE) FROM records r JOIN generations g USING (stream) GROUP BY 1",
        "SELECT r.request, v.rule FROM records r, verdicts v, generations WHERE r.stream = v.stream",
    ],
)
def test_no_score_is_told_by_natural_person(folder: Path, sql: str) -> None:
    with pytest.raises(QueryError, match=r"refused|peak|Referenced|records does not exist"):
        ask(folder, sql)


def test_a_star_never_shows_a_person_beside_scores(folder: Path) -> None:
    for view in query.VIEWS:
        columns = set(Tables(folder, f"FROM {view}").ask(f"FROM {view}")[0])
        assert not columns & set(query.PERSONAL), view
    for view in ("generations", "replies"):
        sql = f"SELECT *, 'conversation' AS x FROM {view}"
        columns = set(Tables(folder, sql).ask(sql)[0])
        assert columns & set(query.PERSONAL)
        assert not columns & set(query.SCORES)
    assert ask(folder, "SELECT conversation, count(*) FROM generations GROUP BY 1") == [("c0ffee", 3)]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_results_go_into_new_files(folder: Path, tmp_path: Path, form: str) -> None:
    out, sql = tmp_path / f"o'ut.{form}", "SELECT rule, position FROM verdicts -- a remark"
    tables = Tables(folder, sql, out)
    assert tables.write(sql + "\n", out, form) == 1
    with pytest.raises(QueryError, match="Permission"):
        tables.write(sql + "\n", tmp_path / "other", form)
    with pytest.raises(QueryError, match="expected a new file"):
        Tables(folder, sql, out)
    assert duckdb.sql(f"SELECT rule, position FROM '{str(out).replace(chr(39), chr(39) * 2)}'").fetchall() == [("high", 3)]


def test_filters_without_sql(folder: Path) -> None:
    sql = filtered("verdicts", {"rule": "high"}, 0, 4e9, 10)
    assert len(ask(folder, sql)) == 1
    assert ask(folder, filtered("verdicts", {"rule": "x' OR 'a' = 'a"}, None, None, 10)) == []
    assert len(ask(folder, filtered("coverage", {"whole": "true"}, None, None, 10))) == 1
    for view, where, since in (("nope", {}, None), ("verdicts", {"a b": "1"}, None), ("coverage", {}, 1.0)):
        with pytest.raises(QueryError):
            filtered(view, where, since, None, 10)


def test_a_stream_that_is_told_of_twice_is_one_generation(tmp_path: Path) -> None:
    """A sidecar that comes back ends what it finds, and the tap that still runs it begins it anew."""
    kept = ledger(tmp_path / "l")
    for event, tokens in (("begin", None), ("lost", None), ("begin", None), ("end", 10)):
        kept.append("stream", event=event, stream="s#0", tokens=tokens, judged=3, dropped=0, gap=False, nan=False, request={})
    for turn in range(2):
        kept.append("reply", request="s", how="judged", outcome="ended", tokens=turn, early=0, streams=["s#0"], halted=[])
    kept.flush()
    assert ask(kept.path, "SELECT state, tokens FROM generations") == [("end", 10)]
    assert ask(kept.path, "SELECT delivered, whole FROM coverage") == [(1, False)]  # of ten tokens three were judged


def test_what_no_checkpoint_covers_is_left_out_where_that_is_asked(tmp_path: Path) -> None:
    """Whoever has the disk can write behind a checkpoint: on a copy no signature vouches for that."""
    kept = ledger(tmp_path / "l", checkpoint_s=600)
    for turn in range(5):
        kept.append("failure", condition="c", decision="open")
        if turn == 2:
            kept.seal()
    kept.flush()
    sql = "SELECT count(*) FROM failures"
    assert ask(kept.path, sql) == [(5,)]
    tables = Tables(kept.path, sql, sealed=True)
    assert tables.ask(sql)[1] == [(3,)]


def test_rows_have_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MOST_ROWS", 1000)
    with pytest.raises(QueryError, match="more than 1000 rows"):
        ask(folder, "SELECT range FROM range(20000), verdicts")


def test_nothing_spills_to_the_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(query, "MEMORY", "20MB")
    with pytest.raises(QueryError, match="Out of Memory"):
        ask(folder, "SELECT count(*) FROM (SELECT DISTINCT range || rule AS x FROM range(5000000), verdicts)")
    assert list(tmp_path.iterdir()) == []


def test_a_query_has_an_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "SECONDS", 0.3)
    with pytest.raises(QueryError, match=r"broken off after 0.3 s"):
        ask(folder, "SELECT count(*) FROM range(10000000) a, range(10000000) b, verdicts WHERE a.range + b.range = 7")


def test_a_field_of_another_type_spoils_nothing(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("failure", condition="good", why="x", decision="open", frames=1)
    kept.append("failure", condition=["odd"], why={"a": 1}, decision="open", frames="many")
    kept.append("stream", event="lost", stream="s#0", tokens="?")
    kept.flush()
    assert ask(kept.path, "SELECT kind, condition, frames FROM failures ORDER BY seq") == [
        ("failure", "good", 1), ("failure", '["odd"]', None), ("stream", None, None),
    ]  # fmt: skip


def test_what_is_no_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(BarographError, match="no such ledger"):
        Tables(tmp_path / "nope", "FROM verdicts")


def test_records_are_read_as_they_lie_sealed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PART", 1000)
    kept = ledger(tmp_path / "l", checkpoint_s=600)
    for i in range(1500):
        kept.append("failure", condition="c", why=json.dumps({"i": i}), decision="open")
        if i == 1000:
            kept.seal()
    kept.flush()
    assert ask(kept.path, "SELECT count(*), count(DISTINCT why) FROM failures") == [(1500, 1500)]
