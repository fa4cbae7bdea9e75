"""Estimated against published latencies of whole networks, for each shipped profile that has any.

    python benchmarks/profiles.py --models ncnn/benchmark/models          # the tables; `> benchmarks/profiles.md`
    python benchmarks/profiles.py --models ncnn/benchmark/models --fit    # the figures of the profiles

`--models`: the folder of that name in Tencent/ncnn, for the layers of its networks. Published rows are in
`published.csv`. The figures of a profile are fitted to all its rows; `held out` is the error of a fit that has seen no
row of the network, at any precision: networks are left out whole, a fifth at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from published import ARITHMETIC, CLOCKS, Row, Work, networks, rows
from scipy.optimize import least_squares  # type: ignore[import-untyped]

from autocompress.core.layer import Part
from autocompress.hardware.latency import WIDTH, Executed, arithmetic, estimate_latency_ms
from autocompress.hardware.profile import HardwareProfile, load_profile

FITTED = ("raspberry-pi-4", "raspberry-pi-5", "x86-avx2", "x86-avx512-vnni", "stm32h743")
WIDTHS = {"float": (32, 32), "fp16": (16, 32), "int8": (8, 8)}
"""Bits of weights and activations of a row, as plans have them: the original, 16-bit weights, 8 bits throughout."""
FOLDS = 5
PRIOR = {"conv": 0.0, "pointwise": -0.4, "grouped": -0.7, "depthwise": -2.2, "linear": -1.5, "matmul": -0.4}
"""Logarithms of rates over that of `conv` that are assumed where no row tells, within `SPREAD`; int8 rates over float
ones likewise."""
SPREAD, SPREAD_INT8, SPREAD_BANDWIDTH, SPREAD_OVERHEAD, NOISE = 0.7, 0.4, 0.7, 2.0, 0.15


def widened(work: Work, row: Row) -> tuple[list[Part], list[Executed]]:
    """The network of a row at its precision and batch."""
    weights, activations = WIDTHS[row.precision]
    parts = [msgspec.structs.replace(part, weight_bits=weights, activation_bits=activations,
                                     positions=part.positions * row.batch, in_positions=part.in_positions * row.batch)
             for part in work.parts]
    return parts, [msgspec.structs.replace(done, bits=activations) for done in work.beside]


def estimated_ms(row: Row, work: Work, profile: HardwareProfile) -> float:
    """What the product estimates, at the clock of the board that was measured."""
    parts, beside = widened(work, row)
    return estimate_latency_ms(parts, profile, beside) / CLOCKS.get(profile.id, 1.0)


HEAD = """# Estimated against published latency

Made by `python benchmarks/profiles.py --models ncnn/benchmark/models > benchmarks/profiles.md`. One image, unless a
batch is named; each row as a plan of that precision is charged: the original for `float`, 16-bit weights for `fp16`,
8 bits throughout for `int8`. The figures of most profiles were fitted to these rows, so `error` shows how well a
handful of figures describes a device; `held out` is the error of a fit that has seen no row of the network, at any
precision (networks are left out whole, a fifth at a time). `host` is not listed: its latency is measured.

Mean of the absolute errors on the same rows with the figures and the formula before (no traffic of activations, no
operations beside the layers, grouped convolutions as dense ones, the interface's peak as bandwidth, no fp16 for
floats) and now, in brackets with the network left out:

| profile | float: before | now | int8: before | now |
|---|--:|--:|--:|--:|
BEFORE

