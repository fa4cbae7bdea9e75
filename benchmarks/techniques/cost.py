"""What it costs to apply a plan, apart from passes over the calibration data."""

from __future__ import annotations

import statistics
import time

from bench import Bench, Cost
from rows import factored, pruned, quantized

from autocompress.backend.statistics.calibration import reestimate_norms
from autocompress.core.plan import Plan
from autocompress.techniques.decompose import METHODS

REPEATS = 3


def cost_rows(on: Bench) -> None:
    """Milliseconds of processor, the median of `REPEATS`."""
    bench, compressor = on.bench, on.bench.network.compressor
    began = time.process_time()
    compressor.statistics.moments("")
    on.add(Cost("moments of all inputs, once a network", _since(began)))
    plans = {f"{share:.0%} of the channels removed": pruned(on, share) for share in (0.3, 0.6)}
    plans |= {f"{bits}-bit weights": quantized(on, bits) for bits in (8, 4, 2)}
    plans |= {f"{share:.0%} of the channels removed, 4-bit weights":
              Plan.of([*pruned(on, share).steps, *quantized(on, 4).steps]) for share in (0.3, 0.6)}
    plans |= {f"{method} at 25% of the weights": factored(on, method) for method in METHODS}
    for name, plan in plans.items():
        if not plan.steps:
            continue
        first, again, passes = [], [], []
        for _ in range(REPEATS):
            compressor.forget()
            for into in (first, again):
                began = time.process_time()
                structured = compressor.restructure(plan)
                compressor.rounded(structured)
                into.append(_since(began))
            began = time.process_time()
            reestimate_norms(structured.model, bench.network.calibration)
            passes.append(_since(began))
        on.add(Cost(name, *(statistics.median(times) for times in (first, again, passes))))


def _since(began: float) -> float:
    return 1000 * (time.process_time() - began)
