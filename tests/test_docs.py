"""What the documentation names is there: files, modules, classes with their members, flags, commands and links."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest

from autocompress.cli.main import cli

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autocompress"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = {place.name for base in (ROOT, PACKAGE) for place in base.iterdir() if place.is_dir()}


@cache
def classes() -> dict[str, set[str]]:
    """Members of every class of the package by its name."""
    members: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                members.setdefault(node.name, set()).update(_members(node))
    return members


def _members(node: ast.ClassDef) -> set[str]:
    """Methods, fields, and attributes that methods set."""
    names = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    names |= {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)
              and isinstance(each.target, ast.Name)}
    names |= {each.id for statement in node.body if isinstance(statement, ast.Assign)
              for each in ast.walk(statement) if isinstance(each, ast.Name)}
    return names | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)
                    and isinstance(each.ctx, ast.Store)}


def commands(command: click.Command, context: click.Context) -> dict[str, set[str]]:
    """The flags of a command and of those below it, by name."""
    flags = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    flags_of = {command.name or "": flags}
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            flags_of |= {key or name: value for key, value in commands(below, context).items()}
    return flags_of


@cache
def texts() -> set[str]:
    """Every string in the package, such as keys of files."""
    return {node.value for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def command_lines(text: str) -> str:
    """The code of a page that begins with `autocompress` or with a flag: other programs have flags too."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join(code for code in (*lines, *inline) if re.match(r"(\$ )?autocompress |--", code))


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of the package, something in one, or a text that the package writes."""
    if name in texts():
        return True
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for attribute in parts[count:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    paths = re.findall(rf"(?<![\w/.])((?:{'|'.join(sorted(FOLDERS))})/[\w/.-]+\.(?:py|md|toml|json|ipynb))\b", text)
    assert [path for path in paths if not any((base / path).exists() for base in (ROOT, PACKAGE, page.parent))] == []
    links = re.findall(r"\]\(([^)#\s:]+)(?:#[\w-]+)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    dotted = set(re.findall(r"\bautocompress(?:\.\w+)+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    assert [name for name in sorted(dotted) if not resolves(name)] == []
    members = [(name, member) for name, member in re.findall(r"`([A-Z]\w+)\.(\w+)", text) if name in classes()]
    assert [pair for pair in members if pair[1] not in classes()[pair[0]]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_flags_of_a_page_are_those_of_the_command_line(page: Path) -> None:
    code, flags_of = command_lines(page.read_text("utf-8")), commands(cli, click.Context(cli))
    flags = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", code))
    assert flags - set().union(*flags_of.values()) == set()
    called = set(re.findall(r"^(?:\$ )?autocompress ([a-z]+)", code, re.M))
    assert called - set(flags_of) == set()
