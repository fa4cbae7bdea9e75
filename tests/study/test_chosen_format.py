"""Which format a search writes: the profile's, one by name, or an object of the user's own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from autocompress.errors import InputError
from autocompress.formats.base import Format
from autocompress.formats.onnx.format import FORMAT
from autocompress.hardware.profile import load_profile
from autocompress.hardware.targets import together
from autocompress.study.chosen_format import chosen_format

HOST, BOARD = load_profile("host"), load_profile("stm32h743")
OTHER = msgspec.structs.replace(BOARD, format="other")


class _Mine(Format):
    name, suffix, runtime = "mine", ".mine", "nothing"


def test_the_profile_names_the_format_unless_the_user_does(tmp_path: Path) -> None:
    assert chosen_format(None, HOST) is FORMAT and chosen_format("onnx", OTHER) is FORMAT
    mine = _Mine()
    assert chosen_format(mine, HOST) is mine
    file = tmp_path / "formats.py"
    file.write_text("from autocompress.formats.base import Format\n"
                    "class Mine(Format):\n    name, suffix, runtime = 'mine', '.mine', 'nothing'\nREADY = Mine()\n")
    for name in ("Mine", "READY"):
        assert chosen_format(f"{file}:{name}", HOST).name == "mine"
    with pytest.raises(InputError, match="would run code"):
        chosen_format(f"{file}:Mine", HOST, trust_code=False)


@pytest.mark.parametrize(("spec", "reason"), [
    ("onx", "did you mean 'onnx'"), (_Mine, "_Mine is a class"), (object(), "it has no name, suffix, runtime")])
def test_what_is_no_format_is_refused(spec: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        chosen_format(spec, HOST)


def test_profiles_are_searched_for_together_in_one_format() -> None:
    with pytest.raises(InputError, match=r"one format.*onnx and other.*stm32h743: other"):
        together([HOST, OTHER])
    with pytest.raises(InputError, match="a format must be one of onnx"):
        chosen_format(None, OTHER)
    assert OTHER.fingerprint != BOARD.fingerprint
