"""Quantisation of weights as a plan says, and correction of the biases and norms that it shifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd

import torch
from torch import Tensor

from autocompress.backend.network.compressed import Compressed, weight_bits
from autocompress.backend.network.quantized_weight import QuantizedWeight, per_channel, quantize_weight, round_to_levels
from autocompress.backend.quantize.adaround import round_up_or_down
from autocompress.backend.quantize.gptq import Factor, round_gptq
from autocompress.backend.statistics.calibration import correct_biases, reestimate_norms, runs_before_a_norm
from autocompress.core.plan import Receipt, Scalar
from autocompress.techniques.quantize import DEFAULTS, LARGEST_LEVEL, QUANTIZE, level_limit, steps_of

# Approximate number of weights of a row that its scale is chosen from. At 8 bits the largest weight is added, which
# must not be clipped; below 8 bits GPTQ refits the scale.
SCALE_SAMPLE = 256


def rounded_weight(weight: Tensor, args: Mapping[str, Scalar], second: Tensor | None, mask: Tensor | None,
                   what: str, factor: Callable[[], Factor] | None = None) -> QuantizedWeight:
    """Round a weight as the arguments of a quantize step say.

    Args:
        weight: The weight `(C, …)`.
        args: The arguments of the step.
        second: Second moments `(groups, d, d)` of the input, which weigh an error; None where there are none.
        mask: A mask (bool, of the weight's shape); see `quantize_weight`.
        what: The layer, for an error.
        factor: Returns the factor of the moments, where several widths share it.
    """
    bits, plain = int(args["weight_bits"]), not args.keys() & {"grid", "group"}
    fine = bits == 8 and level_limit(args) == LARGEST_LEVEL  # rounds well by itself
    if bits == 8 and plain and (fine or second is None):
        return _in_eight_bits(weight, mask, level_limit(args))
    if second is None or fine or args.get("rounding") == "nearest":
        return start_weight(weight, args, second, mask)
    if args.get("rounding") == "adaround":
        return round_up_or_down(weight, start_weight(weight, args, second, mask), second, what, mask)
    stride = _sample_stride(weight) if plain else 1  # a codebook asks for more than scales
    start = start_weight(weight.flatten(1)[:, ::stride], args, second,
                         None if mask is None else mask.flatten(1)[:, ::stride])
    return round_gptq(weight, start, second, what, mask, None if factor is None else factor())


def start_weight(weight: Tensor, args: Mapping[str, Scalar], importance: Tensor | None = None,
                 mask: Tensor | None = None) -> QuantizedWeight:
    """Round a weight to the nearest levels of the grid of a quantize step; see `quantize_weight`."""
    return quantize_weight(weight, int(args["weight_bits"]), str(args.get("grid", DEFAULTS["grid"])),
                           int(args.get("group", 0)), importance, mask, level_limit(args))


def _sample_stride(weight: Tensor) -> int:
    """Return a stride over a row that meets every tap of the kernel, because their weights differ in size."""
    row, taps = weight[0].numel(), weight[0, 0].numel()
    return next(stride for stride in range(max(1, row // SCALE_SAMPLE), row + 1) if gcd(stride, taps) == 1)


def _in_eight_bits(weight: Tensor, mask: Tensor | None, limit: int) -> QuantizedWeight:
    """Round to the nearest of evenly spaced 8-bit levels, with scales chosen from a sample of each row."""
    rows = weight.flatten(1)
    sample = torch.cat([rows[:, ::_sample_stride(weight)],
                        rows.take_along_dim(rows.abs().argmax(1, keepdim=True), 1)], 1)
    scale = quantize_weight(sample, 8, limit=limit).scale
    levels = round_to_levels(weight / per_channel(scale, weight), 8, limit=limit)
    return QuantizedWeight(8, (levels if mask is None else levels * mask).to(torch.int8), scale, limit=limit)


def quantize(result: Compressed, calibration: Tensor, weights: dict[str, QuantizedWeight]) -> None:
    """Put weights on their integer grids, in place, and correct the shifts that this causes.

    Norms are re-estimated behind the quantised weights, towards `result.norms`. Layers without a norm behind them have
    the mean shift of their outputs subtracted from their bias.

    Args:
        result: The network with the other steps of its plan applied.
        calibration: Normalised inputs `(N, …)`.
        weights: The quantised weights, by module name.

    Source: Nagel et al., "Data-Free Quantization" (ICCV 2019), section 4.2, for the bias correction, here from
    calibration data.
    """
    widths = weight_bits(result.model, result.plan)
    integer = [name for name, bits in widths.items() if bits <= 8]
    before_norms = runs_before_a_norm(result.model, calibration[:1], integer)
    means = {}
    if before_norms:  # a shift that a later norm sees must be corrected before that norm is re-estimated
        means = reestimate_norms(result.model, calibration, before_norms, result.norms)
    shifts = {}
    with torch.no_grad():
        for name, bits in widths.items():
            module = result.model.get_submodule(name)
            weight = module.weight
            assert isinstance(weight, Tensor)
            if bits == 16:
                weight.copy_(weight.half().float())
            elif bits <= 8:
                rounded = weights[name]
                if getattr(module, "bias", None) is not None:
                    shifts[name] = rounded.dequantized() - weight
                weight.copy_(rounded.dequantized())
                result.weights[name] = rounded
    correct_biases(result.model, shifts, means)
    if result.plan.steps:
        uncorrected = [name for name in shifts if name not in means]
        correct_biases(result.model, shifts, reestimate_norms(result.model, calibration, uncorrected, result.norms))
    for site, step in steps_of(result.plan).items():
        result.receipts.append(Receipt(site, QUANTIZE.name, {
            "weight_bits": step.args["weight_bits"],
            "scales": {name: [round(float(s), 9) for s in q.scale[:4]] for name, q in result.weights.items()
                       if name == site or name.rpartition(".")[0] == site},
        }))
