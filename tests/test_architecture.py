"""The house: who may import whom, what is public, what ships."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import autocompress
from autocompress.hardware.profile import list_profiles, load_profile
from autocompress.space.spec import SpaceSpec, list_spaces, load_space
from autocompress.study.settings import markdown_table
from autocompress.techniques import TECHNIQUES, sparsify
from autocompress.techniques.decompose import METHODS
from autocompress.techniques.prune import CRITERIA
from autocompress.techniques.quantize import SETTINGS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autocompress"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SHIPPED = [*SOURCES, *sorted(PACKAGE.rglob("*.toml")), *sorted((ROOT / "search_spaces").glob("*.toml"))]
# What a value underwent or whose it is, in place of what it is (docs/glossary.md).
NO_NAMES = {"asked", "begun", "chosen", "found", "given", "it", "known", "made", "ours", "own", "such", "theirs",
            "those", "wanted"}


def test_every_room_uses_only_the_floors_under_it() -> None:
    """The contracts of import-linter, in pyproject.toml."""
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_public_names_are_few_and_resolve() -> None:
    assert len(autocompress.__all__) <= 26
    assert set(autocompress.__all__) == {"search", *autocompress._HOMES}, "each is loaded from its home, and no other"
    assert list(autocompress.__all__) == sorted(set(autocompress.__all__))
    for name in autocompress.__all__:
        assert getattr(autocompress, name).__doc__
    with pytest.raises(AttributeError, match="nothing"):
        _ = autocompress.nothing


def test_nothing_else_of_the_package_looks_public() -> None:
    """What `vars()` shows after every public name was asked for is listed, or a module, or private."""
    code = ("import autocompress, types\nfor name in autocompress.__all__: getattr(autocompress, name)\n"
            "own = {name for name, value in vars(autocompress).items() if not name.startswith('_')\n"
            "       and not isinstance(value, types.ModuleType)} - set(autocompress.__all__)\n"
            "print(sorted(own))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("['Any', 'TYPE_CHECKING', 'ModuleType', 'annotations', 'import_module']",
                                   "['Any', 'ModuleType', 'TYPE_CHECKING', 'annotations', 'import_module']")


def test_every_setting_stands_in_the_guide() -> None:
    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert markdown_table() in text, "docs/settings.md must hold what study.settings.markdown_table gives"


def test_the_counts_of_the_page_are_those_of_the_package() -> None:
    """Each row of docs/architecture.md whose command is a grep."""
    rows = re.findall(r"^\| [^|]+ \| `(grep .+?)` \| (\d+)", (ROOT / "docs/architecture.md").read_text("utf-8"), re.M)
    assert len(rows) == 3
    for command, figure in rows:
        shown = subprocess.run(command.replace("\\|", "|"), shell=True, cwd=ROOT, capture_output=True, text=True,
                               check=True)
        assert int(shown.stdout) == int(figure), command


def test_importing_the_package_does_not_wait_for_torch() -> None:
    done = subprocess.run([sys.executable, "-c", "import sys, autocompress; sys.exit('torch' in sys.modules)"],
                          cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_profile_loads(name: str) -> None:
    assert load_profile(name).id == name


@pytest.mark.parametrize("name", list_spaces())
def test_every_shipped_space_loads(name: str) -> None:
    spec = load_space(name)
    assert spec.name == name
    assert spec.description


def test_the_guide_to_spaces_names_every_key_and_option() -> None:
    text = (ROOT / "docs" / "space.md").read_text("utf-8")
    tables = {field.name: field.type.__args__[0] for field in msgspec.structs.fields(SpaceSpec)
              if field.name not in ("schema", "name", "description", "extensions")}
    assert set(tables) == {*TECHNIQUES, "recovery"}
    for table, spec in tables.items():
        section = text.split(f"## `[{table}]`")[1].split("\n## ")[0]
        for field in msgspec.structs.fields(spec):
            assert f"| `{field.name}` | " in section, f"{table}.{field.name}"
    options = {*CRITERIA, *METHODS, *sparsify.CRITERIA, *(str(v) for values in SETTINGS.values() for v in values)}
    assert [option for option in options if not re.search(rf"\b{re.escape(option)}\b", text)] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_names_a_place_on_somebodys_machine(path: Path) -> None:
    places = re.findall(r"(?<![\w.:/}])/(?:home|root|Users|work|tmp|mnt)/\w+", path.read_text("utf-8"))
    assert not places


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))
    assert path.stem not in ("utils", "helpers", "common", "misc")


def test_names_say_what_a_value_is() -> None:
    """Variables, parameters, attributes, functions and classes of the package."""
    identifiers = [(path, getattr(node, "lineno", 0), getattr(node, field, None))
                   for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8")))
                   for field in ("id", "arg", "attr", "name", "asname")]
    refused = [f"{path.relative_to(ROOT)}:{line}: {name}" for path, line, name in identifiers if name in NO_NAMES]
    assert not refused, "a term of docs/glossary.md, or a noun that says what the value is, must stand for these names"


def test_every_error_has_its_exit_code() -> None:
    from autocompress import errors

    codes = {cls.__name__: cls.exit_code for cls in vars(errors).values()
             if isinstance(cls, type) and issubclass(cls, errors.AutocompressError)}
    assert codes == {"AutocompressError": 1, "InputError": 2, "StudyMismatchError": 2, "InfeasibleError": 3,
                     "EnvironmentFault": 4, "StorageError": 4, "Interrupted": 130}


@pytest.mark.parametrize("first", ["import autocompress.search as room; import autocompress",
                                   "import autocompress; import autocompress.search as room",
                                   pytest.param("from autocompress.search.engine import Engine; import autocompress; "
                                                "import autocompress.search as room", marks=pytest.mark.slow)])
def test_search_is_a_function_and_a_package_whichever_comes_first(first: str) -> None:
    code = (f"{first}\nfrom autocompress.search.engine import Engine\nimport autocompress.study\n"
            "assert autocompress.search is room and room.engine.Engine is Engine and callable(room)\n"
            "from autocompress import search\nassert search.__doc__\n"
            "try: search(effort='thorugh')\nexcept autocompress.InputError as error: assert 'thorough' in str(error)\n"
            "else: raise AssertionError")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
