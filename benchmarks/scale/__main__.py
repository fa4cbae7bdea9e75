"""Searches at scale: what thousands of trials and many workers cost.

    OMP_NUM_THREADS=1 python benchmarks/scale many-trials DIR [--trials 200 2000 10000]
    OMP_NUM_THREADS=1 python benchmarks/scale driver DIR [--trials 3000] [--sampler random]
    OMP_NUM_THREADS=1 python benchmarks/scale speed-up DIR [--rounds 6] [--trials 24] [--width 32] [--profile host]
    OMP_NUM_THREADS=1 python benchmarks/scale store-bytes DIR [--trials 12] [--width 32]
    OMP_NUM_THREADS=1 python benchmarks/scale simulate STUDY [--proposal-ms 60]

Studies of `many-trials` are made in DIR and used again when they are there. Tables are printed; `benchmarks/scale.md`
holds them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import many_trials
import simulate
import speed_up
import store_bytes


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    many = commands.add_parser("many-trials", help="show, report and --resume on large studies")
    many.add_argument("folder", type=Path)
    many.add_argument("--trials", type=int, nargs="+", default=[200, 2000, 10_000])
    driver = commands.add_parser("driver", help="what a driver does for each trial")
    driver.add_argument("folder", type=Path)
    driver.add_argument("--trials", type=int, default=3000)
    driver.add_argument("--sampler", default="random")
    faster = commands.add_parser("speed-up", help="two workers against one")
    faster.add_argument("folder", type=Path)
    faster.add_argument("--rounds", type=int, default=6)
    faster.add_argument("--trials", type=int, default=24)
    faster.add_argument("--width", type=int, default=32)
    faster.add_argument("--profile", default="host", help="where latency is timed (host) or estimated")
    stored = commands.add_parser("store-bytes", help="bytes in Ray's object store by evaluation")
    stored.add_argument("folder", type=Path)
    stored.add_argument("--trials", type=int, default=12)
    stored.add_argument("--width", type=int, default=32)
    simulated = commands.add_parser("simulate", help="1 to 256 workers from measured task times")
    simulated.add_argument("study", type=Path)
    simulated.add_argument("--proposal-ms", type=float, default=60.0)
    given = parser.parse_args()
    if given.command == "many-trials":
        lines = many_trials.rows(given.folder, given.trials)
    elif given.command == "driver":
        lines = many_trials.driver_rows(given.folder, given.trials, given.sampler)
    elif given.command == "store-bytes":
        lines = store_bytes.rows(given.folder, given.trials, given.width)
    elif given.command == "speed-up":
        lines = speed_up.rows(given.folder, given.rounds, given.trials, given.width,
                              given.profile)
    else:
        lines = simulate.rows(given.study, given.proposal_ms / 1000)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
