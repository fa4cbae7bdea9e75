"""`autocompress predict`."""

from __future__ import annotations

import sys

import click

from autocompress.cli.console import print_json
from autocompress.cli.option_groups import Command

_EXAMPLES = """\b
Examples:
  autocompress predict artifact cat.png dog.jpg
  autocompress predict artifact samples.npy --json
  cat cat.png | autocompress predict artifact -
"""


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Ask an exported network about samples.")
@click.argument("artifact", metavar="DIR")
@click.argument("inputs", metavar="INPUT…", nargs=-1, required=True)
@click.option("--as-is", is_flag=True, help="Arrays are given to the network as they are, not normalised.")
@click.option("--key", metavar="KEYFILE", help="Public Ed25519 key (PEM) by whose owner it must be signed.")
@click.option("--decrypt", metavar="KEYFILE", help="The key that opens it, where it is encrypted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, in place of CSV.")
def predict(artifact: str, inputs: tuple[str, ...], as_is: bool, key: str | None, decrypt: str | None,
            as_json: bool) -> None:
    """Print what the network in DIR says of each INPUT: a picture, an array (.npy), arrays by name of the input (.npz),
    a recording (.wav) or text with the numbers of a sample in each line; - is standard input.

    Files are told apart by their content, and become samples as the manifest says.
    """
    from autocompress.artifact.inputs import read_samples
    from autocompress.artifact.loaded import load
    from autocompress.artifact.predictions import as_csv, predictions

    network = load(artifact, key=key, decrypt=decrypt)
    stdin = getattr(sys.stdin, "buffer", None)
    rows = [row for place in inputs for row in predictions(network, read_samples(network, place, stdin, as_is))]
    if as_json:
        print_json({"artifact": artifact, "study": network.manifest.study, "trial": network.manifest.trial,
                    "predictions": rows})
    else:
        sys.stdout.write(as_csv(rows))
