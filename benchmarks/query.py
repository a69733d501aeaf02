"""Questions to a ledger of a million records: from opening it to the answer, in this process. Goal: 2 s.

Three records a generation (begin, end, reply), a verdict in a hundred of them. Run with nothing else on the machine: python -m benchmarks.query
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks import report
from monitor.audit.ledger import Ledger
from monitor.audit.note import LocalSigner
from monitor.audit.query import Tables
from monitor.audit.report import ask

RECORDS = 1_000_000
ROUNDS = 3
QUESTIONS = {
    "verdicts by rule": "SELECT rule, mode, count(*) FROM verdicts GROUP BY ALL",
    "coverage": "SELECT count(*), count(*) FILTER (NOT whole) FROM coverage",
    "peaks by model": "SELECT model, quantile_cont((peak->>'panic')::DOUBLE, 0.99) FROM generations GROUP BY 1",
    "replies by outcome": "SELECT how, outcome, count(*) FROM replies GROUP BY ALL",
    "failures": "SELECT condition, count(*) FROM failures GROUP BY 1",
    "what operators did": "SELECT who, what, reason FROM operators",
}


def fill(ledger: Ledger) -> None:
    about = {"model": "m", "tenant": "acme", "route": "/v1/chat/completions", "adapter": "", "engine": "vllm"}
    peak = {"desperation": 1.234, "panic": 0.5, "hostility": -0.2, "frustration": 0.7, "calm": 1.0, "valence": 0.3, "arousal": 2.0}
    number = 0
    while ledger.newest + 1 < RECORDS:
        name, number = f"chatcmpl-{number:032x}", number + 1
        stream = f"{name}#0"
        ledger.append("stream", event="begin", stream=stream, source="tap-1", rules="ab" * 32, request=about)
        ledger.append("stream", event="end", stream=stream, source="tap-1", rules="ab" * 32, tokens=100, judged=100, dropped=0, gap=False, nan=False, peak=peak)  # fmt: skip
        ledger.append("reply", request=name, route=about["route"], how="judged", outcome="ended", status=200, tokens=100, early=0, held=0.001, choices=1, streams=[stream], halted=[], course={"0": ["held", "ended"]}, client_request="")  # fmt: skip
        if number % 33 == 0:
            ledger.append("verdict", event="fired", stream=stream, source="tap-1", position=5, rule="rule", rules="ab" * 32, action="alert", mode="shadow", shadow="rule", severity="warning", tags=[], when="panic.last > 3", signals={"panic.last": 3.2}, model_signal={probe: [0.1] * 32 for probe in peak})  # fmt: skip
        while ledger.waiting > 30_000:
            time.sleep(0.01)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger"
        ledger = Ledger(path, [LocalSigner("example.com/barograph", bytes(32))], "async")
        fill(ledger)
        ledger.close()
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        seconds: dict[str, float] = {}
        for name, sql in QUESTIONS.items():
            taken = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                tables = Tables(path, sql)
                tables.ask(sql)
                tables.close()
                taken.append(time.perf_counter() - started)
            seconds[name] = round(sorted(taken)[ROUNDS // 2], 2)
        started = time.perf_counter()
        ask(path, 0, 4e9)
        report.emit(
            "query",
            records=ledger.newest + 1,
            mib=round(size / 2**20),
            median_s=seconds,
            all_of_a_report_s=round(time.perf_counter() - started, 1),
        )


if __name__ == "__main__":
    main()
