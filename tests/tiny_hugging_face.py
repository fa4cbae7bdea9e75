"""Networks of transformers, as small as they can be, in folders as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from autocompress.tasks.vision import mend_torchvision

WORDS = ("good", "fine", "great", "bad", "poor", "awful", "a", "the", "movie", "plot", "was", "actor")


def save_bert(folder: Path, kind: str = "BertForSequenceClassification", **options: Any) -> Any:
    """A network of BERT's form that knows `WORDS`, with its tokenizer; given back as it was saved."""
    mend_torchvision()
    import transformers

    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=5 + len(WORDS), hidden_size=32, num_hidden_layers=1,
                                     num_attention_heads=2, intermediate_size=64, max_position_embeddings=32, **options)
    model = getattr(transformers, kind)(config).eval()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return model
