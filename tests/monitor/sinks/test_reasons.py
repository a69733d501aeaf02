"""Why a broker cannot be reached."""

from __future__ import annotations

import subprocess
import sys

from tests.stack import free_port

PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from kafka import KafkaProducer
from kafka.errors import KafkaError
from monitor.sinks.reasons import REASONS
try:
    KafkaProducer(bootstrap_servers="127.0.0.1:%d", bootstrap_timeout_ms=1000)
except KafkaError as error:
    print(REASONS.of(error))
    print(REASONS.of(error))
"""


def test_the_reason_is_kept_and_the_librarys_lines_are_not_printed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM % free_port()], capture_output=True, text=True, check=True, timeout=60)
    first, second = done.stdout.splitlines()
    assert "Unable to bootstrap" in first
    assert "ECONNREFUSED" in first
    assert "ECONNREFUSED" not in second  # of an attempt before
    assert done.stderr == ""


SAID = """
import logging
from monitor.sinks.reasons import REASONS
log = logging.getLogger("kafka.net.connection")
for line in ("KafkaConnectionError: 111 ECONNREFUSED", "[Error 58] SaslAuthenticationFailedError: refused", "KafkaConnectionError: socket disconnected"):
    log.error("%s: Connection lost: %s", "node 0", line)
print(REASONS.of(ValueError("no")))
"""


def test_a_refused_password_is_said_rather_than_what_comes_before_and_after_it() -> None:
    done = subprocess.run([sys.executable, "-c", SAID], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "ValueError: no ([Error 58] SaslAuthenticationFailedError: refused)"
