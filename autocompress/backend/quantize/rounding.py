"""From float weights to the integers that a plan asks for, and what that shifts made good."""

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
from autocompress.techniques.quantize import DEFAULTS, LARGEST_LEVEL, level_limit

SCALE_SAMPLE = 256
"""About so many weights of a row are those from which its scale is chosen: at 8 bits together with the largest, which
must not be cut off; below, feedback refits the scale."""


def rounded_weight(weight: Tensor, args: Mapping[str, Scalar], second: Tensor | None, kept: Tensor | None,
                   what: str, factor: Callable[[], Factor] | None = None) -> QuantizedWeight:
    """`weight` `(C, …)` rounded as the arguments of a quantize step say.

    `second`: moments `(groups, d, d)` of the input that weigh an error, where they are known. `kept`: see
    `quantize_weight`. `what` names the layer in an error. `factor` gives that of the moments, where it is shared.
    """
    bits, plain = int(args["weight_bits"]), not args.keys() & {"grid", "group"}
    fine = bits == 8 and level_limit(args) == LARGEST_LEVEL  # rounds well by itself
    if bits == 8 and plain and (fine or second is None):
        return _in_eight_bits(weight, kept, level_limit(args))
    if second is None or fine or args.get("rounding") == "nearest":
        return start_weight(weight, args, second, kept)
    if args.get("rounding") == "adaround":
        return round_up_or_down(weight, start_weight(weight, args, second, kept), second, what, kept)
    every = _every(weight) if plain else 1  # a codebook asks for more than scales
    start = start_weight(weight.flatten(1)[:, ::every], args, second,
                         None if kept is None else kept.flatten(1)[:, ::every])
    return round_gptq(weight, start, second, what, kept, None if factor is None else factor())


def start_weight(weight: Tensor, args: Mapping[str, Scalar], importance: Tensor | None = None,
                 kept: Tensor | None = None) -> QuantizedWeight:
    """`weight` on the grid that the arguments of a quantize step give it; see `quantize_weight`."""
    return quantize_weight(weight, int(args["weight_bits"]), str(args.get("grid", DEFAULTS["grid"])),
                           int(args.get("group", 0)), importance, kept, level_limit(args))


def _every(weight: Tensor) -> int:
    """The step of a sample of a row that meets every tap of the kernel: their weights differ in size."""
    row, taps = weight[0].numel(), weight[0, 0].numel()
    return next(every for every in range(max(1, row // SCALE_SAMPLE), row + 1) if gcd(every, taps) == 1)


def _in_eight_bits(weight: Tensor, kept: Tensor | None, limit: int) -> QuantizedWeight:
    """Linear levels, nearest, with scales chosen from a sample of each row."""
    rows = weight.flatten(1)
    sample = torch.cat([rows[:, ::_every(weight)],
                        rows.take_along_dim(rows.abs().argmax(1, keepdim=True), 1)], 1)
    scale = quantize_weight(sample, 8, limit=limit).scale
    levels = round_to_levels(weight / per_channel(scale, weight), 8, limit=limit)
    return QuantizedWeight(8, (levels if kept is None else levels * kept).to(torch.int8), scale, limit=limit)


def quantize(result: Compressed, calibration: Tensor, weights: dict[str, QuantizedWeight]) -> None:
    """Put weights on their integer grids, in place, and repair what that shifts.

    Norms are re-estimated behind the quantised weights, towards `result.norms`; layers without a norm behind them
    get their bias corrected by the mean shift (Nagel et al., "Data-Free Quantization", ICCV 2019, section 4.2, from
    calibration data). `weights` are the integers.
    """
    widths = weight_bits(result.model, result.plan)
    integer = [name for name, bits in widths.items() if bits <= 8]
    early = runs_before_a_norm(result.model, calibration[:1], integer)
    means = {}
    if early:  # a shift that a later norm sees must be gone before that norm is re-estimated
        means = reestimate_norms(result.model, calibration, early, result.norms)
    shifts = {}
    with torch.no_grad():
        for name, bits in widths.items():
            module = result.model.get_submodule(name)
            weight = module.weight
            assert isinstance(weight, Tensor)
            if bits == 16:
                weight.copy_(weight.half().float())
            elif bits <= 8:
                chosen = weights[name]
                if getattr(module, "bias", None) is not None:
                    shifts[name] = chosen.dequantized() - weight
                weight.copy_(chosen.dequantized())
                result.weights[name] = chosen
    correct_biases(result.model, shifts, means)
    if result.plan.steps:
        late = [name for name in shifts if name not in means]
        correct_biases(result.model, shifts, reestimate_norms(result.model, calibration, late, result.norms))
    for site, step in result.plan.find("quantize").items():
        result.receipts.append(Receipt(site, "quantize", {
            "weight_bits": step.args["weight_bits"],
            "scales": {name: [round(float(s), 9) for s in q.scale[:4]] for name, q in result.weights.items()
                       if name == site or name.rpartition(".")[0] == site},
        }))
