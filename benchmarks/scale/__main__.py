"""Searches at scale: what thousands of trials and many workers cost.

    OMP_NUM_THREADS=1 python benchmarks/scale many-trials DIR [--trials 200 2000 10000]

Studies are made in DIR and used again when they are there. The table is printed; `benchmarks/scale.md` holds it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import many_trials


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    many = commands.add_parser("many-trials", help="show, report and --resume on large studies")
    many.add_argument("folder", type=Path)
    many.add_argument("--trials", type=int, nargs="+", default=[200, 2000, 10_000])
    given = parser.parse_args()
    print("\n".join(many_trials.rows(given.folder, given.trials)))


if __name__ == "__main__":
    main()
