"""Parameters of the contract suites: every small network, the costly ones marked slow."""

from __future__ import annotations

from typing import Any

import pytest

from autocompress.testing.networks import NETWORKS

# Their steps run one by one under hooks; `lstm` and `gru` stand for them in the fast suite.
COSTLY = ("bilstm", "rnn")


def every_network() -> list[Any]:
    """Names of all small networks, as parameters of a fixture."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in COSTLY else name for name in sorted(NETWORKS)]
