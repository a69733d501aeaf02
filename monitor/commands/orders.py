"""`barograph stop`, `resume`, `throttle`, `lift`, `arm`, `disarm`, `release`, `freeze`, `thaw` and `orders`: commands to a running sidecar, each with a reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.errors import BarographError

ANSWER_S = 30.0  # a stop waits for the engine to end what it ran

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="BAROGRAPH_CONFIG", help="The YAML configuration; without it, the defaults.")
]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why: the ledger keeps it with your name.")]
AllOption = Annotated[bool, typer.Option("--all", help="Everything that this sidecar guards.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="The requests of one tenant.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="The requests for one model, by the name that clients use.")]
StreamOption = Annotated[str | None, typer.Option("--stream", help="One running generation, by its name in `watch`, or in a verdict.")]
RuleArgument = Annotated[str, typer.Argument(help="The rule's name.")]


def stop(
    reason: ReasonOption, all_: AllOption = False, tenant: TenantOption = None, model: ModelOption = None, stream: StreamOption = None,
    config: ConfigOption = None,
) -> None:  # fmt: skip
    """End matching generations now, and refuse new ones until `resume`. The ledger keeps who and why."""
    done = _command(config, "stop", reason, all=all_ or None, tenant=tenant, model=model, stream=stream)
    left = done["still_running"]
    print(f"stopped: {done['streams']} running generations were ended" + (f"; {left} of them still run in the engine" if left else ""))
    if stream is None:
        print("new ones are refused until: barograph resume")


def resume(
    reason: ReasonOption, all_: AllOption = False, tenant: TenantOption = None, model: ModelOption = None, config: ConfigOption = None
) -> None:
    """Take a stop back."""
    print(f"resumed; it was stopped by {_command(config, 'resume', reason, all=all_ or None, tenant=tenant, model=model)['was']}")


def throttle(
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant.")],
    reason: ReasonOption,
    requests_per_minute: Annotated[float | None, typer.Option(help="How many it may ask for.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="How many at the same time.")] = None,
    config: ConfigOption = None,
) -> None:
    """Limit what a tenant may ask for, until `lift`."""
    limits = {"requests_per_minute": requests_per_minute, "concurrency": concurrency}
    _command(config, "throttle", reason, tenant=tenant, limits={name: value for name, value in limits.items() if value is not None})
    print(f"throttled until: barograph lift --tenant {tenant}")


def lift(tenant: Annotated[str, typer.Option("--tenant", help="The tenant.")], reason: ReasonOption, config: ConfigOption = None) -> None:
    """Take all limits off a tenant: those given by hand, and those of rules until they fire again."""
    print(f"lifted: {_command(config, 'lift', reason, tenant=tenant)['lifted']}")


def arm(rule: RuleArgument, reason: ReasonOption, config: ConfigOption = None) -> None:
    """Let a rule act, whatever its file says, until `release`."""
    _modes(_command(config, "arm", reason, rule=rule))


def disarm(rule: RuleArgument, reason: ReasonOption, config: ConfigOption = None) -> None:
    """Put a rule in shadow, whatever its file says, until `release`."""
    _modes(_command(config, "disarm", reason, rule=rule))


def release(rule: RuleArgument, reason: ReasonOption, config: ConfigOption = None) -> None:
    """Give a rule the mode of its file back."""
    _modes(_command(config, "release", reason, rule=rule))


def freeze(reason: ReasonOption, config: ConfigOption = None) -> None:
    """Block reloads of rules, and purges and erasures of the ledger, until `thaw`."""
    print(f"frozen: {_command(config, 'freeze', reason)['frozen']}")


def thaw(reason: ReasonOption, config: ConfigOption = None) -> None:
    """Take a freeze back, also one that an incident brought."""
    _command(config, "thaw", reason)
    print("thawed")


def orders(config: ConfigOption = None) -> None:
    """List the stops, throttles and modes that stand, and the targets of re-routes."""
    found = ask(config, "GET", "/orders")
    if found["broken"]:
        print(f"everything is stopped: {found['broken']}")
    for order in found["orders"]:
        print(f"{order['verb']} {order['kind']} {order['name']}".rstrip() + f": by {order['by']}: {order['reason']}")
    for each in found["throttled"]:
        if each["by"] != "order":
            print(f"throttle tenant {each['tenant'] or '(none named)'}: by rule {each['by']}: {each['why']} ({each['refused']} refused)")
    for name, target in found["targets"].items():
        print(
            f"target {name}: {target['state']}, judged {target['judged']}, {'goes on' if target['continues'] else 'does not go on'} from a prefix"
        )
    if not (found["orders"] or found["throttled"] or found["targets"] or found["broken"]):
        print("nothing is stopped or throttled")


def _modes(done: dict[str, Any]) -> None:
    print("changed by hand or by alerts: " + (", ".join(f"{rule} is {mode}" for rule, mode in done["modes"].items()) or "no rule"))


def _command(config: Path | None, verb: str, reason: str, **about: Any) -> dict[str, Any]:
    said = {"verb": verb, "reason": reason, **{name: value for name, value in about.items() if value is not None}}
    return ask(config, "POST", "/commands", said)


def ask(config: Path | None, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Raises BarographError with what the sidecar says when it refuses."""
    import httpx

    from monitor.admin.access import TOKEN
    from monitor.config import Config

    near = Config.load(config).sidecar.near
    url = near.url(path)
    headers = {"authorization": f"Bearer {token}"} if (token := os.environ.get(TOKEN)) else {}
    try:
        answer = httpx.request(method, url, json=body, headers=headers, timeout=ANSWER_S, verify=near.trust, trust_env=False)
        said = answer.json()
    except httpx.HTTPError as error:
        raise BarographError(f"no sidecar answers at {url} ({type(error).__name__}); start one with: barograph up") from None
    except ValueError:
        raise BarographError(f"{url} answered with status {answer.status_code} and no JSON; expected a sidecar's admin address") from None
    if answer.status_code != 200 or not isinstance(said, dict):
        raise BarographError(f"refused: {said.get('error', '') if isinstance(said, dict) else answer.status_code}")
    return said
