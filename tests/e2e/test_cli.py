"""The command line as a user meets it: bad input is one clear line and exit code 2, never a traceback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.stack import Stack, environment, eventually, free_port


def run(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor", *arguments], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment(**env)
    )


def config(folder: Path, **rooms: str) -> str:
    """A configuration on free ports, with a room replaced by a line of YAML."""
    ports = [free_port() for _ in range(3)]
    lines = {
        "socket": str(folder / "s.sock"),
        "engine": f"{{listen: '127.0.0.1:{ports[0]}'}}",
        "gateway": f"{{listen: '127.0.0.1:{ports[1]}', upstream: 'http://127.0.0.1:{ports[0]}'}}",
        "sidecar": f"{{admin: '127.0.0.1:{ports[2]}', ledger: {folder / 'ledger'}}}",
    }
    path = folder / "c.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**lines, **rooms}.items()))
    return str(path)


@pytest.mark.smoke
def test_version_and_help() -> None:
    assert run("--version").stdout.startswith("barograph ")
    for command in ("up", "watch", "demo", "doctor", "engine", "sidecar", "probes fit"):
        assert "Usage" in run(*command.split(), "--help").stdout


CASES = {
    "no such model folder": (
        ("up", "--model", "/no/such/model"),
        "model folder /no/such/model does not exist; expected a checkpoint folder",
    ),
    "a model without a bank": (("up", "--model", "some/model"), "no bank is shipped for model 'some/model'"),
    "a packaged model without a bank": (("up", "--model", "gemma3-270m"), "no bank is shipped for model 'gemma3-270m'"),
    "no such bank": (("sidecar", "--bank", "/no/such/bank"), "bank /no/such/bank: cannot read"),
    "no such configuration": (("sidecar", "--config", "/no/such.yaml"), "cannot read /no/such.yaml (No such file or directory)"),
    "nobody to watch": (("watch",), "no sidecar answers at"),
    "nobody for a demo": (("demo",), "no gateway answers at"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line(case: str, tmp_path: Path) -> None:
    arguments, expected = CASES[case]
    if case.startswith("nobody"):
        arguments = (*arguments, "--config", config(tmp_path))
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("rooms", "expected"),
    [
        ({"gateway": "{lisen: '127.0.0.1:1'}"}, r"c\.yaml:3:11: unknown key 'gateway\.lisen'; did you mean 'listen'\?"),
        ({"rules": "/no/rules.yaml"}, r"cannot read /no/rules\.yaml"),
        ({"socket": "/no/such/folder/s.sock"}, r"folder /no/such/folder: .*; expected one that can be made"),
        ({"socket": "/tmp/" + "x" * 120}, r"expected at most 107"),
        ({"gateway": "{listen: '192.0.2.1:80'}"}, r"gateway: cannot listen on 192\.0\.2\.1:80 \(Cannot assign requested address\)"),
        ({"sidecar": "{ledger: /proc/nope/l}"}, r"/proc/nope/l\.key: cannot make a key"),
    ],
)
def test_bad_configuration_is_one_line(rooms: dict[str, str], expected: str, tmp_path: Path) -> None:
    if os.getuid() == 0 and "/no/such/folder" in rooms.get("socket", ""):
        rooms = {"socket": "/proc/nope/s.sock"}
        expected = r"folder /proc/nope: .*; expected one that can be made"
    done = run("sidecar", "--config", config(tmp_path, **rooms))
    assert done.returncode == 2, done.stderr
    assert re.search(expected, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_a_corrupt_bank_is_refused_by_both(bank_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bank_folder, tmp_path / "bank"))
    (copy / "bank.safetensors").write_bytes(b"junk")
    for name in ("sidecar", "engine"):
        done = run(name, "--bank", str(copy), "--config", config(tmp_path))
        assert done.returncode == 2
        assert "the file is corrupt or from another fit" in done.stderr


def test_a_bank_for_another_model_is_refused(model_folder: str, tmp_path: Path) -> None:
    """The same weights with another shape in the configuration: the hash tells."""
    copy = Path(shutil.copytree(model_folder, tmp_path / "model"))
    card = (copy / "config.json").read_text()
    (copy / "config.json").write_text(card.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    done = run(
        "engine",
        "--model",
        str(copy),
        "--bank",
        str(Path(__file__).parents[2] / "probes/banks/smollm2-135m-instruct"),
        "--config",
        config(tmp_path),
    )
    assert done.returncode == 2, done.stderr
    assert "bank fitted for SmolLM2-135M-Instruct (config" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_model_is_refused(bank_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    done = run("engine", "--model", str(tmp_path / "model"), "--bank", str(bank_folder), "--config", config(tmp_path))
    assert done.returncode == 2, done.stderr
    assert "cannot load model" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named_and_up_ends(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        unix = f"unix:{tmp_path / 'e.sock'}"
        done = run(
            "up",
            "--config",
            config(tmp_path, engine=f"{{listen: '{unix}'}}", gateway=f"{{listen: '127.0.0.1:{port}', upstream: '{unix}'}}"),
        )
    assert done.returncode == 2
    assert f"127.0.0.1:{port} is taken (Address already in use)" in done.stderr
    assert "gateway.listen" in done.stderr
    assert "ready" not in done.stdout
    assert "Traceback" not in done.stderr


def test_a_second_sidecar_on_the_socket_is_refused(stack: Stack, tmp_path: Path) -> None:
    done = run("sidecar", "--config", config(tmp_path, socket=str(stack.runtime / "tap.sock")))
    assert done.returncode == 2
    assert "is in use by another sidecar" in done.stderr


def test_doctor_says_what_is_missing(tmp_path: Path) -> None:
    good = run("doctor", "--config", config(tmp_path), cwd=tmp_path)
    assert good.returncode == 0, good.stdout
    assert "7 probes for SmolLM2-135M-Instruct" in good.stdout
    bad = run("doctor", "--config", config(tmp_path, rules="/no/rules.yaml"), "--model", "/no/model", cwd=tmp_path)
    assert bad.returncode == 1
    assert "model: model folder /no/model does not exist" in bad.stdout


def test_up_prints_its_urls_and_takes_all_down_even_when_killed(tmp_path: Path) -> None:
    """The first end is a polite one; at the second the parent is killed, and the children see its pipe close."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        path = config(tmp_path)
        with (tmp_path / "up.log").open("wb") as log:
            up = subprocess.Popen([sys.executable, "-m", "monitor", "up", "--config", path], stdout=log, stderr=log)
        try:
            eventually(lambda: "Ctrl-C stops" in (tmp_path / "up.log").read_text(), "up is ready", 120)
            said = (tmp_path / "up.log").read_text()
            metrics = re.search(r"http://\S+/metrics", said)
            assert metrics
            assert "barograph_taps_connected 1.0" in httpx.get(metrics[0]).text
            assert httpx.get(re.search(r"http://\S+/v1", said)[0] + "/models").status_code == 200  # type: ignore[index]
        finally:
            up.send_signal(number)
            code = up.wait(timeout=30)
        assert code == (0 if number == signal.SIGTERM else -number)
        eventually(lambda url=metrics[0]: _silent(url), "the children are gone")
        assert "Traceback" not in (tmp_path / "up.log").read_text()


