"""`autocompress export`."""

from __future__ import annotations

from pathlib import Path

import click

from autocompress.cli.console import clean_stdout, line
from autocompress.cli.option_groups import Command
from autocompress.cli.trust import check_stored
from autocompress.core.evaluation import LATENCY
from autocompress.errors import InputError

_EXAMPLES = """\b
Examples:
  autocompress export studies/digits-2mb --out artifact
  autocompress export studies/digits-2mb --trial 7 --out artifact-7
  autocompress export studies/digits-2mb --out artifact --sign private.pem --anonymous
"""


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Write the verified file of a trial.")
@click.argument("study", metavar="STUDY")
@click.option("--trial", metavar="N|best", default="best", help="The trial to export. Default: best.")
@click.option("--out", metavar="DIR", required=True, help="Folder for the file, manifest.json and README.md.")
@click.option("--sign", metavar="KEYFILE", help="Sign it with this private Ed25519 key (PEM).")
@click.option("--encrypt", metavar="KEYFILE", help="Encrypt its model and samples with this key of 32 bytes (AES-GCM).")
@click.option("--watermark", metavar="KEYFILE", help="Secret whose owner its weights bear the mark of.")
@click.option("--anonymous", is_flag=True, help="No names of layers in its files: layer1, layer2, … stand for them.")
@click.option("--licence", metavar="TEXT", default="", help="Its licence, for manifest and card.")
@click.option("--intended-use", metavar="TEXT", default="", help="What it is meant for, for manifest and card.")
@click.option("--trust-code", is_flag=True, help="Run the Python files that the study was made from.")
def export(study: str, trial: str, out: str, sign: str | None, encrypt: str | None, watermark: str | None,
           anonymous: bool, licence: str, intended_use: str, trust_code: bool) -> None:
    """Write the verified file of one trial of STUDY, the folder of a search.

    The network is rebuilt, written, and the file is run on the test split before the command says that it is done.
    """
    from autocompress.artifact.folder import read_manifest, require_no_foreign
    from autocompress.artifact.options import ExportOptions
    from autocompress.cli.progress import progress
    from autocompress.cli.summary import compare, print_facts
    from autocompress.study import open_study
    from autocompress.study.folder import prepare_folder, remove_empty
    from autocompress.study.lock import locked

    if not out:
        raise InputError("--out must not be empty")
    check_stored(Path(study), trust_code, "exporting")
    open_study(study).candidate(trial)  # a wrong number is said before the network is loaded
    options = ExportOptions.of(sign, encrypt, licence, intended_use, anonymous, watermark)
    require_no_foreign(Path(out))
    created = prepare_folder(Path(out))
    try:
        with locked(Path(study)), clean_stdout(), progress(quiet=False):
            result = open_study(study, load_network=True, trust_code=trust_code)
            file, metric = result.ship(out, trial, options), result.metric
    finally:
        remove_empty(created)
    manifest = read_manifest(Path(out))
    print_facts(manifest["verified"], metric, [
        compare(f"Latency on {device}, estimated", LATENCY, of["baseline_ms"], of["ms"], metric)
        for device, of in manifest.get("latencies", {}).items() if of["source"] == "estimated"])
    line(f"model    {file}")
