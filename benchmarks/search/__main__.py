"""Searchers beside one another: the same space, the same evaluations, the same processor time.

    OMP_NUM_THREADS=1 python benchmarks/search --network resnet18 --base DIR [--seconds 120] [--images 1000]
        [--seeds 0 1 2] [--only ours uniform …] [--again] [--trained 0.25MB]

DIR as for `benchmarks/techniques`; `digits` needs none. Every run is written when it ends, to
`benchmarks/search/NETWORK.json` and, with all others there, `benchmarks/search.md`; what is there is not run again
unless `--again` says so. `--trained` then distils what each found at that size for as long as it searched.
"""

from __future__ import annotations

import argparse
import gc
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import optuna
import torch
from arena import Arena
from contenders import CONTENDERS, SETTLED
from measures import Pick, Results, Row, rising
from tables import page
from threadpoolctl import threadpool_limits
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "techniques"))
from bench import NETWORKS

from autocompress.quantities import parse_bytes
from autocompress.tasks.data import load_data
from autocompress.tasks.default import default_task
from autocompress.tasks.models import load_model
from autocompress.tasks.splits import TaskData

HERE = Path(__file__).parent
DIGITS = "digits"
SIZES = ("2MB", "1MB", "0.5MB", "0.25MB", "0.1MB")


def load(network: str, base: Path | None) -> tuple[nn.Module, TaskData]:
    """A trained network and its data."""
    if network == DIGITS:
        return default_task()
    if base is None:
        raise SystemExit(f"--network {network} needs --base, the folder of its weights")
    code, weights = NETWORKS[network]
    data = load_data("fashion-mnist", root=None, seed=0)
    return load_model(f"{base / code}:model", data=data, trust_code=True, weights=base / weights).model, data


def measure(arena: Arena, contender: str, seed: int, seconds: float, trained: int | None) -> Row:
    """One run, and the test accuracies of what it found."""
    with arena.run(seed, seconds) as run:
        CONTENDERS[contender](run)
        spent_s = run.spent_s
        tested: dict[str, float] = {}
        picks = []
        for size in arena.sizes:
            best = run.best(size)
            if best is None:
                continue
            plan, metrics = best
            if plan.fingerprint not in tested:
                tested[plan.fingerprint] = run.test_accuracy(plan)
            picks.append(Pick(size, int(metrics["size_bytes"]), metrics["accuracy"], tested[plan.fingerprint],
                              run.trained(plan, seconds) if size == trained else None))
        return Row(contender, seed, len(run.evaluated), len(run.points), run.duplicates, run.failed, round(spent_s, 2),
                   round(run.evaluating_s, 2), round(run.table_s, 2), round(run.probe_s, 2),
                   rising(run.points, arena.box), picks)


def kept(path: Path, empty: Results) -> Results:
    """Rows measured before. SystemExit when they were measured under other conditions: they are hours of work."""
    if not path.exists():
        return empty
    stored = msgspec.json.decode(path.read_bytes(), type=Results)
    if stored.conditions != empty.conditions:
        raise SystemExit(f"{path} must hold rows of {empty.conditions}, but holds some of {stored.conditions}: move it "
                         "away, or choose another --out")
    return stored


def write(path: Path, results: Results) -> None:
    """The rows, and the page of all networks."""
    order = list(CONTENDERS)
    rows = sorted(results.rows, key=lambda row: (order.index(row.contender), row.seed))
    part = path.with_suffix(".part")
    text = msgspec.json.encode(msgspec.structs.replace(results, rows=rows))
    part.write_bytes(text.replace(b'{"contender"', b'\n{"contender"') + b"\n")  # a run a line
    part.replace(path)
    path.parent.with_suffix(".md").write_text(page(sorted(path.parent.glob("*.json"))))


def main() -> int:
    """Run what is missing; 1 when something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=(DIGITS, *NETWORKS), required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="of processor, for each run")
    parser.add_argument("--images", type=int, help="score on the first N of the validation split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="CONTENDER",
                        help=", ".join(CONTENDERS))
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="file sizes of the table; the first is the budget")
    parser.add_argument("--space", default="default")
    parser.add_argument("--again", action="store_true", help="also runs that are there already")
    parser.add_argument("--trained", type=parse_bytes, metavar="SIZE", help="distil the files found at this size")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the rows; the page goes beside it")
    args = parser.parse_args()
    sizes = sorted(map(parse_bytes, args.sizes), reverse=True)
    if args.trained not in (None, *sizes):
        parser.error("--trained must be one of --sizes")
    torch.set_num_threads(1)
    threadpool_limits(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    path, failures = args.out / f"{args.network}.json", 0
    with TemporaryDirectory() as scratch:
        arena = Arena(*load(args.network, args.base), sizes, args.space, args.images, Path(scratch))
        results = kept(path, Results(args.network, args.space, arena.images, args.seconds, sizes, arena.original,
                                     arena.box))
        for seed in args.seeds:
            for contender in args.only:
                earlier = [row for row in results.rows if row.contender == contender
                           and (row.seed == seed or contender in SETTLED)]
                settled = contender in SETTLED and seed != args.seeds[0]
                if settled or (any(_has(row, args.trained) for row in earlier) and not args.again):
                    continue
                try:
                    row = measure(arena, contender, seed, args.seconds, args.trained)
                except Exception:  # the others go on
                    traceback.print_exc()
                    failures += 1
                    continue
                rows = [other for other in results.rows if other not in earlier]
                results = msgspec.structs.replace(results, rows=[*rows, row])
                write(path, results)
                print(f"{contender}, seed {seed}: {row.evaluated} files, {row.duplicates} duplicates, "
                      f"{row.failed} failed, hypervolume {row.hypervolume(args.seconds):.4f} after "
                      f"{row.spent_s:.0f} s, of which {row.evaluating_s:.0f} evaluating and "
                      f"{row.table_s:.0f} the table", flush=True)
                gc.collect()
    return int(failures > 0)


def _has(row: Row, trained: int | None) -> bool:
    return trained is None or any(pick.limit == trained and pick.trained is not None for pick in row.picks)


if __name__ == "__main__":
    sys.exit(main())
