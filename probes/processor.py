"""What a processor computes fast."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 twice, then Arm


def bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16. Without them its products are made of float32 ones, up to five times slower."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return bool(_BFLOAT16 & set(next(flags, [])))
