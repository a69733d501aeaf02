"""The command line. Imports are inside the commands, so that a sidecar never loads torch."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monitor import __version__, packaged
from monitor.commands import custody, evidence, orders  # noqa: F401  # the first two add their commands to audit's
from monitor.commands.audit import app as audit_app
from monitor.commands.extras import missing
from monitor.commands.grafana import app as grafana_app
from monitor.commands.probes import app as probes_app
from monitor.commands.rules import app as rules_app
from monitor.commands.topics import app as topics_app
from monitor.commands.trust import app as trust_app
from monitor.errors import BarographError

if TYPE_CHECKING:
    from monitor.config import Config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Barograph watches the pressure inside a language model, token by token.",
)
app.add_typer(probes_app, name="probes")
app.add_typer(rules_app, name="rules")
app.add_typer(audit_app, name="audit")
app.add_typer(topics_app, name="topics")
app.add_typer(grafana_app, name="grafana")
app.add_typer(trust_app, name="trust")
engine_app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
app.add_typer(engine_app, name="engine")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="BAROGRAPH_CONFIG", help="The YAML configuration; without it, the defaults.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help=f"A checkpoint folder, a Hugging Face id, or one of {packaged.NAMES}.")
]
BankOption = Annotated[Path | None, typer.Option("--bank", help="A bank's folder; by default the one shipped for the model.")]
SignedOption = Annotated[bool, typer.Option("--require-signed", help="Refuse a bank or rules that no key of trust.keys has signed.")]


def main() -> None:
    """Run the command line. Mendable errors are one line and exit code 2."""
    from probes.bank import BankError
    from rules.document import DocumentError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "kafka", "ContinuousBatchingLogger"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except (BarographError, BankError, DocumentError) as error:
        print(f"barograph: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (said := missing(error)) is None:
            raise
        print(f"barograph: {said}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _config(path: Path | None, model: str | None, bank: Path | None, signed: bool = False) -> Config:
    from monitor.config import Config

    config = Config.load(path)
    changes: dict[str, Any] = {}
    if model is not None:
        changes["engine"] = config.engine.model_copy(update={"model": model})
    if bank is not None:
        changes["tap"] = config.tap.model_copy(update={"bank": bank})
    if signed:
        if not config.trust.keys:
            raise BarographError(
                "--require-signed without trust.keys; expected the public keys of those who may sign, in the configuration"
            )
        changes["trust"] = config.trust.model_copy(update={"require_signed": True})
    return config.model_copy(update=changes)


def _limits() -> None:
    """A crash leaves no picture of the memory: prompts are in it, and tokens. And a thousand connections must not take the files that the ledger needs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if show:
        print(f"barograph {__version__}")
        raise typer.Exit


@app.command()
def up(config: ConfigOption = None, model: ModelOption = None, bank: BankOption = None) -> None:
    """Start engine and sidecar, and print where they are."""
    from monitor.commands.up import Up

    sys.exit(Up(_config(config, model, bank), config, model, bank).run())


@engine_app.callback()
def engine(
    context: typer.Context, config: ConfigOption = None, model: ModelOption = None, bank: BankOption = None, signed: SignedOption = False
) -> None:
    """Serve a model with the tap inside (one process of `up`)."""
    _limits()
    settings = _config(config, model, bank, signed)
    if context.invoked_subcommand is not None:
        context.obj = (settings, config)
        return
    from monitor.engine.run import run

    asyncio.run(run(settings, lambda text: print(text, flush=True)))


@engine_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def vllm(context: typer.Context) -> None:
    """Serve with vLLM instead: barograph engine --config FILE vllm -- MODEL [any argument of vllm serve]."""
    settings, path = context.obj
    from monitor.engine.vllm import serve

    sys.exit(serve(settings, path, context.args))


