"""A short training that starts from inherited weights, against the same one from the candidate's weights.

    python benchmarks/inherit.py

The embedded ResNet-18 on digits, seed 0, one thread. One uniform plan (4 bits, 250 kB) is trained long; narrower plans
are then trained briefly from both starts. Prints the table of `benchmarks/inherit.md`: the divergence of softened
answers from the original's, before training on calibration inputs, after it on validation and test inputs together,
with the accuracy there. Training never sees either.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from autocompress.backend.training.warm_start import divergence, inherited
from autocompress.core.budget import Budget
from autocompress.core.plan import Plan
from autocompress.core.store import weights_key
from autocompress.hardware.profile import load_profile
from autocompress.space.projection import Projection
from autocompress.space.space import build_space
from autocompress.space.spec import load_space
from autocompress.study import warm_start as relatives
from autocompress.study.workbench import Workbench
from autocompress.tasks.default import default_task

PLANS = [(size, bits) for bits, sizes in ((4, (200, 150, 100, 60)), (2, (200, 120, 60))) for size in sizes]


def main() -> None:
    """Train and print."""
    torch.set_num_threads(1)
    net, task = default_task()
    inputs = torch.cat([task.normalise(split.inputs) for split in (task.validation, task.test)])
    targets = torch.cat([task.validation.targets, task.test.targets])
    with TemporaryDirectory() as folder, torch.no_grad():
        bench = Workbench(net, task, load_profile("host"), seed=0, folder=Path(folder), epochs=8)
        space = build_space(bench.network.table, load_space("default"), bench.evaluator.profile)
        original_outputs = bench.network.model(inputs)

        def uniform(kilobytes: int, bits: int) -> Plan:
            return Projection(space, Budget(size_bytes=1000 * kilobytes)).project(space.uniform(bits)).plan

        def trained(plan: Plan, inherits: bool) -> tuple[float, float, float]:
            before = []

            def start(compressed, relative, transferable, compressor, outputs):  # type: ignore[no-untyped-def]
                network = inherited(compressed, relative, transferable, compressor) if inherits else compressed
                before.append(divergence(network.model, compressor.calibration, outputs))
                return network, inherits

            with patch.object(relatives, "better_start", start), torch.enable_grad():
                bench.evaluator.evaluate(plan, 1)
            model = bench.trainer.rebuild(plan, 1).model
            bench.store.remove(weights_key(plan, 1))  # the next one's relative is the wide one again
            right = (model(inputs).argmax(1) == targets).float().mean()
            return before[0], divergence(model, inputs, original_outputs), float(right)

        wide = uniform(250, 4)
        with torch.enable_grad():
            for rung in (1, 2):
                bench.evaluator.evaluate(wide, rung)
        print("| plan | start | divergence before | after | accuracy |\n|---|---|---|---|---|")
        for kilobytes, bits in PLANS:
            for inherits in (False, True):
                before, after, right = trained(uniform(kilobytes, bits), inherits)
                print(f"| {kilobytes} kB, {bits} bits | {'inherited' if inherits else 'own'} | {before:.4f} "
                      f"| {after:.4f} | {100 * right:.2f}% |", flush=True)


if __name__ == "__main__":
    main()
