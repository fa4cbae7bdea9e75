"""ResNet-18 on Fashion-MNIST at four sizes: one `autocompress search` command each, the shipped file measured.

    python benchmarks/fashion.py --base DIR [--timeout 10m] [--seed 0] [--sizes 1.9MB …] [--parallel 1]

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

BY_HAND = {"1.9MB": (1_900_433, 92.25), "0.94MB": (937_164, 92.03), "0.48MB": (476_608, 91.18),
           "0.25MB": (245_653, 90.06)}
PEERS = {"1.9MB": 92.91, "0.94MB": 92.24, "0.48MB": 91.39, "0.25MB": 90.06}
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
    return {**study.to_dict(), "timings": study.view().timings, "jobs": jobs_used}


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
    lines = [
        "# ResNet-18 on Fashion-MNIST, four sizes", "",
        f"`python benchmarks/fashion.py --base DIR --timeout {timeout} --seed {seed} --parallel {parallel}`: one "
        f"`autocompress search --budget SIZE --timeout {timeout}` a row, set-up, search, export and "
        "verification included.", "",
        f"Machine class: {os.cpu_count()} cores, {platform.machine()}, no GPU; {parallel} sizes at a time, so "
        f"{max(1, (os.cpu_count() or 1) // parallel)} core(s) each. One seed; the standard error of a test "
        "accuracy is about 0.25 points. Original: 44.7 MB, 93.11%.", "",
        "| budget | file bytes | test % | by hand % | peers' best % | latency ratio | seconds | trials | `--jobs` | "
        "overhead |", "|---|---|---|---|---|---|---|---|---|---|"]
    for size, document in rows.items():
        artifact, timings = document["artifact"], document["timings"]
        seconds = document["seconds"]
        shared = sum(timings.get(phase, 0.0) for phase in PASSES) / document["jobs"]
        overhead = 1 - (shared + sum(timings.get(phase, 0.0) for phase in ALONE)) / seconds
        lines.append(
            f"| {size} | {artifact['size_bytes']:,} | **{100 * artifact['accuracy']:.2f}** | {BY_HAND[size][1]:.2f} | "
            f"{PEERS[size]:.2f} | {artifact['latency_ms'] / artifact['baseline_latency_ms']:.3f} | {seconds:.0f} | "
            f"{sum(document['trials'].values())} | {document['jobs']} | {100 * overhead:.0f}% |")
    lines += ["", "Budgets are decimal megabytes of `model.onnx`; the by-hand and peer files have 1,900,433, 937,164, "
              "476,608 and 245,653 bytes (peers up to 2.08 MB in the first row).", "",
              "Overhead is everything but distillation, scoring, timing and verification: loading, tracing, the one "
              "export, sampling, storage, compressing (its calibration passes too), building files.", "",
              "Where the time goes, seconds (summed over the processes):", "", "| phase | " + " | ".join(rows) + " |",
              "|---|" + "---|" * len(rows)]
    phases = sorted({p for d in rows.values() for p in d["timings"]},
                    key=lambda p: -max(d["timings"].get(p, 0) for d in rows.values()))
    lines += [f"| {p} | " + " | ".join(f"{d['timings'].get(p, 0):.1f}" for d in rows.values()) + " |" for p in phases]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every size and write the table after each, so that an interruption loses one row only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--timeout", default="15m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", nargs="+", default=list(BY_HAND), choices=list(BY_HAND))
    parser.add_argument("--keep", type=Path, help="folder for the studies (default: a temporary one)")
    parser.add_argument("--jobs", type=int, default=1, help="processes of each search, one core each")
    parser.add_argument("--parallel", type=int, default=1, help="sizes at a time; they share the cores evenly")
    given = parser.parse_args()
    rows: dict[str, dict] = {}
    threads = max(1, (os.cpu_count() or 1) // given.parallel)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(given.parallel) as pool:
        folder = given.keep or Path(scratch)
        runs = {size: pool.submit(run, size, given.base, given.timeout, given.seed, given.jobs, folder, threads)
                for size in given.sizes}
        for size, future in runs.items():
            rows[size] = future.result()
            text = table(rows, given.timeout, given.seed, given.parallel)
            Path(__file__).with_suffix(".md").write_text(text)
            print(text, flush=True)


if __name__ == "__main__":
    main()
