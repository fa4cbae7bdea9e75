"""What tests of sources write, and a tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import wavfile


def write_wav(path: Path, values: np.ndarray, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, values)
    return path


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


class WordTokenizer:
    """A tokenizer as of transformers: a word is its length."""

    pad_token_id = 0
    model_max_length = 64

    def __call__(self, text: str, padding: str = "", truncation: bool = False,
                 max_length: int | None = None) -> dict[str, list[int]]:
        ids = [1 + len(word) for word in text.split()][: max_length if truncation else None]
        filled = (max_length or 0) - len(ids) if padding else 0
        return {"input_ids": ids + [0] * filled, "attention_mask": [1] * len(ids) + [0] * filled}
