"""What a checkpoint says of the accuracy of its weights."""

from __future__ import annotations

from torch import Tensor

# Keys under which training scripts keep it beside the weights.
_KEYS = ("best_acc1", "best_acc", "best_accuracy", "acc1", "acc", "accuracy", "val_acc", "val_accuracy", "test_acc",
         "test_accuracy", "best_metric", "metric")


def claimed_value(content: object) -> tuple[str, float] | None:
    """The value that a training script kept beside the weights.

    Args:
        content: what a checkpoint holds.

    Returns:
        Its key and the value as a share, 0 to 1, or None where there is none.
    """
    if not isinstance(content, dict):
        return None
    for key in _KEYS:
        value = content.get(key)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 100:
            return key, value / 100 if value > 1 else float(value)
    return None
