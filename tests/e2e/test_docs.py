"""What our pages tell people to type, typed: beside a sidecar under load, in the order in which it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs import PAGES, ROOT, typed
from tests.load import Load
from tests.stack import ADMIN_TOKEN, Stack, environment, eventually

# What cannot be typed here, and who types it instead.
ELSEWHERE = {
    r"^make run": "tests/e2e/test_cli.py starts it by `barograph up`; the README's first line is what CI ends in",
    r"barograph up\b|barograph up --model": "tests/e2e/test_cli.py",
    r"vllm serve|verify-tap|barograph sidecar --config /etc": "tests/vllm",
    r"barograph probes (fit|eval|validate|compare)": "tests/e2e/test_probes.py, with a model",
    r"pip install|python3\.11 -m venv": "deploy/smoke.sh and tests/images install the wheel",
    r"grafana provision": "tests/monitor/grafana/test_provision.py; no Grafana can be had",
    r"^helm |kubectl": "tests/cluster",
    r"systemctl|systemd-|runuser|/etc/|/var/|/opt/|chown|^until curl|^install |umask": "tests/deploy/test_systemd.py; a machine's own init is not run in tests",
    r"docker|skopeo|make images": "tests/images and tests/deploy/test_compose.py; there is no container engine here",
    r"^make (wheel|release|test|soak|abuse|audit|docs)": "targets of the Makefile, which CI runs",
    r"audit content|audit erase": "tests/e2e/test_evidence.py, with content that is kept",
    r"audit witness": "tests/monitor/audit/test_witness.py",
    r"audit tail -f|python -m tests\.abuse|pre-commit|openssl rand": "never ends, or is no command of ours",
}
QUIET = "rules: [{rule: loud, desc: d, when: panic.last > 11.9, do: alert, mode: armed}]\n"
RULES = """
rules:
- {rule: desperation_spike_site, desc: d, when: desperation.last > 1, do: alert, mode: armed}
- {rule: each, desc: d, when: panic.last > -99, do: alert, mode: armed}
"""
TEST = """
rules: site.yaml
tests:
- {name: it rises, scores: {desperation: 0*4 4*4, panic: 0*8}, expect: [{rule: desperation_spike_site, at: 4}, {rule: each, at: 0}]}
"""


@dataclass(frozen=True)
class Reader:
    """Where one sits. `seq`: a record of a verdict."""

    folder: Path
    stack: Stack
    seq: int


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A folder as a reader has it, and a sidecar with records in it."""
    folder = tmp_path_factory.mktemp("reader")
    settings = {
        "audit": {"level": "scores", "checkpoint_s": 0.5}, "gateway": {"tenant_header": "x-tenant", "tenants": ["acme"]},
        "sidecar": {"ledger": str(folder / "barograph-ledger")},
    }  # fmt: skip
    (folder / "bin").mkdir()
    for name in ("barograph", "python", "python3"):
        (folder / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    shutil.copytree(ROOT / "probes/banks/smollm2-135m-instruct", folder / "bank")
    (folder / "site.yaml").write_text(RULES)
    (folder / "candidate.yaml").write_text(QUIET)
    (folder / "site.test.yaml").write_text(TEST)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(folder / "bin")
    with Stack(folder, settings, RULES, engine=False) as stack:
        stack.ledger_path = folder / "barograph-ledger"
        with Load(stack, 4):
            eventually(lambda: len(stack.ledger("verdict")) > 20, "there are verdicts")
            shutil.copy(folder / "barograph-ledger" / "checkpoint", folder / "kept.checkpoint")
            yield Reader(folder, stack, stack.ledger("verdict")[0]["seq"])


def commands() -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), command) for page in PAGES for command in typed(page)]


def test_what_is_left_out_is_left_out_for_a_reason() -> None:
    """Each pattern leaves something out, and most of what our pages say is typed."""
    said = commands()
    for pattern in ELSEWHERE:
        assert any(re.search(pattern, command) for _, command in said), f"nothing is left out by {pattern}"
    assert sum(not left_out(command) for _, command in said) > 30


def left_out(command: str) -> bool:
    return any(re.search(pattern, command) for pattern in ELSEWHERE)


@pytest.mark.parametrize(("page", "command"), [each for each in commands() if not left_out(each[1])])
def test_a_reader_can_type_it(reader: Reader, page: str, command: str) -> None:
    folder, stack = reader.folder, reader.stack
    env = environment(
        BAROGRAPH_ADMIN_TOKEN=ADMIN_TOKEN, BAROGRAPH_CONFIG=str(stack.config_path), PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    )
    vkey = subprocess.run(["barograph", "audit", "key"], env=env, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    for said, meant in (
        ("4711", str(reader.seq)), ("LEDGER", "barograph-ledger"), ("'host/barograph+1a2b3c4d+AbC…'", f"'{vkey}'"), ("--key …", f"--key '{vkey}'"),
        ("127.0.0.1:8400", f"127.0.0.1:{stack.ports['gateway']}"), ("127.0.0.1:8401", f"127.0.0.1:{stack.ports['admin']}"),
        ("$(cat vkey)", vkey), ("--seconds 120", "--seconds 1"), ("export ", "export -- "),
    ):  # fmt: skip
        command = command.replace(said, meant)
    done = subprocess.run(["bash", "-ec", command], env=env, cwd=folder, capture_output=True, text=True, timeout=120)
    busy = "barograph idle" in command  # the load here never ends
    assert done.returncode == (1 if busy else 0), f"{page}: {command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr
