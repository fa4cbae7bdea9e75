"""AdaRound: each weight rounded up or down as a learned variable says.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (ICML 2020). The error of a layer's
output is tr(E H Eᵀ), so the second moments H of its input take the place of data, and the gradient is a product.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autocompress.backend.network.quantized_weight import QuantizedWeight, level_table, spread
from autocompress.backend.quantize.gptq import as_columns, from_columns, refitted
from autocompress.backend.statistics.reconstruct import damped
from autocompress.errors import TrialError

# Steps, learning rate and betas of Adam; the rate falls to zero along a cosine. Five hundred steps at a third of the
# rate end with a smaller error, at two and a half times the cost.
STEPS, RATE, BETAS = 200, 1.0, (0.9, 0.99)
# Share of the steps without the regulariser, the regulariser's weight for inputs of second moment 1, and its exponent
# at first and at last.
WARM, PRESSURE, SHARPEST, BLUNTEST = 0.2, 20.0, 20.0, 2.0
# Length by which the rectified sigmoid reaches beyond 0 and beyond 1 before it is clipped.
STRETCH = 0.1


def round_up_or_down(weight: Tensor, start: QuantizedWeight, second: Tensor, what: str = "a layer",
                     mask: Tensor | None = None) -> QuantizedWeight:
    """Round each weight to one of the two levels beside it by AdaRound.

    A channel whose outputs would be farther from those of `weight` than with the levels of `start` keeps these.

    Args:
        weight: The weight `(C, …)`.
        start: The same weight on its grid, rounded in another way.
        second: Second moments `(groups, d, d)` of the input, in columns or (wide convolutions) in channels.
        what: The layer, for an error.
        mask: A mask (bool, of the weight's shape); where it is False the level is zero.

    Raises:
        TrialError: The moments are not finite.
    """
    if not torch.isfinite(second).all():
        raise TrialError(f"the moments of the input of {what} must be finite, but are not: look for NaN or infinite "
                         "values in the network or in the calibration data")
    groups, d = second.shape[:2]
    hessian = damped(second)
    power = hessian.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    table = level_table(start)
    ratio = weight / start.steps()
    below = torch.bucketize(ratio, table).sub_(1).clamp_(0, len(table) - 2)
    low, high = (level if mask is None else level * mask for level in (table[below], table[below + 1]))
    factor = torch.ones_like(weight) if start.factors is None else spread(start.factors, start.group, weight)
    gap = as_columns((high - low) * factor, groups, d)
    unit = gap.mean(1, keepdim=True).clamp_min(1e-6)  # a gap is about 1: rows are alike to the regulariser
    aim = as_columns((ratio - low) * factor, groups, d) / unit
    up = from_columns(_learned(aim, gap / unit, hessian / power), tuple(weight.shape))
    learned = refitted(weight, replace(start, levels=torch.where(up, high, low).to(torch.int8)), second)
    better = output_error(weight, learned, hessian) < output_error(weight, start, hessian)
    levels = torch.where(better.reshape(-1, *[1] * (weight.dim() - 1)), learned.levels, start.levels)
    return replace(start, levels=levels, scale=torch.where(better, learned.scale, start.scale))


def output_error(weight: Tensor, rounded: QuantizedWeight, hessian: Tensor) -> Tensor:
    """Compute tr(E H Eᵀ) of each output channel `(C,)` from rounding errors E and the `hessian` H `(groups, d, d)`."""
    errors = as_columns(rounded.dequantized() - weight, *hessian.shape[:2])
    each = torch.bmm(hessian, errors).mul_(errors).sum(1)  # (groups, rows)
    return each.reshape(len(weight), -1).sum(1)


def _learned(aim: Tensor, gap: Tensor, hessian: Tensor) -> Tensor:
    """Learn where to round up, bool `(groups, d, rows)`, so that `gap` times 0 or 1 comes near to `aim` under H."""
    share = (aim / gap.clamp_min(1e-6)).clamp_(0.0, 1.0)
    variable = torch.logit((share + STRETCH) / (1 + 2 * STRETCH))
    variable.requires_grad_(True)
    adam = torch.optim.Adam([variable], lr=RATE, betas=BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
    for step in range(STEPS):
        with torch.no_grad():
            smooth = variable.sigmoid()
            share = (smooth * (1 + 2 * STRETCH) - STRETCH).clamp_(0.0, 1.0)
            slope = torch.bmm(hessian, share * gap - aim).mul_(gap).mul_(2)
            progress = (step / STEPS - WARM) / (1 - WARM)
            if progress >= 0:
                exponent = BLUNTEST + (SHARPEST - BLUNTEST) * (1 - progress)
                side = share * 2 - 1
                slope -= side.sign() * side.abs().pow_(exponent - 1) * (2 * PRESSURE * exponent)
            inside = (share > 0) & (share < 1)
            variable.grad = slope.mul_(smooth * (1 - smooth)).mul_(inside)
        adam.step()
        schedule.step()
    return variable.detach() > 0
