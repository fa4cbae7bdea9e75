"""`autocompress search`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from autocompress.cli.config import CODE, PATHS, read_config
from autocompress.cli.console import clean_stdout, print_json, say
from autocompress.cli.errors import end_process
from autocompress.cli.option_groups import Command, Option
from autocompress.cli.trust import check_source
from autocompress.errors import InputError

_option = partial(click.option, cls=Option)
_what = partial(_option, section="What to compress")
_limit = partial(_option, section="Limits")
_how = partial(_option, section="How to search")
_where = partial(_option, section="Where results go")

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


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Search, export the best and verify it.")
@_what("--model", metavar="SPEC", help="torchvision:NAME, timm:NAME or path/to/file.py:factory, which is run. "
                                       "Default: the embedded ResNet-18.")
@_what("--weights", metavar="FILE", help="Trained weights: .safetensors, or a checkpoint of torch.save (read without "
                                           "running code).")
@_what("--weights-key", metavar="KEY", help="Which state dict of the checkpoint, where several fit, such as "
                                            "state_dict. Default: the averaged one (EMA), else the only one.")
@_what("--data", metavar="SPEC", help="digits, fashion-mnist, cifar10, imagefolder:DIR, npz:FILE or "
                                      "path/to/file.py:factory, which is run.")
@_what("--data-root", metavar="DIR", help="Folder of the files of fashion-mnist or cifar10.")
@_what("--image-size", type=int, metavar="PIXELS", help="Side of the square pictures of imagefolder that the network "
       "is fed. Default: that of the network's weights where timm or torchvision says it, else 224.")
@_what("--resize", type=int, metavar="PIXELS", help="Shorter side of a picture before the middle square is cut out. "
       "Default: as the weights say, else the image size.")
@_what("--crop", type=float, metavar="SHARE|PIXELS", help="The same said as the share that the square keeps, such as "
       "0.875; above 1, the image size.")
@_what("--mean", metavar="NUMBERS", help="Subtracted after pixels were divided by 255, for each channel or for all: "
       "0.485,0.456,0.406. Default: as the weights or the data say, for imagefolder else ImageNet's.")
@_what("--std", metavar="NUMBERS", help="Divided by after that: 0.229,0.224,0.225.")
@_what("--inputs", metavar="KIND", help="What the stored numbers are: pixels (divided by 255), values or tokens. "
       "Default: bytes of pictures are pixels, and the network decides between the others.")
@_what("--from", "from_study", metavar="STUDY", help="Start where another study of the same network and data ended. "
                                                     "Network, data, seed, space, profile, effort and epochs that "
                                                     "are not given are taken from it.")
@_limit("--budget", metavar="SIZE", help="Bytes of the exported file, such as 2MB or 512KiB.")
@_limit("--latency", metavar="[ID=]TIME", multiple=True, help="Of one sample on one thread, such as 5ms or 800us, on "
        "every device; stm32h743=80ms is for that profile alone. Can be repeated.")
@_limit("--macs", metavar="COUNT", help="Multiply-accumulates of one sample, such as 50M.")
@_limit("--peak-memory", metavar="SIZE", help="Largest activations alive at once, such as 256KiB.")
@_limit("--max-drop", metavar="SHARE", help="Largest loss of the task's metric against the original, such as 1%.")
@_how("--profile", metavar="NAME|FILE", multiple=True,
      help="The device: see `autocompress profiles list`. Repeated, for several devices at once: plans are legal on "
           "all of them, and the front is of the latency on each. Default: host, measured on this machine.")
@_how("--space", metavar="NAME|FILE", help="What may be done: see `autocompress spaces list`. Default: default.")
@_how("--task", metavar="FILE.py:NAME", help="What the network is for, where that is not classification: a task of "
                                             "your own. Its file is run.")
@_how("--format", metavar="FILE.py:NAME", help="A file format of your own, instead of that of the profile.")
@_how("--technique", "techniques", metavar="FILE.py:NAME", multiple=True,
      help="A technique of your own, beside those of the space. Can be repeated.")
@_how("--executor", metavar="FILE.py:NAME", help="Where candidates are evaluated, where that is not in processes of "
                                                 "this machine: an executor of your own.")
@_how("--sampler", metavar="NAME|FILE.py:NAME", help="auto, tpe, nsga2, random, gp, or one of your own. Default: auto.")
@_how("--effort", metavar="NAME", help="fast, normal or thorough: how many candidates are tried and trained. Default: "
                                       "normal.")
@_how("--trials", type=int, metavar="N", help="Candidates to try. Default: 10, 24 or 96, by --effort.")
@_how("--epochs", type=int, metavar="N", help="Length of the long distillation, without --timeout. Default: 2, 8 or "
                                              "24, by --effort.")
@_how("--timeout", metavar="TIME", help="Wall clock of the whole search, such as 15m. Default: none.")
@_how("--trial-timeout", metavar="TIME", help="Longest that one evaluation of a candidate may take, such as 10m; it "
                                               "fails then. Default: none, but what is left of --timeout.")
@_how("--seed", type=int, metavar="N", help="Default: 0.")
@_how("--jobs", type=int, metavar="N", help="Processes that evaluate candidates. Default: 1.")
@_how("--device", metavar="NAME", help="Where networks are trained: auto, cpu or cuda. Default: auto.")
@_where("--out", metavar="DIR", help="Folder of the study. Default: studies/NAME.")
@_where("--name", metavar="NAME", help="Name of the study. Default: made of model, data and budget.")
@_where("--storage", metavar="URL", help="Any storage of Optuna. Default: SQLite in the study's folder.")
@_where("--resume", is_flag=True, help="Go on with the study that is there. With --out, what is not given "
                                              "is taken from it, except --timeout, --trial-timeout, --jobs and "
                                              "--device.")
@_where("--force-new-study", is_flag=True, help="Replace the study that is there.")
@_option("--config", metavar="FILE", help="TOML file with these settings; flags override it. Relative paths in it "
                                          "are relative to its folder.")
@_option("--trust-code", is_flag=True, help="Run Python files that only the --config file, or the study of --from "
                                                 "or --resume, names.")
@_option("--json", "as_json", is_flag=True, help="One JSON document on standard output, all else on standard error.")
@_option("--quiet", "-q", is_flag=True, help="No progress; only warnings, errors and the summary.")
def search(config: str | None, trust_code: bool, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Search for the best compressed versions of a network inside a budget, and export the best.

    Channels are pruned, layers decomposed and weights quantised in proportions found by the search; the most
    promising candidates are distilled from the original. The best one is exported, run and verified.
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    settings = {**(read_config(Path(config)) if config is not None else {}), **given}
    for name, value in settings.items():
        if value == "" or (isinstance(value, tuple) and "" in value):
            flag = name.removesuffix("_study").replace("_", "-")
            raise InputError(f"--{flag} must not be empty; leave it out for its default")
    _check_trust(settings, given, trust_code, config)
    check_source(settings, trust_code)
    settings |= {name: Path(settings[name]) for name in PATHS if name in settings}
    _search(settings, as_json=as_json, quiet=quiet)


def _search(settings: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    # Imported here: torch takes seconds, and neither help nor a mistyped flag should wait for it.
    from autocompress.cli.progress import progress
    from autocompress.cli.summary import print_summary
    from autocompress.study import search as run_search
    from autocompress.study.signals import ending_the_process

    with clean_stdout(), ending_the_process(partial(end_process, as_json)), progress(quiet=quiet) as shown:
        result = run_search(on_event=shown, **settings)
    if as_json:
        print_json(result.to_dict())
    else:
        print_summary(result)


def _check_trust(settings: dict[str, Any], given: dict[str, Any], trust_code: bool, config: str | None) -> None:
    """A Python file runs because the user typed its name, or said that the file which names it is to be trusted."""
    named = [name for name in CODE if name in settings and name not in given]
    if not named:
        return
    from autocompress.tasks.factory import is_factory

    for name in named:
        for spec in settings[name] if isinstance(settings[name], list) else [settings[name]]:
            if is_factory(spec):
                if not trust_code:
                    raise InputError(f"{config}: `{name}` would run code from {spec}: add --trust-code if you trust "
                                     f"that file, or name it yourself with --{name.removesuffix('s')}")
                say(f"running code from {spec}")
