"""Tables on terminals of every width."""

from __future__ import annotations

import pytest

from autocompress.cli import console as screen


@pytest.mark.parametrize("change", ["2.3× faster (2.2 to 2.4)", "1.44× slower (1.02 to 1.66), and more words"])
def test_a_title_stays_whole_however_long_the_other_cells_are(change: str, monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen.print_table(("", "original", "exported", "change"),
                       [("Latency on raspberry-pi-4, estimated", "120.45 ms", "103.12 ms", change)], whole=True)
    shown = capsys.readouterr().out
    assert "Latency on raspberry-pi-4, estimated" in shown
    assert all(word in shown for word in change.split())
