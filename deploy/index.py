"""Which package index pip asks here: PYTHON deploy/index.py says it in one line, PYTHON deploy/index.py torch VERSION where torch's build for CPUs is had.

Pip's own settings decide (PIP_INDEX_URL, pip.conf, HTTP_PROXY and HTTPS_PROXY, PIP_CERT, …), so pip is asked for them. Nothing but Python and its pip is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PYPI = "https://pypi.org/simple"
CPU = "https://download.pytorch.org/whl/cpu"
# Somebody who can reach it answers well before; a network that swallows packets must not be waited for.
PATIENCE = 20


def pip(*words: str) -> str:
    """What it prints; nothing when it fails or takes too long."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", *words], capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def setting(name: str) -> str:
    """As `pip install` would see it: the environment before its own section of the files, that before the one for all commands."""
    found = dict(line.split("=", 1) for line in pip("config", "list").splitlines() if "=" in line)
    return next((found[key].strip("'\"") for section in (":env:", "install", "global") if (key := f"{section}.{name}") in found), "")


def bare(urls: str) -> str:
    """Without the credentials, which stand before the host or behind a question mark."""
    return " ".join(
        parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        for parts in map(urlsplit, urls.replace("\\n", " ").split())
    )


def proxy(url: str) -> str:
    parts = urlsplit(url)
    if set_ := setting("proxy"):
        return set_
    return "" if proxy_bypass(parts.netloc.rpartition("@")[2]) else getproxies().get(parts.scheme) or getproxies().get("all", "")


def described() -> str:
    if setting("no-index"):
        return f"index: none, packages from {bare(setting('find-links'))} only"
    asked = setting("index-url")
    words = [f"index: {bare(asked) or PYPI}"]
    for also in ("extra-index-url", "find-links"):
        if setting(also):
            words.append(f"and {bare(setting(also))}")
    if through := proxy(asked or PYPI):
        words.append(f"through the proxy {bare(through)}")
    return " ".join(words)


def of_torch(version: str) -> str:
    """The index with torch's build for CPUs, where one may be asked and answers: the one named by TORCH_INDEX, PyTorch's own, else none.

    Who has set an index wants packages from there, so no other is asked unless it is named.
    """
    named = os.environ.get("TORCH_INDEX", "")
    if not named and (setting("index-url") or setting("no-index")):
        return ""
    url = named or CPU
    return url if f"{version}+cpu" in pip("--timeout", "5", "--retries", "0", "index", "versions", "--index-url", url, "torch") else ""


if __name__ == "__main__":
    print(of_torch(sys.argv[2]) if sys.argv[1:2] == ["torch"] else described())