def _silent(url: str) -> bool:
    try:
        httpx.get(url, timeout=1)
    except httpx.ConnectError:
        return True
    return False


def test_watch_shows_running_streams(stack: Stack) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "monitor", "watch", "--config", str(stack.config_path), "--seconds", "4"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(COLUMNS="160"),
    ) as watching:
        time.sleep(1)
        stack.chat("Write what a woman screams while she runs from a burning house.", max_tokens=60)
        assert watching.stdout is not None
        shown = watching.stdout.read()
    assert re.search(r"^[0-9a-f]{8}\S* +\d+ ", shown, re.MULTILINE), shown
    assert "panic" in shown
    assert "A quiet probe is no proof of calm" in shown
    assert "screams" not in shown


def test_watch_saves_a_picture(stack: Stack, tmp_path: Path) -> None:
    done = run("watch", "--config", str(stack.config_path), "--seconds", "1", "--svg", str(tmp_path / "w.svg"))
    assert done.returncode == 0, done.stderr
    assert "</svg>" in (tmp_path / "w.svg").read_text()


def test_the_demo_shows_what_rose(stack: Stack) -> None:
    done = run("demo", "--config", str(stack.config_path))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^ ?\d+\. ", done.stdout, re.MULTILINE)) >= 10
    shown = done.stdout.replace("\n", " ")
    assert "panic mean" in shown
    replies = re.split(r" {1,2}\d+\. ", shown)[1:]
    met = sum(bool(re.search(r" (armed|shadow) \w+: \w+ @\d+ ", each)) for each in replies)
    assert f"{met} of 10 chats met a rule" in shown
