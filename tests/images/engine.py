"""The synthetic engine with its tap as a process of its own: python -m tests.images.engine PORT SOCKET"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from benchmarks.synthetic.engine import SyntheticEngine
from benchmarks.synthetic.tap import GoodTap


async def main(port: int, socket: Path) -> None:
    async with SyntheticEngine(GoodTap(socket), 0.01) as engine:
        await engine.listen(port)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
