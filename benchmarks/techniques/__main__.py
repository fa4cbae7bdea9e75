"""Each technique alone on a network trained on Fashion-MNIST, beside reference implementations.

    python benchmarks/techniques --network resnet18 --base DIR [--split test] [--limit N] [--only prune bits …]

DIR holds the weights: `resnet18_fashion.safetensors` with its `resnet18_fashion.py`, or `mobilenet.safetensors`, which
`benchmarks/mobilenet.py` trains. Every row is a file run in ONNX Runtime. The references are torch-pruning's own
magnitude pruner, round-to-nearest, ONNX Runtime's static quantiser and plain decompositions; where a method changes
the torch network, norms are re-estimated on the same images. Writes `benchmarks/techniques/NETWORK.json` and, from
all of those, `benchmarks/techniques.md`; with `--only` the other rows stay.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import torch
from bench import HERE, NETWORKS, Bench, Results
from cost import REPEATS, cost_rows
from rows import bit_rows, epoch_rows, grid_rows, prune_rows, range_rows, rank_rows, sparsity_rows

from autocompress.core.plan import Plan

KINDS = {"cost": cost_rows, "bits": bit_rows, "rank": rank_rows, "prune": prune_rows, "grids": grid_rows,
         "ranges": range_rows, "sparsity": sparsity_rows, "epoch": epoch_rows}


def table() -> str:
    """Everything measured so far as Markdown."""
    lines = ["# Each technique alone", "", "Accuracy of the file in ONNX Runtime, without any training unless a row "
             "says so; 512 calibration images without labels, seed 0. Seconds are wall clock on a shared machine of "
             f"{os.cpu_count()} cores, {platform.machine()}; the first row of ours includes statistics that the others "
             "share. The layers that svd factors at a quarter of their weights include the classifier of ten classes, "
             "which that leaves at rank 2: those rows say what two directions tell apart, untrained and trained. "
             "Rows after one epoch are of training by SGD; it is by Adam now.", ""]
    for path in sorted(HERE.glob("*.json")):
        runs = msgspec.json.decode(path.read_bytes(), type=Results)
        lines += [f"## {runs.network}", "",
                  f"`python benchmarks/techniques --network {runs.network} --base DIR --split {runs.split} --limit "
                  f"{runs.samples}`, {runs.threads} thread(s). Standard error of an accuracy of 93%: "
                  f"{100 * (0.93 * 0.07 / runs.samples) ** 0.5:.2f} points.", "",
                  "| what | how | bytes | accuracy % | seconds |", "|---|---|---|---|---|"]
        lines += [f"| {r.group} | {r.name} | {r.bytes:,} | {100 * r.accuracy:.2f} | {r.seconds:.1f} |"
                  for r in runs.rows]
        if runs.costs:
            lines += ["", f"Milliseconds of processor, median of {REPEATS}: to apply a plan the first time; again, "
                      "with the layers that the study still holds; and one pass over the calibration data through "
                      "the result, which every plan needs once more.", "",
                      "| plan | first | again | one pass |", "|---|---|---|---|"]
            lines += [f"| {c.plan} | {c.first:,.0f} | {c.again:,.0f} | {c.one_pass:,.0f} |" for c in runs.costs
                      if c.first >= 1]  # what was on disk from a run before costs nothing, and says nothing
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run the kinds asked for and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--limit", type=int, help="score on the first N of the split")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        on = Bench(args.network, args.base, args.split, args.limit, Path(scratch))
        on.ours("nothing", "original", Plan())
        for kind in args.only:
            KINDS[kind](on)
            HERE.with_suffix(".md").write_text(table())


if __name__ == "__main__":
    main()
