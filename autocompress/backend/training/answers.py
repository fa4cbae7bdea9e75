"""The original's answers to samples, by row: within a bound of bytes, and of many classes only the likeliest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from autocompress.tensors.likelihood import TEMPERATURE, Likelihood, is_categorical

# Of more classes than this, the scores of so many are kept, and what the others have together, where all would be too
# much.
MANY_CLASSES, KEPT_CLASSES = 256, 128
# The bytes that the answers to one view may take, in memory and in the store.
LIMIT_BYTES = 2**28
ROWS = "rows"


class Encoding(Protocol):
    """How answers are kept: as tensors `(N, …)` by name. Its text says all of it: see `encoding_named`."""

    def encode(self, answers: Tensor) -> dict[str, Tensor]:
        """The tensors of answers `(N, …)`."""

    def decode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The answers `(N, …)` float32 of such tensors."""


class Whole:
    """Answers as they are, in float32."""

    names = ("logits",)

    def __str__(self) -> str:
        return "whole"

    def encode(self, answers: Tensor) -> dict[str, Tensor]:
        """See `Encoding`."""
        return {"logits": answers.float()}

    def decode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """See `Encoding`."""
        return tensors["logits"]


class Likeliest:
    """Scores of the likeliest classes below the greatest of them, in float16, and one score for all others.

    That one gives the others together the probability that they had, at the temperature at which networks are
    compared; spread evenly, because which of the unlikely classes is less so is not kept.

    Args:
        classes: number of classes.
    """

    names = ("classes", "scores", "rest")

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def __str__(self) -> str:
        return f"likeliest of {self._classes}"

    def encode(self, answers: Tensor) -> dict[str, Tensor]:
        """See `Encoding`."""
        scores, classes = answers.float().topk(KEPT_CLASSES, 1)
        others = answers.float().scatter(1, classes, -torch.inf) - scores[:, :1]
        rest = (others / TEMPERATURE).logsumexp(1, keepdim=True) - math.log(self._classes - KEPT_CLASSES)
        narrow = torch.int16 if self._classes < 2**15 else torch.int32
        return {"classes": classes.to(narrow), "scores": (scores - scores[:, :1]).to(torch.float16),
                "rest": (rest * TEMPERATURE).to(torch.float16)}

    def decode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """See `Encoding`."""
        whole = tensors["rest"].float().expand(-1, self._classes).clone()
        return whole.scatter_(1, tensors["classes"].long(), tensors["scores"].float())


def encoding_of(answers: Tensor, likelihood: Likelihood | None, samples: int) -> Encoding:
    """How such answers `(N, …)`, in canonical form, are kept, of so many samples."""
    many = answers.dim() == 2 and answers.shape[1] > MANY_CLASSES and is_categorical(likelihood)
    return Likeliest(answers.shape[1]) if many and 4 * samples * answers.shape[1] > LIMIT_BYTES else Whole()


def encoding_named(text: str) -> Encoding:
    """The encoding of which that is the text. ValueError where there is none."""
    if text == str(Whole()):
        return Whole()
    words, _, classes = text.rpartition(" ")
    if words != "likeliest of" or not classes.isdecimal():
        raise ValueError("it was written in another way")
    return Likeliest(int(classes))


def kept_names(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names holds answers; earlier releases kept no rows."""
    return set(names) in ({"logits"}, *({ROWS, *encoding.names} for encoding in (Whole, Likeliest)))


class AnswerTable:
    """Answers to some of the samples of a data set, in no more than `LIMIT_BYTES`.

    `encoding` says how they are kept: it is set before the first are, by who knows what they stand for.

    Args:
        samples: number of samples.
    """

    def __init__(self, samples: int) -> None:
        self.encoding: Encoding | None = None
        self._places = torch.full((samples,), -1, dtype=torch.int32)  # of each sample, its row in the tensors
        self._tensors: dict[str, Tensor] = {}
        self._used = self._capacity = 0

    def answered(self, rows: Tensor) -> Tensor:
        """Which of `rows` `(M,)` have an answer, `(M,)` bool."""
        return self._places[rows] >= 0

    def unanswered(self, most: int) -> Tensor:
        """Samples without an answer that there is room for, `(M,)`, at most so many."""
        room = self._capacity - self._used if self._tensors else len(self._places)
        return (self._places < 0).nonzero().flatten()[:min(most, room)]

    def get(self, rows: Tensor) -> Tensor:
        """The answers `(M, …)` to `rows` `(M,)`, all of which have one."""
        assert self.encoding is not None
        places = self._places[rows].long()
        return self.encoding.decode({name: tensor[places] for name, tensor in self._tensors.items()})

    def put(self, rows: Tensor, answers: Tensor) -> tuple[Tensor, bool]:
        """Keep the answers `(M, …)` to `rows` `(M,)`, which have none yet, as many as there is room for; return them as
        `get` would, and whether any was kept."""
        assert self.encoding is not None
        encoded = self.encoding.encode(answers)
        return self.encoding.decode(encoded), self._put(rows, encoded)

    def tensors(self) -> dict[str, Tensor]:
        """What is kept, and as `rows` whose answers they are: for a file."""
        return {ROWS: torch.argsort(self._places, stable=True)[len(self._places) - self._used:].to(torch.int32),
                **{name: tensor[:self._used] for name, tensor in self._tensors.items()}}

    def merge(self, tensors: Mapping[str, Tensor], encoding: Encoding) -> None:
        """Add what is not here of what another table had kept. ValueError where it is not of these samples, or was kept
        in another way."""
        rows = tensors[ROWS].long()
        values = {name: tensor for name, tensor in tensors.items() if name != ROWS}
        if {len(rows)} != {len(tensor) for tensor in values.values()} or (
                len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self._places)):
            raise ValueError("it holds no answers to these samples")
        self.encoding = self.encoding or encoding
        like = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in (self._tensors or values).items()}
        if str(encoding) != str(self.encoding) or like != {name: (tensor.shape[1:], tensor.dtype)
                                                           for name, tensor in values.items()}:
            raise ValueError("it was written in another way")
        new = ~self.answered(rows)
        self._put(rows[new], {name: tensor[new] for name, tensor in values.items()})

    def _put(self, rows: Tensor, tensors: dict[str, Tensor]) -> bool:
        if not self._tensors:
            row_bytes = max(1, sum(tensor[:1].nbytes for tensor in tensors.values()))
            self._capacity = min(len(self._places), LIMIT_BYTES // row_bytes)
            # Pages that nothing is written to take no memory.
            self._tensors = {name: torch.empty((self._capacity, *tensor.shape[1:]), dtype=tensor.dtype)
                             for name, tensor in tensors.items()}
        count = min(len(rows), self._capacity - self._used)
        for name, tensor in tensors.items():
            self._tensors[name][self._used:self._used + count] = tensor[:count]
        self._places[rows[:count]] = torch.arange(self._used, self._used + count, dtype=torch.int32)
        self._used += count
        return count > 0
