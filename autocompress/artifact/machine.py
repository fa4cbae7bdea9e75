"""The machine that this process runs on, as far as a latency depends on it."""

from __future__ import annotations

import platform
from pathlib import Path

from autocompress.artifact.manifest import Machine


def this_machine() -> Machine:
    """The processor's name, and the system; empty where the system does not tell."""
    return Machine(_processor(), f"{platform.system()} {platform.machine()}".strip())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")), "")
    return named or platform.processor()
