"""Compares what a sidecar is made of with the Python Packaging Advisory Database: python -m deploy.audit

Exit code 1 for a known weakness. Where the database cannot be reached it says so and ends with 0, or with 3 under --require.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent / "images" / "sidecar.lock"


def verdict(said: dict[str, list[dict[str, object]]]) -> tuple[int, str]:
    """From what pip-audit found: exit code and a line. 3: nothing could be compared."""
    audited = [each for each in said["dependencies"] if "vulns" in each]
    weak = [f"{each['name']} {each['version']}: {', '.join(str(v['id']) for v in each['vulns'])}" for each in audited if each["vulns"]]  # type: ignore[attr-defined]
    if weak:
        return 1, "known weaknesses: " + "; ".join(weak)
    if not audited:
        return (
            3,
            f"not compared: the advisory database cannot be reached from here; {len(said['dependencies'])} packages are pinned by hash",
        )
    return 0, f"{len(audited)} of {len(said['dependencies'])} packages compared, no known weakness"


def main() -> int:
    tool = Path(sys.executable).with_name("pip-audit")
    done = subprocess.run(
        [tool, "--requirement", LOCK, "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "5"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    try:
        code, line = verdict(json.loads(done.stdout))
    except (ValueError, KeyError):
        code, line = 3, f"not compared: {(done.stderr or done.stdout).strip()[-200:]}"
    print(line)
    return 0 if code == 3 and "--require" not in sys.argv else code


if __name__ == "__main__":
    sys.exit(main())
