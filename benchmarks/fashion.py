"""ResNet-18 on Fashion-MNIST at five sizes: one `autocompress search` command each, the shipped file measured.

    python benchmarks/fashion.py --base DIR [--timeout 15m] [--seed 0] [--sizes 2MB …] [--jobs 2] [--parallel 1]

DIR holds `resnet18_fashion.py` and `resnet18_fashion.safetensors` (93.11% test). Writes `benchmarks/fashion.md`.
Accuracies are the exported file's on the 10,000 test images, which the search never sees; one seed, standard error
about 0.25 points. The comparison rows are published beside the base network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from autocompress.core.evaluation import LONG, Candidate

SIZES: dict[str, tuple[float, float | None, float]] = {
    "2MB": (93.4, 92.91, 92.77), "1MB": (93.3, 92.24, 92.77), "0.5MB": (93.1, 91.39, 92.77),
    "0.25MB": (92.8, 90.06, 92.52), "0.1MB": (91.5, None, 90.04)}
"""Test accuracies: our goal, the best file of others within the size, and the best of a uniform cut with 3- or 4-bit
quantisation-aware distillation (a torch model with float activations; bytes of packed weights alone)."""
JOBS = "jobs.txt"
"""Beside each study: in how many processes it ran."""
PASSES = ("distill", "score", "time")
"""Phases that run networks, in all processes; everything else is counted as overhead, also the calibration passes in
`compress`."""
ALONE = ("original", "averaging", "verify")
"""The same, in one process."""


def run(size: str, base: Path, timeout: str, seed: int, jobs: int, folder: Path, threads: int) -> dict[str, object]:
    """One search; its `--json` document, with the seconds of each phase. A study that is complete in `folder` (see
    `--keep`) is read, not run again."""
    if not (folder / size / "artifact" / "manifest.json").exists():
        search(size, base, timeout, seed, jobs, folder, threads)
    import autocompress

    study = autocompress.open_study(folder / size)
    noted = folder / size / JOBS
    jobs_used = int(noted.read_text()) if noted.exists() else jobs
    trained = [c for c in study.candidates if c.reached]
    long = sum(e.timings.get(phase, 0.0) for c in trained for e in c.evaluations if e.rung == LONG for phase in PASSES)
    return {**study.to_dict(), "timings": study.view().timings, "jobs": jobs_used, "long": long,
            "trained": [climbed(c, size) for c in sorted(trained, key=lambda c: -c.metrics["accuracy"])]}


def climbed(candidate: Candidate, size: str) -> str:
    """A row of what the rungs made of a candidate: accuracy and cross-entropy on validation data, steps of training."""
    cells = []
    for evaluation in candidate.evaluations:
        steps = [r.facts["steps"] for r in evaluation.receipts if r.technique == "distill"]
        figures = f"{100 * evaluation.metrics['accuracy']:.2f} / {evaluation.metrics['cross_entropy']:.4f}"
        cells.append(figures + (f" ({steps[0]})" if steps else ""))
    cells += ["–"] * (4 - len(cells))
    millions = candidate.metrics["macs"] / 1e6
    return f"| {size} | {candidate.trial} ({candidate.origin}) | {millions:.1f} | {' | '.join(cells)} |"


def search(size: str, base: Path, timeout: str, seed: int, jobs: int, folder: Path, threads: int) -> None:
    """The one command."""
    command = ["autocompress", "search", "--model", f"{base / 'resnet18_fashion.py'}:model", "--weights",
               str(base / "resnet18_fashion.safetensors"), "--data", "fashion-mnist", "--budget", size,
               "--timeout", timeout, "--trials", "1000", "--seed", str(seed), "--jobs", str(jobs),
               "--out", str(folder / size), "--json"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    json.loads(done.stdout)
    (folder / size / JOBS).write_text(str(jobs))


def table(rows: dict[str, dict], timeout: str, seed: int, parallel: int) -> str:
    """The result as Markdown."""
    cores = os.cpu_count() or 1
    lines = [
        "# ResNet-18 on Fashion-MNIST", "",
        f"`python benchmarks/fashion.py --base DIR --timeout {timeout} --seed {seed} --parallel {parallel}`: one "
        f"`autocompress search --budget SIZE --timeout {timeout}` a row, set-up, search, export and "
        "verification included.", "",
        f"Machine class: {cores} cores, {platform.machine()}, no GPU; {parallel} sizes at a time, so "
        f"{max(1, cores // parallel)} core(s) each. One seed; the standard error of a test "
        "accuracy is about 0.25 points. Original: 44.7 MB, 93.11%.", "",
        "| budget | file bytes | test % | goal % | peers' best % | plain recipe % | latency ratio | seconds | trials | "
        "`--jobs` | overhead |", "|---" * 11 + "|"]
    for size, document in rows.items():
        artifact, timings = document["artifact"], document["timings"]
        seconds = document["seconds"]
        # The long training has the cores of all processes, the others one each.
        shared = (sum(timings.get(phase, 0.0) for phase in PASSES) - document["long"]) / document["jobs"]
        overhead = 1 - (shared + document["long"] + sum(timings.get(phase, 0.0) for phase in ALONE)) / seconds
        goal, peers, plain = SIZES[size]
        lines.append(
            f"| {size} | {artifact['size_bytes']:,} | **{100 * artifact['accuracy']:.2f}** | {goal:.1f} | "
            f"{'–' if peers is None else f'{peers:.2f}'} | {plain:.2f} | "
            f"{artifact['latency_ms'] / artifact['baseline_latency_ms']:.3f} | {seconds:.0f} | "
            f"{sum(document['trials'].values())} | {document['jobs']} | {100 * overhead:.0f}% |")
    lines += ["", "Budgets are decimal megabytes of `model.onnx`. Peers' files have 1,946,769, 984,417, 497,988 and "
              "245,653 bytes. The plain recipe is a uniform cut with 3- or 4-bit quantisation-aware distillation "
              "for 230 to 325 seconds on two quiet cores, the ratio chosen by hand: 366,000, 209,000 and 54,400 bytes "
              "of packed weights, activations in float, no file.", "",
              "Overhead is everything but distillation, scoring, timing and verification: loading, tracing, the one "
              "export, sampling, storage, compressing (its calibration passes too), building files.", "",
              "Where the time goes, seconds (summed over the processes):", "", "| phase | " + " | ".join(rows) + " |",
              "|---|" + "---|" * len(rows)]
    phases = sorted({p for d in rows.values() for p in d["timings"]},
                    key=lambda p: -max(d["timings"].get(p, 0) for d in rows.values()))
    lines += [f"| {p} | " + " | ".join(f"{d['timings'].get(p, 0):.1f}" for d in rows.values()) + " |" for p in phases]
    lines += ["", "What training made of every candidate that was trained: accuracy and cross-entropy of its file on "
              "5,000 validation images (original 93.30%), in brackets the steps of 128 images, 430 an epoch.", "",
              "| budget | trial | M MACs | calibrated | briefly | long | averaged |", "|---" * 7 + "|"]
    lines += [row for document in rows.values() for row in document["trained"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every size and write the table after each, so that an interruption loses one row only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--timeout", default="15m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--keep", type=Path, help="folder for the studies (default: a temporary one)")
    parser.add_argument("--jobs", type=int, default=2, help="processes of each search, one core each")
    parser.add_argument("--parallel", type=int, default=1, help="sizes at a time; they share the cores evenly")
    args = parser.parse_args()
    rows: dict[str, dict] = {}
    threads = max(1, (os.cpu_count() or 1) // args.parallel)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(args.parallel) as pool:
        folder = args.keep or Path(scratch)
        runs = {size: pool.submit(run, size, args.base, args.timeout, args.seed, args.jobs, folder, threads)
                for size in args.sizes}
        for size, future in runs.items():
            rows[size] = future.result()
            text = table(rows, args.timeout, args.seed, args.parallel)
            Path(__file__).with_suffix(".md").write_text(text)
            print(text, flush=True)


if __name__ == "__main__":
    main()
