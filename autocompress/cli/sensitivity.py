"""`autocompress sensitivity`."""

from __future__ import annotations

from typing import Any

import click

from autocompress.cli.console import clean_stdout, line, print_json, print_table
from autocompress.cli.option_groups import Command, Option
from autocompress.cli.setting_flags import flags, given_settings
from autocompress.study.settings import SETTINGS, WHAT

_EXAMPLES = """\b
Examples:
  autocompress sensitivity --model net.py:make --weights net.safetensors --data npz:data.npz
  autocompress sensitivity --space int8 --profile stm32h743 --json
"""
_NAMES = [*(name for name, setting in SETTINGS.items() if setting.section == WHAT and name != "from_study"),
          "profile", "space", "format", "techniques", "seed"]


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Print what compressing each layer would cost.",
               params=flags(_NAMES))
@click.option("--top", cls=Option, type=click.IntRange(min=0), default=30, metavar="N",
              help="Rows to print; 0 for all. Default: 30.")
@click.option("--timeout", cls=Option, metavar="TIME", help=SETTINGS["timeout"].help.replace(
    "of the whole search", "of the predictions"))
@click.option("--trust-code", cls=Option, is_flag=True, help="Run Python files that only the --config file names.")
@click.option("--config", cls=Option, metavar="FILE", help="TOML file with settings of a search; flags override it.")
@click.option("--json", "as_json", cls=Option, is_flag=True, help="One JSON document with every option.")
def sensitivity(top: int, config: str | None, trust_code: bool, as_json: bool, **named: Any) -> None:
    """Print what each option of each layer would cost, worst first, without a search.

    The cost is predicted from one forward and one backward pass over calibration data: nats of KL divergence between
    the original's answers and those of the network with that one change. Training usually wins back a part of it.
    """
    settings = given_settings(named, config, trust_code)
    from autocompress.quantities import parse_seconds
    from autocompress.study.traced_model import trace

    timeout = settings.pop("timeout", None)
    settings.pop("out", None)  # a study's folder, of which there is none
    with clean_stdout():
        traced = trace(**settings)
        table = traced.sensitivity() if timeout is None else traced.sensitivity(parse_seconds(timeout, "timeout"))
    rows = sorted(table.document(), key=lambda row: (-row["nats"], row["site"], row["technique"]))
    if as_json:
        print_json({"unit": "nats", "options": rows})
        return
    shown = rows if top == 0 else rows[:top]
    print_table(("layer or group", "technique", "option", "nats"),
                [(row["site"], row["technique"], " ".join(map(str, row["option"])), f"{row['nats']:.3g}")
                 for row in shown])
    if len(shown) < len(rows):
        line(f"{len(rows) - len(shown)} more cost less: --top 0 prints all")
