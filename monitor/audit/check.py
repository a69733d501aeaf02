"""Checks a record against its proof, without the ledger. It shares no code with what makes proofs."""

from __future__ import annotations

import base64
import re
from hashlib import sha256

from monitor.audit.verifier import Head, Key, Policy, Wrong, opened


def check(record: bytes, proof: bytes, keys: list[Key], policy: Policy | None = None) -> tuple[int, Head]:
    """The record's place and the checkpoint that covers it (c2sp.org/tlog-proof; RFC 9162, 2.1.3.2). Raises Wrong."""
    said, _, checkpoint = proof.partition(b"\n\n")
    lines = said.decode("utf-8", "replace").split("\n")
    try:
        if lines[0] != "c2sp.org/tlog-proof@v1":
            raise ValueError
        index = int(re.fullmatch("index (0|[1-9][0-9]{0,15})", lines[1])[1])  # type: ignore[index]  # else a TypeError
        path = [base64.b64decode(line, validate=True) for line in lines[2:]]
    except (ValueError, IndexError, TypeError):
        raise Wrong("no proof: expected c2sp.org/tlog-proof@v1, an index, hashes, an empty line and a checkpoint") from None
    policy = policy or Policy()
    head = opened(checkpoint, keys + policy.logs, policy)
    if not policy.met(set(head.witnesses)):
        raise Wrong(f"the checkpoint has not the quorum '{policy.quorum}'; cosigned by: {', '.join(sorted(head.witnesses)) or 'nobody'}")
    if not 0 <= index < head.size:
        raise Wrong(f"record {index} lies beyond the checkpoint of {head.size} records")
    place, last, digest = index, head.size - 1, sha256(b"\0" + record).digest()
    for other in path:
        if last == 0:
            raise Wrong("the proof has more hashes than its tree has levels")
        if place & 1 or place == last:
            digest = sha256(b"\1" + other + digest).digest()
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            digest = sha256(b"\1" + digest + other).digest()
        place, last = place >> 1, last >> 1
    if last != 0 or digest != head.root:
        raise Wrong("the record is not the one that the checkpoint covers: something was changed")
    return index, head
