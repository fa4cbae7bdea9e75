"""`autocompress search`."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

import click

from autocompress.cli.console import clean_stdout, print_json
from autocompress.cli.errors import end_process
from autocompress.cli.option_groups import Command, Option
from autocompress.cli.setting_flags import flags, given_settings
from autocompress.study.settings import SETTINGS

_EXAMPLES = """\b
Examples:
  autocompress search --budget 2MB
      the embedded ResNet-18 on handwritten digits
  autocompress search --model torchvision:resnet18 --weights net.pt --data fashion-mnist --budget 500kB
  autocompress search --model net.py:make --weights net.safetensors --data npz:data.npz \\
      --profile stm32h743 --max-drop 1% --timeout 15m
  autocompress search --model net.py:make --weights net.safetensors --data npz:data.npz \\
      --profile host --profile stm32h743 --latency host=2ms --latency stm32h743=80ms
  autocompress search --config studies/digits-2mb.toml --trials 64
  autocompress search --from studies/digits-2mb --budget 500kB

\b
Units: 2MB = 2,000,000 bytes, 2MiB = 2,097,152 bytes; 5ms, 800us; 50M MACs; 1% or 0.01; 90s, 15m, 1h.
The metric while searching is of the validation split; what is reported of the exported file, of the test split.
"""


_FLAGS = flags(name for name in SETTINGS if name != "trust_code")


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Search, export the best and verify it.", params=_FLAGS)
@click.option("--config", cls=Option, metavar="FILE", help="TOML file with these settings; flags override it. Relative "
                                                           "paths in it are relative to its folder.")
@click.option("--trust-code", cls=Option, is_flag=True, help=SETTINGS["trust_code"].help)
@click.option("--json", "as_json", cls=Option, is_flag=True,
              help="One JSON document on standard output, all else on standard error.")
@click.option("--quiet", "-q", cls=Option, is_flag=True, help="No progress; only warnings, errors and the summary.")
def search(config: str | None, trust_code: bool, as_json: bool, quiet: bool, **named: Any) -> None:
    """Search for the best compressed versions of a network inside a budget, and export the best.

    Channels are pruned, layers decomposed and weights quantised in proportions found by the search; the most
    promising candidates are distilled from the original. The best one is exported, run and verified.
    """
    _search(given_settings(named, config, trust_code), as_json=as_json, quiet=quiet)


def _search(settings: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    started = perf_counter()
    # Imported here: torch takes seconds, and neither help nor a mistyped flag should wait for it.
    from autocompress.cli.progress import progress
    from autocompress.cli.summary import print_summary
    from autocompress.study import search as run_search
    from autocompress.study.signals import ending_the_process

    with clean_stdout(), ending_the_process(partial(end_process, as_json)), progress(quiet=quiet) as shown:
        result = run_search(on_event=shown, started=started, **settings)
    if as_json:
        print_json(result.to_dict())
    else:
        print_summary(result)
