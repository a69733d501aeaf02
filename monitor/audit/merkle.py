"""Hash trees as RFC 6962 defines them (section 2.1), over hashes that lie wherever the caller keeps them.

A *complete* subtree of level l and index i spans the leaves from i·2^l up to (i+1)·2^l. Everything here asks for hashes of complete subtrees
only, through a `Hashes`, and those never change once the tree has reached their end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

Hashes = Callable[[int, int], bytes]
"""The hash of the complete subtree of a level and an index."""

EMPTY = sha256(b"").digest()  # the root of a tree without leaves


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def join(hashes: Sequence[bytes]) -> bytes:
    """The root over subtrees that lie side by side: all of one size, but for the last, which may be smaller."""
    if not hashes:
        return EMPTY
    level = list(hashes)
    while len(level) > 1:
        above = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def root(size: int, at: Hashes) -> bytes:
    return _span(0, size, at) if size else EMPTY


def inclusion(index: int, size: int, at: Hashes) -> list[bytes]:
    """The path that leads from leaf `index` to the root of the tree of `size` leaves, the leaf's neighbour first."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_span(middle, high, at))
            high = middle
        else:
            path.append(_span(low, middle, at))
            low = middle
    return path[::-1]


def consistency(old: int, new: int, at: Hashes) -> list[bytes]:
    """What shows that the tree of `new` leaves begins with the tree of `old` leaves; empty where nothing needs to be shown."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not begin with one of {old}")
    if old in (0, new):
        return []
    path = []
    low, high, whole = 0, new, True  # whole: the old tree is all of low..old, so its reader has that hash
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_span(middle, high, at))
            high = middle
        else:
            path.append(_span(low, middle, at))
            low, whole = middle, False
    if not whole:
        path.append(_span(low, high, at))
    return path[::-1]


def _span(low: int, high: int, at: Hashes) -> bytes:
    """The root over the leaves from `low` to `high`, where `low` is a multiple of the largest subtree that fits."""
    count = high - low
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return at(level, low >> level)
    middle = low + _split(count)
    return node_hash(_span(low, middle, at), _span(middle, high, at))


def _split(count: int) -> int:
    """The largest power of two that is smaller than `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` shows that the tree of `new` leaves begins with that of `old` leaves (RFC 9162, section 2.1.4.2)."""
    if old > new or old == 0 or old == new:
        return not path and old <= new and (old != new or old_root == new_root)
    rest = list(path)
    if old & (old - 1) == 0:
        rest.insert(0, old_root)  # the old tree is one complete subtree
    if not rest:
        return False
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    before = after = rest[0]
    for digest in rest[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            before, after = node_hash(digest, before), node_hash(digest, after)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            after = node_hash(after, digest)
        first, last = first >> 1, last >> 1
    return last == 0 and (before, after) == (old_root, new_root)


def rooted(index: int, size: int, digest: bytes, path: Sequence[bytes]) -> bytes:
    """The root of the tree in which the leaf at `index` has this hash and this inclusion path; nothing for a path of another length."""
    last = size - 1
    for other in path:
        if not last:
            return b""
        if index & 1 or index == last:
            digest = node_hash(other, digest)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            digest = node_hash(digest, other)
        index, last = index >> 1, last >> 1
    return b"" if last else digest
