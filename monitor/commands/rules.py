"""`barograph rules`: check, test, replay, explain and export rules, without a running sidecar."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.errors import BarographError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Rules: check, test, replay, explain, export.")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="BAROGRAPH_CONFIG", help="The YAML configuration; without it, the defaults.")
]
BankOption = Annotated[
    Path | None, typer.Option("--bank", help="The bank whose probes and thresholds are meant; by default the configured one.")
]
RulesOption = Annotated[str | None, typer.Option("--rules", "-r", help="A rule file, or a pack by name; by default the configured one.")]


def _probes(config: Path | None, bank: Path | None) -> tuple[Any, ...]:
    from monitor.config import Config
    from monitor.pipeline.rulefiles import facts
    from probes.bank import Bank

    settings = Config.load(config)
    return facts(Bank.load(bank).select(settings.tap.probes) if bank is not None else settings.load_bank())


def _ruleset(config: Path | None, rules: str | None) -> Any:
    from monitor.config import Config
    from monitor.pipeline.rulefiles import load

    settings = Config.load(config)
    return load(Path(rules) if rules is not None else settings.rules, settings.trust.plain)


@app.command()
def check(rules: RulesOption = None, config: ConfigOption = None, bank: BankOption = None) -> None:
    """Read a rule file as a sidecar would, and list what it says. Exit code 2 when it is refused."""
    from rich.console import Console
    from rich.table import Table

    from monitor.config import Config
    from monitor.pipeline.rulefiles import abilities
    from rules.engine import RuleEngine
    from rules.fleet import prometheus

    ruleset = _ruleset(config, rules)
    engine = RuleEngine(ruleset, _probes(config, bank), abilities(Config.load(config)))
    prometheus(ruleset)
    table = Table(box=None, pad_edge=False)
    for column in ("rule", "action", "mode", "maturity", "severity", "when"):
        table.add_column(column, overflow="fold")
    for rule in ruleset.rules:
        table.add_row(rule.rule, rule.action.name.lower(), rule.mode, rule.maturity, rule.severity, rule.when)
    console = Console(soft_wrap=False)
    console.print(table)
    console.print(
        f"{len(ruleset.rules)} rules, {len(ruleset.fleet)} fleet rules, digest {ruleset.digest[:12]}, {engine.bytes_a_stream} bytes of state a stream",
        highlight=False,
    )


@app.command()
def schema() -> None:
    """Print the JSON Schema of rule files, for an editor."""
    from rules.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command("test")
def run_tests(
    files: Annotated[list[Path], typer.Argument(help="Test files; see docs/rules.md.")],
    require_all: Annotated[bool, typer.Option("--require-all", help="Fail when a rule has no test that expects it to fire.")] = False,
    config: ConfigOption = None,
    bank: BankOption = None,
) -> None:
    """Run tests of rules: score series in, expected verdicts out. Exit code 1 when one differs."""
    from monitor.config import read_text
    from monitor.pipeline.rulefiles import find, load
    from rules import testing
    from rules.document import parse

    probes = _probes(config, bank)
    failed = total = 0
    covered: dict[str, tuple[Any, list[Any]]] = {}
    for path in files:
        file = parse(read_text(path), testing.RuleTests, str(path))
        ruleset = load(find(file.rules, str(path)))
        covered.setdefault(ruleset.name, (ruleset, []))[1].append(file)
        for outcome in testing.run(file, ruleset, probes, str(path)):
            total += 1
            failed += not outcome.ok
            print(f"{'ok  ' if outcome.ok else 'FAIL'}  {path}: {outcome.name}")
            for line in outcome.difference:
                print(f"      {line}")
    for ruleset, tests in covered.values():
        for rule, tested in testing.coverage(tests, ruleset).items():
            if not tested:
                print(f"{'FAIL' if require_all else 'note'}  {ruleset.name}: rule '{rule}' has no test that expects it to fire")
                failed += require_all
    print(f"{total} tests, {failed} failed")
    sys.exit(1 if failed else 0)


@app.command()
def replay(
    source: Annotated[str, typer.Argument(help="A ledger, a .parquet file, or kafka://host:port/topic.")],
    rules: RulesOption = None,
    against: Annotated[str | None, typer.Option(help="The rules to compare with; by default the configured ones.")] = None,
    max_fires_per_1k_tokens: Annotated[
        float | None, typer.Option(min=0, help="Exit code 1 when a rule of the candidate fires more often than this.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (.png or .svg) as well; needs matplotlib.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    config: ConfigOption = None,
    bank: BankOption = None,
) -> None:
    """Run candidate rules over recorded scores: what would have fired, where, how often, against the present rules."""
    from monitor.audit.recordings import recordings
    from monitor.commands import replay as replaying
    from rules.engine import RuleEngine
    from rules.replay import replay as run

    probes = _probes(config, bank)
    recorded = recordings(source, tuple(each.name for each in probes))
    candidate, present = (run(RuleEngine(_ruleset(config, each), probes), recorded) for each in (rules, against))
    if as_json:
        print(json.dumps(replaying.summary(candidate, present), indent=2))
    else:
        replaying.show(candidate, present, recorded)
    if plot is not None:
        replaying.draw(candidate, present, plot)
    limit = max_fires_per_1k_tokens
    over = [rule for rule in candidate.rules if limit is not None and candidate.per_thousand(rule) > limit]
    for rule in over:
        print(f"FAIL  {rule} fires {candidate.per_thousand(rule):.3g} times in 1,000 tokens; at most {limit:g} is allowed", file=sys.stderr)
    sys.exit(1 if over else 0)


@app.command()
def explain(
    verdict: Annotated[str, typer.Argument(help="The verdict's number in the ledger (its seq), or 'last'.")],
    ledger: Annotated[Path | None, typer.Option(help="The ledger; by default the configured one.")] = None,
    config: ConfigOption = None,
) -> None:
    """Print why a rule fired, in one screen: condition, values, thresholds, and the last scores."""
    from monitor.commands.explain import explain as run
    from monitor.config import Config

    run(verdict, ledger or Config.load(config).sidecar.ledger)


@app.command("export-prometheus")
def export_prometheus(
    rules: RulesOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to; by default to the standard output.")] = None,
    config: ConfigOption = None,
) -> None:
    """Print recording and alerting rules for Prometheus: one alert for each rule, health, and the fleet rules."""
    import yaml

    from rules.fleet import prometheus

    text = yaml.safe_dump(prometheus(_ruleset(config, rules)), sort_keys=False, allow_unicode=True, width=10_000)
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise BarographError(f"cannot write {out} ({error.strerror})") from None


@app.command()
def record(
    source: Annotated[str, typer.Argument(help="A ledger with recorded scores, or kafka://host:port/topic.")],
    out: Annotated[Path, typer.Argument(help="The .parquet file to write.")],
    config: ConfigOption = None,
    bank: BankOption = None,
) -> None:
    """Copy recorded scores into a Parquet file: one row a token, for replay and for notebooks."""
    from monitor.audit.recordings import recordings, write_parquet

    probes = tuple(each.name for each in _probes(config, bank))
    found = recordings(source, probes)
    write_parquet(out, found, probes)
    print(f"{out}: {sum(len(each.scores) for each in found)} tokens of {len(found)} streams")
