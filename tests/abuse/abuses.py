"""What is done to a running sidecar, one function each. Each leaves the world as it found it, and `serves_again` is asked afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable

import numpy as np

from benchmarks.synthetic.tap import PROVED, BadTap, Faults, hello
from monitor import wire
from tests.abuse.world import World, full, raw_tap


class NotHere(Exception):
    """What this machine cannot do."""


Abuse = Callable[[World, random.Random], Awaitable[None]]


async def engine_killed(world: World, chance: random.Random) -> None:
    """Connections reset, the tap gone; started again after a while."""
    world.engine.die()
    await asyncio.sleep(chance.uniform(0, 2))
    await world.start_engine()


async def engine_hung(world: World, chance: random.Random) -> None:
    """It makes no token, shorter or longer than the gateway waits."""
    world.engine.hang()
    await asyncio.sleep(chance.choice((1.0, 3.0, 8.0)))
    world.engine.go_on()


async def sidecar_killed(world: World, chance: random.Random) -> None:
    """SIGKILL in the middle of replies."""
    await world.end_sidecar(signal.SIGKILL)
    await asyncio.sleep(chance.uniform(0, 1))
    world.stack.start("sidecar")


async def sidecar_stopped(world: World, chance: random.Random) -> None:
    """SIGTERM under load; what runs may end."""
    await world.end_sidecar(signal.SIGTERM)
    world.stack.start("sidecar")


async def sidecar_stopped_while_it_starts(world: World, chance: random.Random) -> None:
    """SIGTERM at any phase of a start. Before it has its handlers the signal itself ends it."""
    await world.end_sidecar(signal.SIGTERM)
    for _ in range(2):
        world.stack.start("sidecar")
        await asyncio.sleep(chance.uniform(0, 4))
        process = world.stack.processes.pop("sidecar")
        with world.cut():
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, 30)
        if code not in (0, -signal.SIGTERM):
            world.found.say(f"the sidecar ended with {code} after SIGTERM while it started: {world.stack.log('sidecar')[-600:]}")
    world.stack.start("sidecar")


async def sidecar_frozen(world: World, chance: random.Random) -> None:
    """SIGSTOP, as of a machine that swaps; the tap drops what it cannot send, and the engine goes on."""
    world.signal_sidecar(signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(1, 4))
    world.signal_sidecar(signal.SIGCONT)


async def socket_deleted(world: World, chance: random.Random) -> None:
    """The tap's socket is unlinked, and the engine starts anew."""
    with contextlib.suppress(FileNotFoundError):
        (world.stack.runtime / "tap.sock").unlink()
    await engine_killed(world, chance)


async def broker_flaps(world: World, chance: random.Random) -> None:
    """Kafka stalls and comes back, three times."""
    for _ in range(3):
        with world.broker_stalls():
            await asyncio.sleep(chance.uniform(0.5, 3))
        await asyncio.sleep(chance.uniform(0, 1))


async def disk_full(world: World, chance: random.Random) -> None:
    """The ledger's disk has no byte left, then has."""
    if not world.can_mount:
        raise NotHere("only root can mount a small disk")
    filler = await asyncio.to_thread(full, world.disk)
    await asyncio.sleep(chance.uniform(1, 4))
    filler.unlink()


async def clock_jumps(world: World, chance: random.Random) -> None:
    """The wall clock goes an hour back, a day on, and right again."""
    for offset in ("-3600", "86400", "0"):
        world.clock.write_text(offset)
        await asyncio.sleep(2)


