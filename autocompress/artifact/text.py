"""Text as tokens, by the tokenizer that ships with a network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from autocompress.artifact.loaded import LoadedArtifact
from autocompress.errors import EnvironmentFault, InputError

# Attributes of what the package tokenizers makes of a text, by the names that transformers give them.
_MADE = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids",
         "special_tokens_mask": "special_tokens_mask"}


def tokens(network: LoadedArtifact, how: Mapping[str, Any], text: str, origin: str) -> dict[str, np.ndarray]:
    """Tokens `(N, length)` by name of the input, of a text with a sample in each line.

    Args:
        network: that they are for, with the file of its tokenizer.
        how: the facts of the manifest: `tokenizer`, `length`, `makes`, `padding`, `truncation`.
        text: lines; empty ones are no samples.
        origin: of the text, for messages.

    Raises:
        InputError: where the text has no line, or the tokenizer is not among the files, or damaged.
        EnvironmentFault: where the package tokenizers is not installed.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{origin} must hold a text in each line, but is empty")
    if find_spec("tokenizers") is None:
        raise EnvironmentFault("text needs the package tokenizers, but it is not installed: "
                               "pip install 'autocompress[hf]'")
    from tokenizers import Tokenizer

    if how["tokenizer"] not in network.files:
        raise InputError(f"the artefact must hold its tokenizer {how['tokenizer']!r}, but does not: export it again")
    try:
        tokenizer = Tokenizer.from_str(network.files[how["tokenizer"]].decode())
        tokenizer.enable_padding(length=how["length"], **how["padding"])
        tokenizer.enable_truncation(how["length"], direction=how["truncation"])
    except Exception as error:  # the package raises bare exceptions
        raise InputError(f"{how['tokenizer']} of the artefact must be a file of the package tokenizers, but: {error}"
                         ) from None
    encoded = tokenizer.encode_batch(lines)
    arrays = {name: np.array([getattr(each, _MADE[name]) for each in encoded]) for name in how["makes"]}
    if len(network.inputs) == 1:
        arrays = {next(iter(network.inputs)): next(iter(arrays.values()))}
    return {name: arrays[name].astype(facts.dtype) for name, facts in network.inputs.items()}
