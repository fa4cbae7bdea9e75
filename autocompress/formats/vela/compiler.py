"""Vela, the compiler for Ethos-U, run in a process of its own: the compiled file, and what it says of it."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from autocompress.errors import TrialError

KIB = 1024
SECONDS = 600


@dataclass(frozen=True)
class Accelerator:
    """One of Vela's targets: its name there, and the system and memory of its configuration file `Arm/vela.ini`."""

    name: str
    system: str
    memory: str

    @property
    def arguments(self) -> list[str]:
        """Arguments of the command line."""
        return ["--accelerator-config", self.name, "--config", "Arm/vela.ini", "--system-config", self.system,
                "--memory-mode", self.memory]


@dataclass(frozen=True)
class Compiled:
    """A compiled file. `seconds`, `cycles`: of one inference at the configuration's clock; `ram_bytes`: of activations
    and staged weights; `flash_bytes`: of weights after compression, scales and biases; `on_cpu`: how many operators the
    accelerator does not compute, of `operators`."""

    data: bytes
    seconds: float
    cycles: int
    ram_bytes: int
    flash_bytes: int
    operators: int
    on_cpu: int


def compile_file(data: bytes, accelerator: Accelerator) -> Compiled:
    """Compile a .tflite file.

    Raises:
        TrialError: when Vela refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="autocompress-") as place:
        folder = Path(place)
        (folder / "model.tflite").write_bytes(data)
        command = [sys.executable, "-m", "ethosu.vela", *accelerator.arguments, "--output-dir", place,
                   str(folder / "model.tflite")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        compiled, summaries = folder / "model_vela.tflite", [*folder.glob("model_summary_*.csv")]
        if done.returncode or not compiled.exists() or not summaries:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise TrialError(f"Vela refuses the file: {lines[-1] if lines else 'it says nothing'}")
        with summaries[0].open(encoding="utf-8") as stream:
            (row,) = csv.DictReader(stream)
        counts = {kind: int(match[1]) if (match := re.search(rf"{kind} operators = (\d+)", done.stdout)) else 0
                  for kind in ("CPU", "NPU")}
        stored = sum(float(row[f"{kind}_memory_used"]) for kind in ("dram", "on_chip_flash", "off_chip_flash"))
        return Compiled(compiled.read_bytes(), float(row["inference_time"]), int(float(row["cycles_total"])),
                        round(float(row["sram_memory_used"]) * KIB), round(stored * KIB), sum(counts.values()),
                        counts["CPU"])
