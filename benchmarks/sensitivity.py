"""The sensitivity table against sensitivity_table measured one at a time.

    python benchmarks/sensitivity.py --network mobilenet --base DIR [--steps 60] [--images 500]

DIR as for `benchmarks/techniques`. The table of the space `default` is made from calibration images; then so many of
its steps, drawn with seed 0, are carried out alone, and the divergence of their answers from the original's is measured
on validation images (softened as in the prediction, and as they are). Writes `benchmarks/sensitivity.json` and, from
it, `benchmarks/sensitivity.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).with_name("techniques")))
from bench import NETWORKS, Bench

from autocompress.backend.sensitivity import fisher as predicted
from autocompress.core.plan import Plan, Step
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study import sensitivity as study
from autocompress.tensors.likelihood import TEMPERATURE

RESULT = Path(__file__).with_suffix(".json")
SEED = 0


def measure(network: str, base: Path, steps: int, images: int, scratch: Path) -> dict[str, Any]:
    """Predict all, measure some."""
    on = Bench(network, base, "validation", images, scratch)
    bench = on.bench
    space = build_space(bench.network.table, load_space("default"), bench.evaluator.profile)
    bench.network.compressor.statistics.moments(
        bench.network.table.layers[0].name
    )  # shared with every plan, and counted there
    began = time.process_time()
    with torch.no_grad():
        for batch in bench.network.calibration.split(64):
            bench.network.model(batch)
    forward_s = time.process_time() - began
    options = [step for step, _ in study.options(space)]
    began = time.process_time()
    sensitivities = predicted.sensitivities(bench.network.compressor, options)
    table_s = time.process_time() - began
    numbers = random.Random(SEED).sample(range(len(options)), min(steps, len(options)))
    inputs = bench.network.task.normalise(on.split.inputs)
    with torch.no_grad():
        original = bench.network.model(inputs).double()
    rows = []
    for number in numbers:
        with torch.no_grad():
            answers = bench.network.compressor.compress(Plan.of([options[number]])).model(inputs).double()
        rows.append(
            {
                "technique": options[number].technique,
                "step": describe(options[number]),
                "predicted": sensitivities[number],
                "softened": divergence(answers, original, TEMPERATURE),
                "plain": divergence(answers, original, 1.0),
            }
        )
        print(rows[-1], flush=True)
    return {"options": len(options), "forward_s": forward_s, "table_s": table_s, "images": images, "rows": rows}


def divergence(answers: torch.Tensor, original: torch.Tensor, temperature: float) -> float:
    """Of the answers from the original's, in nats."""
    one, other = ((logits / temperature).log_softmax(1) for logits in (answers, original))
    return float(F.kl_div(one, other, log_target=True, reduction="batchmean"))


def describe(step: Step) -> str:
    """Site and arguments."""
    return f"{step.site} {', '.join(f'{name} {value}' for name, value in step.args.items())}"


def table(results: dict[str, Any]) -> str:
    """All networks measured so far as Markdown."""
    lines = ["# The sensitivity table", "", "`python benchmarks/sensitivity.py --network NAME --base DIR`, seed 0, one "
             f"thread on a shared machine of {os.cpu_count()} cores, {platform.machine()}. Predicted from "
             f"{predicted.SAMPLES[0]} unlabelled calibration images; measured by carrying out one step at a time, on "
             "validation images.", ""]
    for network, result in results.items():
        frame = pd.DataFrame(result["rows"])
        lines += [f"## {network}", "",
                  f"{result['options']} options predicted in {result['table_s']:.0f} s of processor, "
                  f"{result['table_s'] / result['forward_s']:.0f} times a forward pass of the 512 calibration images; "
                  f"making the changed weights takes most of it. {len(frame)} options measured on {result['images']} "
                  "images.", "", "| steps | number | rank correlation | median measured / predicted | middle 80% |",
                  "|---|---|---|---|---|"]
        for name, part in [("all", frame), *frame.groupby("technique")]:
            ranks = part[["predicted", "softened"]].rank()
            ratio = part["softened"] / part["predicted"]
            correlation = ranks["predicted"].corr(ranks["softened"]) if len(part) > 2 else np.nan
            lines.append(f"| {name} | {len(part)} | {correlation:.3f} | {ratio.median():.2f} | "
                         f"{ratio.quantile(0.1):.2f} to {ratio.quantile(0.9):.2f} |")
        plain = frame[["predicted", "plain"]].rank()
        lines += ["", f"Rank correlation with the divergence of plain answers: "
                  f"{plain['predicted'].corr(plain['plain']):.3f}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure one network and write the tables anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with TemporaryDirectory() as scratch:
        results[args.network] = measure(args.network, args.base, args.steps, args.images, Path(scratch))
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
