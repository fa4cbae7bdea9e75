"""A watermark of the owner in the lowest levels of integer weights: how a key shows in them, and how it is put in.

Levels are neighbours in pairs. Each pair of each output channel, for each shape of a weight, has a sign that a
pseudo-random function draws from the key: it says which neighbour the owner prefers. A weight votes for the owner where
it is at that one. A sign depends on the shape, the channel and the pair alone, so that votes can be counted in any file
that holds the levels, whatever their layout, the names and the order of layers.

Small levels are more frequent than large ones, so a pair has votes of its own: their mean over all channels is taken
off. Of a key that had no part in the weights, signs are independent of them. The sum of votes then is a sum of
independent signs times constants, and Hoeffding's inequality bounds the probability that it is as large as found,
whatever the weights are: exp(-sum² / (2 · sum of squared votes of each sign)). That bound is the evidence.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autocompress.errors import InputError

SCHEME = "votes of neighbouring levels, 1"
# A watermark is detected where chance would do as well with a probability of at most 2^-DETECTED; it is put in at
# 2^-PUT_IN, so that it survives changes of some levels.
DETECTED, PUT_IN = 40, 120
# The largest share of the weights that is moved by one level.
MOST_MOVED = 0.12
# Levels nearly as near as the one that a weight was rounded to: by this share of a step.
NEAR = 0.25
_PAIRS = 128


@dataclass(frozen=True)
class Evidence:
    """What a key shows in weights: the probability, as the exponent of two, that another key shows as much, and how
    many weights voted."""

    exponent: float
    weights: int

    @property
    def detected(self) -> bool:
        """Whether the watermark of the key is there."""
        return self.exponent <= -DETECTED


@dataclass(frozen=True)
class Votes:
    """The votes of one weight: the pair `(C, n)` in which each level is, its side in it, -1 or 1, and whether it
    counts; `step` is from one level to the next."""

    pair: np.ndarray
    side: np.ndarray
    counts: np.ndarray
    step: int


def votes_of(levels: np.ndarray) -> Votes | None:
    """The votes of levels int8 `(C, n)`; None where all are zero.

    Levels of fewer than 7 bits are odd numbers; others are whole numbers, of which zero does not vote, because masks
    make it, nor does its neighbour. Of tables (codebooks, powers of two) few levels have their neighbour in it.
    """
    values = levels.astype(np.int16)
    if not values.any():
        return None
    odd = bool((values[values != 0] & 1).all())
    place = (values - 1) >> 1 if odd else values
    pair = place >> 1
    return Votes(pair, np.where(place & 1, 1, -1), values != 0 if odd else pair != 0, 2 if odd else 1)


def signs(key: bytes, channels: int, weights: int) -> np.ndarray:
    """The signs that a key draws for weights of a shape, -1 or 1, int8 `(channels, 128)`: one a pair, from pair -64."""
    rows = [hmac.digest(key, f"{SCHEME} {channels} {weights} {channel}".encode(), "sha256")
            for channel in range(channels)]
    bits = np.unpackbits(np.frombuffer(b"".join(rows), np.uint8)).reshape(channels, -1)[:, :_PAIRS]
    return bits.astype(np.int8) * 2 - 1


def evidence(weights: Iterable[np.ndarray], key: bytes) -> Evidence:
    """What a key shows in the levels of all integer weights of a file, int8 `(C, n)` each."""
    tally = _Tally(key)
    for levels in weights:
        tally.add(levels)
    return tally.evidence


class _Tally:
    """Sums and numbers of votes by shape, channel and pair."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.signs: dict[tuple[int, int], np.ndarray] = {}
        self._sums: dict[tuple[int, int], np.ndarray] = {}
        self._numbers: dict[tuple[int, int], np.ndarray] = {}

    def add(self, levels: np.ndarray) -> Votes | None:
        """Count the votes of a weight, and return them."""
        votes = votes_of(levels)
        if votes is not None:
            shape, channels = levels.shape, np.nonzero(votes.counts)[0]
            if shape not in self.signs:
                self._sums[shape], self._numbers[shape] = np.zeros((2, len(levels), _PAIRS), np.int64)
                self.signs[shape] = signs(self._key, *shape)
            np.add.at(self._numbers[shape], (channels, votes.pair[votes.counts] + _PAIRS // 2), 1)
            self.move(shape, votes.pair[votes.counts], channels, votes.side[votes.counts])
        return votes

    def move(self, shape: tuple[int, int], pairs: np.ndarray, channels: np.ndarray, by: np.ndarray) -> None:
        """Add to the votes of some pairs."""
        np.add.at(self._sums[shape], (channels, pairs + _PAIRS // 2), by)

    @property
    def evidence(self) -> Evidence:
        """Of what was counted."""
        total = squares = 0.0
        for shape, sums in self._sums.items():
            numbers = self._numbers[shape]
            votes = sums - numbers * (sums.sum(0) / np.maximum(1, numbers.sum(0)))
            total += float((votes * self.signs[shape]).sum())
            squares += float((votes**2).sum())
        exponent = -total**2 / (2 * squares * math.log(2)) if total > 0 else 0.0
        return Evidence(exponent, sum(int(numbers.sum()) for numbers in self._numbers.values()))


@dataclass(frozen=True)
class Marked:
    """Levels with a watermark, by name of the layer, and how many of them were moved."""

    levels: dict[str, np.ndarray]
    moved: int
    evidence: Evidence


@dataclass(frozen=True)
class _Moves:
    """Moves in one weight, in order: where, and how votes change."""

    name: str
    rows: np.ndarray
    columns: np.ndarray
    pairs: np.ndarray
    sides: np.ndarray
    levels: np.ndarray

    def __getitem__(self, some: Any) -> _Moves:
        return _Moves(self.name, self.rows[some], self.columns[some], self.pairs[some], self.sides[some],
                      self.levels[some])


def put_in(weights: Mapping[str, np.ndarray], legal: Mapping[str, np.ndarray], key: bytes,
           ratios: Mapping[str, np.ndarray] | None = None) -> Marked:
    """Move some levels to their neighbours until a key shows with a probability of 2^-PUT_IN.

    Weights go first that were rounded and lie nearly as near to the neighbour; then those of many levels in long rows:
    there one step is the least. Which of them is drawn by the key; for each that goes up in a row another one goes
    down, so that the mean of what the row puts out stays.

    Args:
        weights: levels by layer, int8 `(C, n)`.
        legal: all levels that each may have.
        key: of the owner.
        ratios: what levels were rounded from `(C, n)`, of layers of which that is known.

    Raises:
        InputError: where the weights are too few to show the key, or only where more than MOST_MOVED of them move.
    """
    tally, near, further = _Tally(key), [], []
    for name in sorted(weights, key=lambda name: (-len(legal[name]), -weights[name].shape[1], name)):
        levels, votes = weights[name], tally.add(weights[name])
        if votes is None:
            continue
        preferred = tally.signs[levels.shape][np.arange(len(levels))[:, None], votes.pair + _PAIRS // 2]
        other = (levels - votes.side * votes.step).astype(np.int8)
        rows, columns = np.nonzero(votes.counts & (votes.side != preferred) & np.isin(other, legal[name]))
        order = _balanced(rows, votes.side[rows, columns], hmac.digest(key, name.encode(), "sha256"))
        at = rows[order], columns[order]
        moves = _Moves(name, *at, votes.pair[at], votes.side[at], other[at])
        apart = np.full(len(order), np.inf)
        if ratios is not None and name in ratios:
            apart = np.abs(ratios[name][at] - moves.levels) - np.abs(ratios[name][at] - levels[at])
        near.append(moves[apart < NEAR * votes.step])
        further.append(moves[apart >= NEAR * votes.step])
    levels_by_name, moved = {name: levels.copy() for name, levels in weights.items()}, 0
    total = sum(levels.size for levels in weights.values())
    for moves in (*near, *further):
        chunk = 2 * max(1, len(moves.rows) // 128)
        for begin in range(0, len(moves.rows), chunk):
            if tally.evidence.exponent <= -PUT_IN or moved > MOST_MOVED * total:
                break
            some = moves[begin:begin + chunk]
            levels_by_name[some.name][some.rows, some.columns] = some.levels
            tally.move(weights[some.name].shape, some.pairs, some.rows, -2 * some.sides)
            moved += len(some.rows)
    if not tally.evidence.detected:
        raise InputError(
            f"a watermark must show in integer weights so that chance does as much with 2^-{DETECTED} at most, but in "
            f"these {total:,} it comes to 2^{tally.evidence.exponent:.0f}: about a thousand weights of 3 to 8 bits on "
            "evenly spaced levels are needed")
    return Marked(levels_by_name, moved, tally.evidence)


def _balanced(rows: np.ndarray, sides: np.ndarray, seed: bytes) -> np.ndarray:
    """An order of moves, drawn by a seed, in which each that goes up stands beside one of its row that goes down; those
    without such a one come last.

    Args:
        rows: of the moves `(M,)`.
        sides: from which they go, -1 or 1.
        seed: 32 bytes.
    """
    draw = np.random.default_rng(list(seed))
    order = draw.permutation(len(rows))
    order = order[np.lexsort((sides[order], rows[order]))]  # by row, then by side; drawn within
    row, side = rows[order], sides[order]
    begins = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (side[1:] != side[:-1])])
    rank = np.arange(len(row)) - np.repeat(begins, np.diff(np.r_[begins, len(row)]))
    pair = np.unique(np.stack([row, rank]), axis=1, return_inverse=True)[1].reshape(-1)
    alone = np.bincount(pair)[pair] < 2
    return np.asarray(order[np.lexsort((draw.permutation(pair.max(initial=-1) + 1)[pair], alone))])