async def connections(world: World, chance: random.Random) -> None:
    """Two thousand at once: some say nothing, some a half request, some ask."""
    opened = []
    for number in range(2000):
        port = world.stack.ports["gateway" if number % 10 else "admin"]
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append(writer)
            if number % 3 == 1:
                writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n")
            elif number % 3 == 2:
                writer.write(b"GET /live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    if len(opened) < 1900:
        world.found.say(f"only {len(opened)} of 2,000 connections were taken")
    await asyncio.sleep(chance.uniform(1, 3))
    for writer in opened:
        writer.transport.abort()


async def slow_readers(world: World, chance: random.Random) -> None:
    """Clients that ask for a long reply and read nothing of it."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":100000,"stream":true}'
    opened = []
    for _ in range(8):
        _, writer = await asyncio.open_connection("127.0.0.1", world.stack.ports["gateway"], limit=1)
        writer.write(head % (len(body), body))
        opened.append(writer)
    await asyncio.sleep(chance.uniform(3, 6))
    for writer in opened:
        writer.transport.abort()


async def tap_flood(world: World, chance: random.Random) -> None:
    """Another tap, with the right key, sends frames of streams that nobody asked for, as fast as the socket takes them."""

    def flood() -> None:
        with contextlib.suppress(OSError), raw_tap(world.stack.runtime / "tap.sock") as tap:
            tap.setblocking(True)
            tap.settimeout(1)
            tap.send(wire.encode(hello("flood")))
            tap.send(wire.encode(PROVED))
            until, seq = time.monotonic() + 3, 0
            probes = len(hello("flood").probes)
            while time.monotonic() < until:
                seq += 1
                streams = np.arange(256, dtype="<u4") + seq * 256
                begins = [wire.Begin(int(stream), f"nobody-{stream}", 0) for stream in streams]
                scores = np.full((256, probes), 9, "<f4")
                tap.send(wire.encode(wire.Frame(
                    seq, 0, time.monotonic_ns(), streams=streams.tobytes(), positions=np.zeros(256, "<u4").tobytes(), scores=scores.tobytes(), begins=begins
                )))  # fmt: skip

    await asyncio.to_thread(flood)


async def tap_late(world: World, chance: random.Random) -> None:
    """Scores come after the text that they are of, later than any token is made, so that each chunk has to wait for them."""
    world.engine.die()
    await world.start_engine(BadTap(world.stack.runtime / "tap.sock", Faults(drop=0, repeat=0, delay=0, late_s=chance.uniform(0.1, 0.5))))
    await world.serves_again()
    await asyncio.sleep(chance.uniform(1, 4))
    world.engine.die()
    await world.start_engine()


async def frames_corrupted(world: World, chance: random.Random) -> None:
    """Packets of noise, and real ones with bytes changed, from taps with and without the key."""

    def send() -> None:
        good = wire.encode(wire.Frame(1, 0, time.monotonic_ns(), begins=[wire.Begin(1, "x", 0)]))
        for number in range(60):
            with contextlib.suppress(OSError), raw_tap(world.stack.runtime / "tap.sock") as tap:
                if number % 2:
                    tap.send(wire.encode(hello(f"bad-{number}")))
                    tap.send(wire.encode(PROVED))
                for _ in range(20):
                    packet = bytearray(good if chance.random() < 0.7 else os.urandom(chance.randrange(1, 2000)))
                    for _ in range(chance.randrange(4)):
                        packet[chance.randrange(len(packet))] = chance.randrange(256)
                    tap.send(packet)

    await asyncio.to_thread(send)


async def rules_reloaded(world: World, chance: random.Random) -> None:
    """Another version every half second; one of them cannot be read."""
    for number in range(10):
        if number == 5:
            (world.stack.folder / "rules.yaml").write_text("rules: [{rule: torn")
        else:
            world.rules(chance.uniform(0.2, 2))
        await asyncio.sleep(0.5)
    world.rules(0.5)


ABUSES: dict[str, Abuse] = {
    each.__name__: each
    for each in (
        engine_killed, engine_hung, sidecar_killed, sidecar_stopped, sidecar_stopped_while_it_starts, sidecar_frozen, socket_deleted, broker_flaps,
        disk_full, clock_jumps, connections, slow_readers, tap_flood, tap_late, frames_corrupted, rules_reloaded,
    )
}  # fmt: skip
