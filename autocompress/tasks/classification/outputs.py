"""What the outputs of a classifier mean: scores before a softmax, or probabilities already.

Distillation, cross-entropy and the sensitivity table need scores: numbers whose softmax is the distribution over the
classes. Scores follow from probabilities by their logarithm.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from autocompress.tensors.likelihood import TEMPERATURE, Categorical
from autocompress.tensors.named import Inputs, the_tensor

Meaning = Literal["scores", "log-probabilities", "probabilities", "independent probabilities"]
DESCRIPTIONS: dict[Meaning, str] = {
    "scores": "class scores before softmax",
    "log-probabilities": "logarithms of class probabilities",
    "probabilities": "class probabilities",
    "independent probabilities": "a probability for each class by itself, which need not sum to 1",
}
# Probabilities below are taken for it, so that logarithms are finite; of independent ones, their distance from 1 too,
# which float32 does not resolve further.
LEAST, LEAST_INDEPENDENT = 1e-30, 1e-7
# How far the sum of a row of probabilities may be from 1.
TOLERANCE = 1e-3


def recognise(outputs: np.ndarray, ends_in_sigmoid: bool = False) -> Meaning:
    """The meaning of the outputs `(N, classes)` of a network for calibration data.

    Rows of probabilities are not negative and sum to 1; so are rows of log-probabilities behind the exponential.
    Outputs of a sigmoid, where the network `ends_in_sigmoid`, are independent probabilities.
    """
    rows = np.asarray(outputs, np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2 or not len(rows) or not np.isfinite(rows).all():
        return "scores"
    if rows.min() >= -1e-6 and np.abs(rows.sum(1) - 1).max() <= TOLERANCE:
        return "probabilities"
    if rows.max() <= 1e-6 and np.abs(np.exp(rows).sum(1) - 1).max() <= TOLERANCE:
        return "log-probabilities"
    if ends_in_sigmoid and rows.min() >= 0 and rows.max() <= 1:
        return "independent probabilities"
    return "scores"


def as_scores(outputs: np.ndarray, meaning: Meaning) -> np.ndarray:
    """Outputs `(N, classes)` of that meaning as scores of the same shape and type."""
    scores: np.ndarray = outputs
    if meaning == "probabilities":
        scores = np.log(np.maximum(outputs, LEAST)).astype(outputs.dtype)
    elif meaning == "independent probabilities":
        inside = np.clip(outputs, LEAST_INDEPENDENT, 1 - LEAST_INDEPENDENT)
        scores = (np.log(inside) - np.log1p(-inside)).astype(outputs.dtype)
    return scores


def explanation(meaning: Meaning) -> str:
    """A sentence for the user, or nothing for scores."""
    if meaning == "scores":
        return ""
    how = "as they are" if meaning == "log-probabilities" else "by their logarithms"
    return f"the network puts out {DESCRIPTIONS[meaning]}: candidates are trained and compared {how}, and files put " \
           "out the same as the network"


class ClassOutputs(Categorical):
    """The distribution over classes of a network whose outputs `(N, classes)` have some meaning."""

    def __init__(self, meaning: Meaning) -> None:
        self.meaning: Meaning = meaning
        self.note, self.fingerprint = explanation(meaning), f"{TEMPERATURE} {meaning}"

    def canonical(self, outputs: Inputs) -> Tensor:
        """Outputs as scores, float32; differentiable."""
        outputs = the_tensor(outputs).float()
        if self.meaning == "probabilities":
            return outputs.clamp_min(LEAST).log()
        if self.meaning == "independent probabilities":
            return outputs.clamp(LEAST_INDEPENDENT, 1 - LEAST_INDEPENDENT).logit()
        return outputs