@app.command("verify-tap", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def verify_tap(
    context: typer.Context,
    config: ConfigOption = None,
    bank: BankOption = None,
    reference: Annotated[str | None, typer.Option(help="The checkpoint for transformers; by default the model that vLLM serves.")] = None,
    rounds: Annotated[int, typer.Option(min=2, max=1000, help="Pairs of timed rounds; more narrow the interval of the cost.")] = 10,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the proof goes; name it as tap.verified.")] = Path("engine-passport.json"),
) -> None:
    """Check the tap on this machine's vLLM: barograph verify-tap --config FILE -- MODEL [any argument of vllm serve].

    Runs vLLM with the tap and beside it without; on a GPU the two share its memory. Exit code 1 when a check fails.
    """
    settings = _config(config, None, bank)
    if not context.args or context.args[0].startswith("-"):
        raise BarographError("name the model first, as for vllm serve: barograph verify-tap --config FILE -- MODEL [arguments]")
    from monitor.commands import verify_tap as verify
    from monitor.commands.progress import Saying

    verification = verify.Verification(settings, context.args[0], context.args[1:], reference, Saying(sys.stdout, "… "), rounds)
    proof, hello = verification.run()
    print(verify.report(proof, hello))
    proof.save(out)
    print(f"written: {out}" + (f"; name it as tap.verified: {out}" if proof.ok else ""))
    sys.exit(0 if proof.ok else 1)


@app.command()
def sidecar(config: ConfigOption = None, model: ModelOption = None, bank: BankOption = None, signed: SignedOption = False) -> None:
    """Judge scores and serve the gateway (the other process of `up`)."""
    import uvloop

    from monitor.sidecar import run

    _limits()
    uvloop.run(run(_config(config, model, bank, signed)))


for command in (
    orders.stop,
    orders.resume,
    orders.throttle,
    orders.lift,
    orders.arm,
    orders.disarm,
    orders.release,
    orders.freeze,
    orders.thaw,
    orders.orders,
):
    app.command()(command)


@app.command()
def watch(
    config: ConfigOption = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead, for scripts.")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Watch until --seconds are over, then save the fullest picture as SVG.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, help="Stop after so long.")] = None,
) -> None:
    """Watch running generations live: one line a stream, scores as sparklines, verdicts in colour."""
    from monitor.commands.watch import watch as run

    run(_config(config, None, None), once, svg, seconds, as_json)


@app.command()
def tail(
    ledger: Annotated[Path | None, typer.Argument(help="The ledger's folder; by default the configured one.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule; may be given often, as those below.")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant.")] = None,
    served: Annotated[list[str] | None, typer.Option("--model", help="Only this model.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="Only verdicts with this action.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only records of this kind: verdict, failure, steer, reroute, tenant, command.")
    ] = None,
    mode: Annotated[str, typer.Option(help="armed or shadow.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many of the last ones.")] = 20,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f", help="Go on with what comes, until Ctrl-C.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts.")] = False,
    config: ConfigOption = None,
) -> None:
    """Print what rules say and what is done about it, as it is recorded, with the tenant and the model."""
    from monitor.commands.tail import KINDS, Wanted
    from monitor.commands.tail import tail as run

    unknown = [each for each in kind or () if each not in KINDS]
    if unknown or mode not in ("", "armed", "shadow"):
        raise BarographError(
            f"'{unknown[0] if unknown else mode}' is unknown; supported are {', '.join(KINDS) if unknown else 'armed, shadow'}"
        )
    wanted = Wanted(tuple(rule or ()), tuple(tenant or ()), tuple(served or ()), tuple(action or ()), mode, tuple(kind or KINDS))
    run(ledger or _config(config, None, None).sidecar.ledger, wanted, count, follow, as_json)


@app.command()
def idle(
    seconds: Annotated[float, typer.Option("--seconds", min=0, max=3600, help="How long to wait.")] = 30.0,
    admin: Annotated[str | None, typer.Option("--admin", help="HOST:PORT of the admin address; by default the configured one.")] = None,
    config: ConfigOption = None,
) -> None:
    """Wait until no reply runs, as before an engine is stopped. Exit code 1 when the time is over first."""
    from monitor.commands.idle import idle as run
    from monitor.commands.idle import near_of

    sys.exit(0 if run(near_of(_config(config, None, None), admin), seconds) else 1)


@app.command()
def demo(config: ConfigOption = None) -> None:
    """Send ten varied chats through the gateway and show which tokens rose."""
    from monitor.commands.demo import demo as run

    sys.exit(run(_config(config, None, None)))


@app.command()
def doctor(config: ConfigOption = None, model: ModelOption = None, bank: BankOption = None) -> None:
    """Say what is missing on this machine and how to get it."""
    from monitor.commands.doctor import doctor as run

    sys.exit(run(_config(config, model, bank)))
