"""Regression: numbers, from outputs of the targets' shape."""

from __future__ import annotations

from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.kinds.base import KindContext, KindFacts, chosen_output, named_measure
from autocompress.tasks.sources.base import TARGET


def regression(context: KindContext) -> KindFacts:
    """The root of the mean squared error, and R² beside it; without targets, the distance to the original."""
    source = context.source
    if not source.labelled:
        return KindFacts(())
    if source.class_names:
        raise InputError(f"{source.name}: targets of a regression must be numbers, but are names such as "
                         f"{', '.join(source.class_names[:3])}: for classes use --task classification")
    target_shape = context.batch[TARGET].shape

    def suits(tensor: Tensor) -> bool:
        return [size for size in tensor.shape[1:] if size != 1] == [size for size in target_shape[1:] if size != 1]

    what = f"numbers of the targets' shape {tuple(target_shape)}"
    output = chosen_output(context, suits, ("logits", "predictions"), what)
    return KindFacts([named_measure("rmse", output), named_measure("r2", output)], predictions=output)
