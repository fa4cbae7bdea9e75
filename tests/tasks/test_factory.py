from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autocompress.errors import InputError
from autocompress.tasks.data import load_data
from autocompress.tasks.factory import call_factory, load_object


def test_a_factory_is_called_with_its_neighbours_importable(user_file: Path) -> None:
    before = list(sys.path)
    net = call_factory(f"{user_file}:model", what="model", trust_code=True)
    assert net[1].out_features == 3
    assert sys.path == before
    assert type(net).__module__ != "my net"


def test_data_from_a_factory_is_named_after_the_file(user_file: Path) -> None:
    data = load_data(f"{user_file}:data")
    assert (data.name, data.classes, len(data.train)) == ("my net", 3, 32)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("nothing", "must define a function 'nothing'; it defines .*model"),
        ("text", "must define a function 'text'"),
        ("fails", r"fails\(\) of .* failed: ValueError: no luck$"),
        ("leaves", "SystemExit: 7"),
        ("", "path/to/file.py:factory"),
        ("a.b", "path/to/file.py:factory"),
    ],
)
def test_a_bad_factory_says_why(user_file: Path, attribute: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call_factory(f"{user_file}:{attribute}", what="model", trust_code=True)


def test_a_file_that_cannot_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import a_module_that_is_absent\n")
    before = set(sys.modules)
    with pytest.raises(InputError, match=r"cannot be imported: ModuleNotFoundError.*a_module_that_is_absent"):
        call_factory(f"{tmp_path}/net.py:model", what="model", trust_code=True)
    assert not any(name.startswith("autocompress_user_net_") for name in set(sys.modules) - before)
    (tmp_path / "net.py").write_text("def model(:\n")
    with pytest.raises(InputError, match="SyntaxError"):
        call_factory(f"{tmp_path}/net.py:model", what="model", trust_code=True)


def test_missing_or_distrusted_files_are_not_run(user_file: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        call_factory("absent.py:model", what="model", trust_code=True)
    (user_file.parent / "neighbour.py").write_text("raise AssertionError('was run')\n")
    with pytest.raises(InputError, match="trust"):
        call_factory(f"{user_file}:model", what="model", trust_code=False)
    with pytest.raises(InputError, match="trust"):
        load_data(f"{user_file}:data", trust_code=False)


def test_data_factories_must_return_data(user_file: Path) -> None:
    with pytest.raises(InputError, match="got int"):
        load_data(f"{user_file}:number")


@pytest.mark.parametrize(("name", "kind"), [("Box", "Box"), ("make", "int"), ("BOX", "Box"), ("WORDS", "tuple")])
def test_an_object_a_class_or_a_function_may_be_named(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "mine.py").write_text("class Box:\n    def __call__(self):\n        raise ValueError\n"
                                      "def make():\n    return 3\nBOX = Box()\nWORDS = ('a', 'b')\n")
    spec = f"{tmp_path / 'mine.py'}:{name}"
    assert type(load_object(spec, what="a task", trust_code=True)).__name__ == kind
    with pytest.raises(InputError, match=r"a task: .* would run code"):
        load_object(spec, what="a task", trust_code=False)
    instance = object()
    assert load_object(instance, what="a task", trust_code=False) is instance
