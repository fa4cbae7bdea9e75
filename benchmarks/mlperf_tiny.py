"""MLPerf Tiny's keyword spotter in the open division: `autocompress search --model mlperf_tiny.py:keyword_spotter …`.

    python benchmarks/mlperf_tiny.py DIR --profile stm32l4r5 --budget 30kB --peak-memory 24KiB

DIR is where the study goes. `STRANGERS_SHARED` names the folder that holds the reference network, its 1,000 official
samples and recordings of spoken digits. No official sample is seen by the search: it recovers from the reference's
answers to the digits, mixed, cut, reversed and moved, and is validated on those of other speakers, by which everything
is chosen. The official samples, with their true labels, are the test split.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import autocompress

sys.path.insert(0, str(Path(__file__).with_name("strangers")))
import networks

RATE, WINDOW, STEP, FFT, FRAMES, MELS, CEPSTRA = 16000, 480, 320, 512, 49, 40, 10
LOWEST, HIGHEST = 20.0, 4000.0
# Sounds that are made for training and validation; of those of one answer, as many are kept; speakers that validate.
TRAIN, VALIDATION, HELD_OUT = (24000, 4000), (4000, 250), 2
# A view of a training sample is moved by so many frames at most, and made louder or softer by so much (natural log).
MOVED, LOUDER = 4, 0.7


def keyword_spotter() -> torch.nn.Module:
    """The reference network: features `(N, 1, 49, 10)` to 12 probabilities."""
    return networks.keyword_spotter()


def official() -> tuple[np.ndarray, np.ndarray]:
    """The 1,000 samples of the benchmark as floats `(1000, 1, 49, 10)`, and their labels."""
    stored = np.load(Path(os.environ["STRANGERS_SHARED"]) / "data/kws.npz")
    features = (stored["features"].astype(np.float32) - 83) * np.float32(0.5847029)
    return features.reshape(-1, 1, FRAMES, CEPSTRA), stored["labels"].astype(np.int64)


def data() -> dict[str, Any]:
    """Digits with the reference's answers to train on and to validate with; the official samples to test."""
    with torch.inference_mode():
        network = keyword_spotter()
        train, validation = (_evened(network, torch.from_numpy(_features(held_out, count)), most)
                             for held_out, (count, most) in ((False, TRAIN), (True, VALIDATION)))
    return {"train": train, "val": validation, "test": official(), "classes": 12, "augment": view}


def view(features: Tensor, generator: torch.Generator) -> Tensor:
    """Features `(N, 1, 49, 10)`, each moved in time and made louder or softer, which adds to its first cepstrum."""
    count = len(features)
    by = torch.randint(-MOVED, MOVED + 1, (count, 1), generator=generator)
    frames = (torch.arange(FRAMES) + by).clamp(0, FRAMES - 1)
    moved = features[torch.arange(count)[:, None], 0, frames].clone()
    louder = LOUDER * (2 * torch.rand(count, 1, generator=generator) - 1)
    moved[:, :, 0] += louder * math.sqrt(2 / MELS) * MELS
    return moved[:, None]


