"""Classification: one class for each sample, from scores `(N, classes)`; of two classes also from one number."""

from __future__ import annotations

from autocompress.tasks.classification.metric import ACCURACY
from autocompress.tasks.kinds.base import KindContext, KindFacts, chosen_output, named_measure, of_classes


def classification(context: KindContext) -> KindFacts:
    """The share of right answers; without labels, agreement with the original."""
    output = chosen_output(context, lambda tensor: tensor.dim() <= 2, ("logits", "scores"), "scores (N, classes)")
    return of_classes(context, output, [named_measure(ACCURACY.name, output)])
