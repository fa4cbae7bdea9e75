"""`autocompress verify`."""

from __future__ import annotations

import click

from autocompress.cli.console import clean_stdout, line, print_json, print_table
from autocompress.cli.option_groups import Command
from autocompress.errors import InputError

_EXAMPLES = """\b
Examples:
  autocompress verify artifact
  autocompress verify artifact --study studies/digits-2mb --json
"""


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Check that an artefact is what was exported.")
@click.argument("artifact", metavar="DIR")
@click.option("--study", metavar="STUDY",
              help="The study that it was exported from: its network and test data are loaded.")
@click.option("--key", metavar="KEYFILE", help="Public Ed25519 key (PEM) by whose owner it must be signed.")
@click.option("--decrypt", metavar="KEYFILE", help="The key that opens it, where it is encrypted.")
@click.option("--watermark", metavar="KEYFILE", help="Secret whose owner's watermark its weights must show.")
@click.option("--timeout", metavar="DURATION", default="60s", show_default=True,
              help="Longest that loading and running may take.")
@click.option("--memory", metavar="BYTES", default="4GiB", show_default=True,
              help="Most memory of the process that loads it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option("--trust-code", is_flag=True, help="Run the Python files that the study was made from.")
def verify(artifact: str, study: str | None, key: str | None, decrypt: str | None, watermark: str | None, timeout: str,
           memory: str, as_json: bool, trust_code: bool) -> None:
    """Check DIR, the folder of an exported network: its signature (with --key), hashes and size, that no integer kernel
    can saturate, that it loads in a process of its own within limits of time and memory, that it answers stored samples
    as it did, and its latency; with --watermark that it bears the mark of the owner.

    Artefacts in further formats, in folders of DIR, are checked too, but for watermarks.

    With --study also its answers beside the rebuilt network's, and its metric on the test split. Ends with 0 only if
    all of it holds, with 2 otherwise.
    """
    from autocompress.artifact.isolated import Limits
    from autocompress.artifact.options import Trust
    from autocompress.artifact.verify import FAILS
    from autocompress.artifact.verify import verify as verified
    from autocompress.quantities import parse_bytes, parse_seconds

    limits = Limits(parse_seconds(timeout, "--timeout"), parse_bytes(memory, "--memory"))
    verification = verified(artifact, limits, Trust.of(key, decrypt, watermark))
    if study is not None and verification.holds:
        from pathlib import Path

        from autocompress.cli.progress import progress
        from autocompress.cli.trust import check_stored
        from autocompress.study.verify_with_study import verify_with_study

        check_stored(Path(study), trust_code, "verifying")
        with clean_stdout(), progress(quiet=as_json):
            verify_with_study(verification, Path(study), trust_code)
    if as_json:
        print_json(verification.document())
    else:
        print_table(("check", "", "found"), [(check.name, check.state, check.detail) for check in verification.checks])
    failed = next((check for check in verification.checks if check.state == FAILS), None)
    if failed is not None and as_json:
        raise click.exceptions.Exit(InputError.exit_code)
    if failed is not None:
        raise InputError(f"{artifact} is not verified: {failed.detail}")
    if not as_json:
        line(f"{artifact} is verified")
