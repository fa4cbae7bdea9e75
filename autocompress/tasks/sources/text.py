"""Text as tokens, by the tokenizer that a network brings."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from autocompress.errors import InputError
from autocompress.tasks.sources.base import Sample, SourceContext

log = logging.getLogger(__name__)

# Texts that settle how long inputs are, and the longest without a word of the user or the tokenizer.
MEASURED_TEXTS, LONGEST = 2000, 512
# Lengths are multiples of this, so that kernels are full.
MULTIPLE = 8
# The file of a tokenizer that ships.
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, eq=False)
class Tokens:
    """Makes tensors `(length,)` int64 of a text: those of the tokenizer that the network takes, cut or padded.

    Args:
        tokenizer: As of transformers: called with a text, it gives lists of numbers by name.
        names: Of the tensors that the network takes.
        length: In tokens.
    """

    tokenizer: Any
    names: tuple[str, ...]
    length: int

    @property
    def files(self) -> dict[str, Any]:
        """How a text becomes tokens, as values; empty for a tokenizer that is no file of the package tokenizers."""
        if not self.shipped:
            return {}
        return {"tokenizer": TOKENIZER, "length": self.length, "makes": list(self.names),
                "padding": {"pad_id": self.tokenizer.pad_token_id, "pad_token": self.tokenizer.pad_token,
                            "pad_type_id": self.tokenizer.pad_token_type_id, "direction": self.tokenizer.padding_side},
                "truncation": self.tokenizer.truncation_side}

    @property
    def shipped(self) -> dict[str, bytes]:
        """The tokenizer as a file of the package tokenizers, in which most of transformers' can be written."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        return {} if fast is None else {TOKENIZER: fast.to_str().encode()}

    def __call__(self, text: str) -> Sample:
        encoded = self.tokenizer(text, padding="max_length", truncation=True, max_length=self.length)
        return {name: torch.tensor(encoded[name], dtype=torch.int64) for name in self.names}


def tokens_for(context: SourceContext, texts: Iterable[str], length: int | None, where: str) -> Tokens:
    """Tokens of texts, as the network takes them.

    Args:
        context: With the network's tokenizer and the arguments of its `forward`.
        texts: By which the length is measured where it is not given: that of the longest, at most what the tokenizer
            says that the network can take.
        length: In tokens.
        where: Whose texts, for messages.

    Raises:
        InputError: where the network brings no tokenizer, or takes nothing that it makes.
    """
    tokenizer = context.tokenizer
    if tokenizer is None:
        raise InputError(f"{where} holds text, which a tokenizer must turn into tokens: give the network as "
                         "--model hf:PATH, a folder of transformers with its tokenizer, or tokens in an npz:FILE")
    encoded = tokenizer("a")
    names = tuple(name for name in encoded if (not context.arguments or name in context.arguments)
                  and (name != "token_type_ids" or any(encoded[name])))  # zeros are what a network takes without them
    if not names:
        raise InputError(f"the network must take what its tokenizer makes, {', '.join(encoded)}, but takes "
                         f"{', '.join(context.arguments)}")
    if tokenizer.pad_token_id is None:
        raise InputError(f"the tokenizer of the network must know a padding token (pad_token) for {where}, but has "
                         "none: set it and save the tokenizer again")
    return Tokens(tokenizer, names, length or _length(tokenizer, texts, where))


def _length(tokenizer: Any, texts: Iterable[str], where: str) -> int:
    most = min(int(tokenizer.model_max_length), LONGEST)
    lengths = [len(tokenizer(text)["input_ids"]) for text in islice(texts, MEASURED_TEXTS)]
    longest = max(lengths, default=1)
    length = min(most, -(-longest // MULTIPLE) * MULTIPLE)
    cut = sum(each > length for each in lengths)
    log.info("%s: texts have up to %d tokens, and are cut or padded to %d, which cuts %d of %d; ?length= says another "
             "length", where, longest, length, cut, len(lengths))
    return length
