"""How long a sampler takes to propose, by how many trials there are: ours beside Optuna's.

    OMP_NUM_THREADS=1 python benchmarks/asking.py [--trials 0 300 1000 5000] [--asks 20]

The space `default` of the embedded ResNet-18; sensitivities and past trials are drawn with seed 0, for time does not
depend on
what they are. Milliseconds of processor. Writes `benchmarks/asking.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import optuna

from autocompress.backend.graph.trace import trace
from autocompress.core.budget import Budget
from autocompress.core.metric import Reference
from autocompress.core.sensitivity import SensitivityTable
from autocompress.hardware.profile import load_profile
from autocompress.search.samplers.make import make_sampler
from autocompress.search.samplers.thompson_sampler import SolverSampler, distributions
from autocompress.space.projection import Projection
from autocompress.space.solver.solver import Solver
from autocompress.space.space import Space, build_space
from autocompress.space.spec import load_space
from autocompress.study.sensitivity import options
from autocompress.tasks.classification.metric import ACCURACY
from autocompress.tasks.default import default_task

SLOW = {"gp": 300}
"""Past trials above which a sampler would take minutes for a proposal."""


def made_up(space: Space, rng: np.random.Generator) -> SensitivityTable:
    """A sensitivity for every option, larger for smaller ones."""
    steps = options(space)
    return SensitivityTable.of((step, option, float(rng.exponential(1e-4))) for step, option in steps)


def study_of(solver: Solver, sampler: optuna.samplers.BaseSampler, trials: int) -> optuna.Study:
    """So many past trials, drawn."""
    rng, study = np.random.default_rng(0), optuna.create_study(directions=["maximize", "minimize", "minimize"],
                                                               sampler=sampler)
    by_name = distributions(solver.space)
    draw = optuna.samplers.RandomSampler(0)
    for _ in range(trials):
        params = {name: draw.sample_independent(study, None, name, d) for name, d in by_name.items()}  # type: ignore[arg-type]
        study.add_trial(optuna.trial.create_trial(params=params, distributions=by_name,
                                                  values=[float(v) for v in (rng.random(), *rng.exponential(1e6, 2))]))
    return study


def asked_ms(study: optuna.Study, solver: Solver, asks: int) -> tuple[float, float]:
    """Median and largest, after two that fill what a sampler keeps."""
    times = []
    for _ in range(asks + 2):
        began = time.process_time()
        trial = study.ask(distributions(solver.space))
        times.append(1000 * (time.process_time() - began))
        study.tell(trial, [0.5, 1e6, 1.0])
    return float(np.median(times[2:])), max(times[2:])


def main() -> None:
    """Time all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[0, 300, 1000, 5000])
    parser.add_argument("--asks", type=int, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    net, task = default_task()
    table, _ = trace(net, task.input_shape, task.dtype)
    projection = Projection(build_space(table, load_space("default"), load_profile("host")),
                            Budget(size_bytes=500_000))
    sensitivity_table = made_up(projection.space, np.random.default_rng(0))
    counts = " ".join(map(str, args.trials))
    lines = ["# Milliseconds to propose", "", f"`python benchmarks/asking.py --trials {counts} --asks {args.asks}`: "
             f"median (largest) of processor time, {len(projection.space.knobs)} knobs, one thread, {os.cpu_count()} "
             f"cores, {platform.machine()}.", "",
             "| sampler | " + " | ".join(f"{n} trials" for n in args.trials) + " |",
             "|---|" + "---|" * len(args.trials)]
    solver = Solver(projection, sensitivity_table)
    reference = Reference(ACCURACY, 0.95)
    began = time.process_time()
    first = SolverSampler(solver, 0, reference).solutions()
    lines.insert(3, f"The {len(first)} first solutions of ours took {time.process_time() - began:.1f} s together; what "
                 "its aims need is found at the first proposals that ask for it, and not in the medians. What the "
                 "others propose is moved into the budget by `Solver.fit` in a search, which is not counted here.")
    for name in ("auto", "tpe", "nsga2", "random", "gp"):
        cells = []
        for trials in args.trials:
            if trials > SLOW.get(name, trials):
                cells.append("–")
                continue
            asks = args.asks if name != "gp" else 2
            median, largest = asked_ms(study_of(solver, make_sampler(name, 0, solver, reference), trials), solver, asks)
            cells.append(f"{median:,.0f} ({largest:,.0f})")
            print(name, trials, cells[-1], flush=True)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