VGG-16, whose convolutions are far larger than all others', stays 60% to 90% too slow on three devices.
"""
BEFORE = {"raspberry-pi-4": (24, 25), "raspberry-pi-5": (75, 23), "x86-avx2": (18, 20), "x86-avx512-vnni": (23, 16),
          "stm32h743": (None, 8)}
"""Percent, float and int8, with the profiles and the formula of the first edition."""


class Fit:
    """Rates by type of arithmetic and kind of layer, bandwidth and overhead of one profile, as logarithms: least
    squares of the logarithms of latencies, with a prior that holds what the rows do not tell."""

    def __init__(self, profile: HardwareProfile, rows: Sequence[Row], works: dict[str, Work]) -> None:
        self._profile, self._rows = profile, rows
        self.types = list(dict.fromkeys(self._type(row) for row in rows))
        self.types.sort(reverse=True, key=["int8", "float", "fp16"].index)
        self._work = [self._columns(row, works[row.network]) for row in rows]
        self._target = np.log([row.milliseconds * CLOCKS.get(profile.id, 1.0) for row in rows])

    def _type(self, row: Row) -> str:
        return self._profile.computed_as(*WIDTHS[row.precision])

    def _columns(self, row: Row, work: Work) -> np.ndarray:
        """`(items, 5)`: index of the rate, MACs, index of a second rate, its MACs, and bytes moved."""
        parts, beside = widened(work, row)
        computed_as = self._type(row)
        base, width, lines = len(ARITHMETIC) * self.types.index(computed_as), WIDTH[computed_as], []
        for part in parts:
            moved = (part.weights + part.in_channels * part.in_positions + part.out_channels * part.positions) * width
            kind = base + ARITHMETIC.index(arithmetic(part))
            if part.kind == "linear":
                lines.append((kind, part.weights, base + ARITHMETIC.index("matmul"), part.macs, moved))
            else:
                lines.append((kind, part.macs, kind, 0, moved))
        for done in beside:
            kind = base + ARITHMETIC.index("matmul" if done.kind == "none" else done.kind)
            lines.append((kind, done.macs, kind, 0, done.elements * width))
        return np.array(lines, float)

    @cached_property
    def start(self) -> np.ndarray:
        """The prior: the shipped rate of convolutions, and from that everything else."""
        first = [[np.log(self._profile.rates[kind].conv) + PRIOR[name] for name in ARITHMETIC]  # type: ignore[index]
                 for kind in self.types]
        overhead = np.log(1e-5 if self._profile.id == "stm32h743" else 2e-6)
        return np.array([*np.concatenate(first), np.log(self._profile.bandwidth_bytes_per_s / 2), overhead])

    def predicted(self, values: np.ndarray, which: Sequence[int]) -> np.ndarray:
        """Logarithms of milliseconds of the rows `which`, by the product's own formula."""
        per_mac, bandwidth, overhead = np.exp(-values[:-2]), np.exp(values[-2]), np.exp(values[-1])
        times = []
        for index in which:
            kind, macs, second, more, moved = self._work[index].T
            compute = np.maximum(macs * per_mac[kind.astype(int)], more * per_mac[second.astype(int)])
            times.append((np.maximum(compute, moved / bandwidth) + overhead).sum() * 1e3)
        return np.log(times)

    def __call__(self, which: Sequence[int] | None = None) -> np.ndarray:
        """The best values for the rows `which`, all where nothing is said."""
        numbers = range(len(self._rows)) if which is None else which

        def residuals(values: np.ndarray) -> np.ndarray:
            rates = values[:-2].reshape(len(self.types), -1)
            wide = rates[0] - rates[0][0]
            held = [(wide - np.array([PRIOR[name] for name in ARITHMETIC]))[1:] / SPREAD]
            held += [(kind_rates - rates[0] - np.log(2) / 2) / SPREAD_INT8 for kind_rates in rates[1:]]
            held += [(values[-2:] - self.start[-2:]) / (SPREAD_BANDWIDTH, SPREAD_OVERHEAD)]
            return np.concatenate([(self.predicted(values, numbers) - self._target[list(numbers)]) / NOISE, *held])

        return np.asarray(least_squares(residuals, self.start, method="trf", loss="soft_l1").x)

    def held_out(self) -> np.ndarray:
        """Relative errors of every row, from fits that have not seen its network."""
        names = sorted({row.network for row in self._rows})
        errors = np.zeros(len(self._rows))
        for fold in range(FOLDS):
            out = [i for i, row in enumerate(self._rows) if names.index(row.network) % FOLDS == fold]
            values = self([i for i in range(len(self._rows)) if i not in out])
            errors[out] = np.exp(self.predicted(values, out) - self._target[out]) - 1
        return errors


def report(works: dict[str, Work]) -> str:
    """The tables as Markdown."""
    lines, summary = [], []
    for name in (*FITTED, "nvidia-t4"):
        of_profile = [row for row in rows() if row.profile == name and works.get(row.network, Work(())).parts]
        profile = load_profile(name)
        held = Fit(profile, of_profile, works).held_out() if name in FITTED else np.full(len(of_profile), np.nan)
        lines += [f"## {name}", "", "Source: " + "; ".join(dict.fromkeys(row.where for row in of_profile)) + ".", ""]
        lines += ["| network | precision | published ms | estimated ms | error | held out |",
                  "|---|---|--:|--:|--:|--:|"]
        errors = np.array([estimated_ms(row, works[row.network], profile) / row.milliseconds - 1 for row in of_profile])
        for row, error, unseen in zip(of_profile, errors, held, strict=True):
            label = f"{row.network}, batch {row.batch}" if row.batch > 1 else row.network
            shown = "–" if np.isnan(unseen) else f"{unseen:+.0%}"
            published, estimated = row.milliseconds, (1 + error) * row.milliseconds
            lines.append(f"| {label} | {row.precision} | {published:.4g} | {estimated:.4g} | {error:+.0%} | {shown} |")
        for precision in dict.fromkeys(row.precision for row in of_profile):
            some = [i for i, row in enumerate(of_profile) if row.precision == precision]
            shown = "–" if np.isnan(held[some]).any() else f"{np.abs(held[some]).mean():.0%}"
            lines.append(f"| mean of absolute values | {precision} | | | {np.abs(errors[some]).mean():.0%} | {shown} |")
        lines.append("")
        if name in FITTED:
            cells = []
            for precision, before in zip(("float", "int8"), BEFORE[name], strict=True):
                some = [i for i, row in enumerate(of_profile) if row.precision == precision]
                now = f"{np.abs(errors[some]).mean():.0%} ({np.abs(held[some]).mean():.0%})" if some else "–"
                cells += [f"{before}%" if some else "–", now]
            summary.append(f"| {name} | " + " | ".join(cells) + " |")
    return HEAD.replace("BEFORE", "\n".join(summary)) + "\n" + "\n".join(lines).rstrip()


def main() -> None:
    """Print the tables, or the fitted figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    works = networks(args.models)
    if not args.fit:
        print(report(works))
        return
    for name in FITTED:
        of_profile = [row for row in rows() if row.profile == name and works.get(row.network, Work(())).parts]
        fit = Fit(load_profile(name), of_profile, works)
        values = fit()
        rates = np.exp(values[:-2]).reshape(len(fit.types), -1) / 1e9
        for kind, line in zip(fit.types, rates, strict=True):
            print(name, kind, {what: f"{rate:.3g}G" for what, rate in zip(ARITHMETIC, line, strict=True)})
        print(name, f"bandwidth {np.exp(values[-2]) / 1e9:.3g} GB/s, overhead {1e6 * np.exp(values[-1]):.3g} us")


if __name__ == "__main__":
    main()