def _evened(network: torch.nn.Module, features: Tensor, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with the network's answers, as many of each answer at most: digits are mostly no keyword."""
    answers = _answers(network, features)
    kept = np.sort(np.concatenate([np.flatnonzero(answers == answer)[:most] for answer in range(12)]))
    return features.numpy()[kept], answers[kept]


def _answers(network: torch.nn.Module, features: Tensor) -> np.ndarray:
    return torch.cat([network(batch).argmax(1) for batch in features.split(256)]).numpy()


def _features(held_out: bool, count: int) -> np.ndarray:
    """Features of so many seconds of speech, of the speakers that are held out or of the others."""
    stored = np.load(Path(os.environ["STRANGERS_SHARED"]) / "data/spoken_digits.npz")
    samples = stored["samples"].astype(np.float32) / 32768
    ends = np.concatenate([[0], np.cumsum(stored["lengths"])])
    _, speakers = np.unique(stored["speakers"], return_inverse=True)
    signals = [samples[ends[i]:ends[i + 1]] for i in np.flatnonzero((speakers < HELD_OUT) == held_out)]
    draw = np.random.default_rng(int(held_out))
    return np.stack([cepstra(second) for second in _seconds(signals, draw, count)])[:, None].astype(np.float32)


def _seconds(recordings: list[np.ndarray], draw: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """One-second sounds: one or two recordings, each faster or slower, cut or reversed, somewhere in noise."""
    for _ in range(count):
        sound = draw.normal(0, 1, RATE) * 10 ** draw.uniform(-6, -2.5)
        for _ in range(draw.integers(0, 3) if draw.random() < 0.3 else 1):
            speech = recordings[draw.integers(len(recordings))]
            speed = 0.5 * draw.uniform(0.7, 1.4)  # recorded at half the rate
            speech = np.interp(np.arange(0, len(speech) - 1, speed), np.arange(len(speech)), speech)[:RATE]
            if draw.random() < 0.4:
                speech = speech[::-1]
            if draw.random() < 0.4:
                begin, end = sorted(draw.integers(0, len(speech), 2))
                speech = speech[begin:max(end, begin + 800)]
            at = draw.integers(0, RATE - len(speech) + 1)
            sound[at:at + len(speech)] += speech * 10 ** draw.uniform(-1, 0)
        yield sound / max(1e-3, np.abs(sound).max())


def cepstra(sound: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstra `(49, 10)` of a second of sound, as the benchmark's training code computes them."""
    frames = np.stack([sound[i * STEP:i * STEP + WINDOW] for i in range(FRAMES)]) * np.hanning(WINDOW + 1)[:-1]
    magnitude = np.abs(np.fft.rfft(frames, FFT))
    result: np.ndarray = np.log(magnitude @ _mel_bands() + 1e-6) @ _cosines()
    return result


@lru_cache
def _mel_bands() -> np.ndarray:
    def mel(frequency: np.ndarray | float) -> Any:
        return 1127 * np.log(1 + np.asarray(frequency) / 700)

    edges = np.linspace(mel(LOWEST), mel(HIGHEST), MELS + 2)
    places = mel(np.linspace(0, RATE / 2, FFT // 2 + 1))[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bands: np.ndarray = np.maximum(0, np.minimum((places - low) / (middle - low), (high - places) / (high - middle)))
    bands[0] = 0
    return bands


@lru_cache
def _cosines() -> np.ndarray:
    angles = np.pi / MELS * (np.arange(MELS)[:, None] + 0.5) * np.arange(CEPSTRA)
    result: np.ndarray = np.cos(angles) * np.sqrt(2 / MELS)
    return result


def main() -> None:
    """Search, and print what the official samples say of the exported file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="stm32l4r5")
    parser.add_argument("--budget", default="30kB")
    parser.add_argument("--peak-memory")
    parser.add_argument("--latency")
    parser.add_argument("--macs")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--timeout", default="12m")
    parser.add_argument("--space", default="default")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bounds = {name: getattr(args, name) for name in ("peak_memory", "latency", "macs", "timeout")}
    more = {name: value for name, value in bounds.items() if value}
    result = autocompress.search(model=f"{__file__}:keyword_spotter", data=f"{__file__}:data", profile=args.profile,
                                 budget=args.budget, trials=args.trials, space=args.space, seed=args.seed,
                                 out=args.out, **more)
    manifest = json.loads((args.out / "artifact/manifest.json").read_text())
    metrics = manifest["metrics"]
    print(f"validation: {metrics['accuracy']:.4f} of the answers are the reference's")
    print(f"accuracy {manifest['verified']['accuracy']:.4f} of the official samples, "
          f"reference {manifest['verified']['baseline_accuracy']:.4f}")
    print(f"{result.artifact['path']}: {metrics['size_bytes']:.0f} bytes, "
          f"RAM {metrics['peak_memory_bytes']:.0f} bytes, {metrics['latency_ms']:.3f} ms, "
          f"{metrics['macs'] / 1e6:.3f} MMAC")


if __name__ == "__main__":
    main()
