"""`autocompress apply`."""

from __future__ import annotations

from pathlib import Path

import click

from autocompress.cli.console import clean_stdout, line
from autocompress.cli.option_groups import Command
from autocompress.cli.trust import check_stored
from autocompress.errors import InputError

_EXAMPLES = """\b
Examples:
  autocompress apply studies/digits-2mb --weights retrained.safetensors --out artifact-new
  autocompress apply studies/digits-2mb --trial 7 --weights retrained.safetensors --out artifact-new
"""


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Compress retrained weights by a trial's plan.")
@click.argument("study", metavar="STUDY")
@click.option("--trial", metavar="N|best", default="best", help="The trial whose plan is applied. Default: best.")
@click.option("--weights", metavar="FILE", required=True, help="Weights of the same network, trained further.")
@click.option("--out", metavar="DIR", required=True, help="Folder for the file, manifest.json and README.md.")
@click.option("--data", metavar="SPEC", help="Data to train and verify with, in place of the study's.")
@click.option("--rung", type=click.IntRange(0, 2), help="0 no training, 1 briefly, 2 as long as the study. Default: as "
              "the trial was.")
@click.option("--timeout", metavar="DURATION", help="Longest that the training may take.")
@click.option("--device", metavar="DEVICE", default="auto", show_default=True,
              help="Where it is trained: auto, cpu or cuda.")
@click.option("--sign", metavar="KEYFILE", help="Sign it with this private Ed25519 key (PEM).")
@click.option("--encrypt", metavar="KEYFILE", help="Encrypt its model and samples with this key of 32 bytes (AES-GCM).")
@click.option("--watermark", metavar="KEYFILE", help="Secret whose owner its weights bear the mark of.")
@click.option("--anonymous", is_flag=True, help="No names of layers in its files: layer1, layer2, … stand for them.")
@click.option("--trust-code", is_flag=True, help="Run the Python files that the study was made from.")
def apply(study: str, trial: str, weights: str, out: str, data: str | None, rung: int | None, timeout: str | None,
          device: str, sign: str | None, encrypt: str | None, watermark: str | None, anonymous: bool,
          trust_code: bool) -> None:
    """Compress other weights of the network of STUDY, the folder of a search, by the plan of one of its trials.

    The network is recovered, written and verified as in the search, and nothing is searched. Ends with 3 where the file
    does not keep the study's bounds.
    """
    from autocompress.artifact.folder import read_manifest, require_no_foreign
    from autocompress.artifact.options import ExportOptions
    from autocompress.cli.progress import progress
    from autocompress.cli.summary import print_facts
    from autocompress.quantities import parse_seconds
    from autocompress.study.apply import apply_plan
    from autocompress.study.folder import prepare_folder, remove_empty
    from autocompress.study.lock import locked

    if not out:
        raise InputError("--out must not be empty")
    options = ExportOptions.of(sign, encrypt, anonymous=anonymous, watermark=watermark)
    seconds = None if timeout is None else parse_seconds(timeout, "--timeout")
    check_stored(Path(study), trust_code, "applying a plan of it", ("weights", *(["data"] if data else [])))
    require_no_foreign(Path(out))
    created = prepare_folder(Path(out))
    try:
        with locked(Path(study)), clean_stdout(), progress(quiet=False):
            applied = apply_plan(Path(study), trial, Path(weights), Path(out), data=data, rung=rung, seconds=seconds,
                                 device=device, trust_code=trust_code, options=options)
    finally:
        remove_empty(created)
    print_facts(read_manifest(Path(out))["verified"], applied.metric, [])
    line(f"model    {applied.facts['path']}")
