"""The embedded engine and the gateway before it, asked the same by clients that people use."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.compat.same import CASES, NOISY, TOOLS, differences, plain, said
from tests.stack import MODEL, Stack

VERCEL = Path(__file__).parent / "vercel"


def both(stack: Stack) -> tuple[openai.OpenAI, openai.OpenAI]:
    urls = (stack.engine("/v1"), stack.gateway("/v1"))
    direct, gateway = (openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) for url in urls)
    return direct, gateway


@pytest.mark.parametrize("name", [*CASES, *TOOLS])
def test_openais_client_sees_no_difference(stack: Stack, name: str) -> None:
    """The shipped model's template has no tools, so those are refused, alike."""
    direct, gateway = both(stack)
    for case in {**CASES, **TOOLS}[name]:
        for _ in range(6 if name in NOISY else 1):
            found = differences(said(case, direct, MODEL), said(case, gateway, MODEL))
            if not found:
                break
        assert found == []


def test_langchain_sees_no_difference(stack: Stack) -> None:
    from langchain_openai import ChatOpenAI

    def ask(url: str) -> list[Any]:
        model = ChatOpenAI(base_url=url, api_key="none", model=MODEL, temperature=0, max_tokens=16, max_retries=0, stream_usage=True)
        whole = model.invoke("What is the capital of France?")
        chunks = list(model.stream("What is the capital of France?"))
        told = [[each.content, plain(each.usage_metadata), each.response_metadata.get("finish_reason")] for each in (whole, *chunks)]
        probable = model.bind(logprobs=True, top_logprobs=2).invoke("Say hello.")
        return [told, plain(probable.response_metadata["logprobs"])]

    assert differences(ask(stack.engine("/v1")), ask(stack.gateway("/v1"))) == []


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs node and npm")
def test_the_vercel_ai_sdk_sees_no_difference(stack: Stack) -> None:
    if not (VERCEL / "node_modules").is_dir():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=VERCEL, check=True, timeout=240)

    def ask(url: str) -> Any:
        done = subprocess.run(["node", "ask.mjs", url, MODEL], cwd=VERCEL, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    gateway, direct = ask(stack.gateway("/v1")), ask(stack.engine("/v1"))
    assert gateway == direct
    assert gateway["text"] == "".join(gateway["deltas"])
    assert gateway["error"]["status"] == 404
