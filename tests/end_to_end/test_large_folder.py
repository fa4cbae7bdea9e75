"""A folder of 100,000 pictures in 1,000 classes: how soon it is loaded and a candidate is there, and in what memory."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES, EACH, TEMPLATES = 1000, 100, 16
SCRIPT = '''
import json, resource, sys, time
began = time.perf_counter()
from torch import nn
import torch
import autocompress
from autocompress.tasks.data import load_data
from autocompress.tasks.preparation import Preparation

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
                    nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1000))
figures = {}
data = load_data(f"imagefolder:{sys.argv[1]}", preparation=Preparation(32))
figures["loaded"] = time.perf_counter() - began
data.fingerprint
figures["known"] = time.perf_counter() - began

def told(event):
    if event.kind == "result":
        figures.setdefault("first", time.perf_counter() - began)

autocompress.search(net, f"imagefolder:{sys.argv[1]}", "100kB", out=sys.argv[2], on_event=told, trials=2, image_size=32,
                    profile="stm32h743", epochs=1)
figures["done"] = time.perf_counter() - began
figures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps(figures))
'''


def write_folder(folder: Path) -> None:
    """Small JPEGs from a few templates, whose trailing bytes make no two files alike."""
    rng, templates = np.random.default_rng(0), []
    for _ in range(TEMPLATES):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((32, 32)).save(buffer, "JPEG")
        templates.append(buffer.getvalue())
    for label in range(CLASSES):
        place = folder / f"class{label:04d}"
        place.mkdir(parents=True)
        for number in range(EACH):
            content = templates[(label + number // 50) % TEMPLATES] + number.to_bytes(4, "little")
            (place / f"{number:03d}.jpg").write_bytes(content)


def run(folder: Path, out: Path, cache: Path) -> dict[str, float]:
    """Seconds until the data are loaded, known by their fingerprint, the first candidate is there, and all is done; the
    peak of memory in GB. In a process of its own."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), str(out)], capture_output=True, text=True,
                          check=False, env={**os.environ, "AUTOCOMPRESS_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr[-3000:]
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


@pytest.mark.slow
def test_a_hundred_thousand_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos")
    first = run(tmp_path / "photos", tmp_path / "one", tmp_path / "cache")
    again = run(tmp_path / "photos", tmp_path / "two", tmp_path / "cache")
    print(f"\nfirst {first}\nagain {again}")
    assert again["known"] < 60
    for figures in (first, again):
        assert figures["first"] < 180 and figures["peak_gb"] < 3
