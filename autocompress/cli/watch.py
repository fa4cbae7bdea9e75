"""`autocompress watch`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from autocompress.cli.console import line, say
from autocompress.cli.option_groups import Command

_EXAMPLES = """\b
Examples:
  autocompress watch studies/digits-2mb
  autocompress watch studies/digits-2mb --host 0.0.0.0 --port 8080
"""


@click.command(cls=Command, epilog=_EXAMPLES, short_help="Serve a live page of a study that is searched.")
@click.argument("study", metavar="STUDY")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", help="Address or name of this machine that the page is "
              "served on. On any but the loopback address a token is asked for. Default: 127.0.0.1.")
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), default=0,
              help="Port of the page. Default: a free one.")
def watch(study: str, host: str, port: int) -> None:
    """Serve the report of STUDY, the folder of a search, as a page that follows the search, wherever that runs: the
    front, what runs, the workers and the time left. Ctrl-C ends it; the study is only read.
    """
    from autocompress.study.live_page import LivePage
    from autocompress.study.live_server import LiveServer

    with LiveServer(LivePage(Path(study)), host, port) as server:
        line(server.url)
        say("Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
