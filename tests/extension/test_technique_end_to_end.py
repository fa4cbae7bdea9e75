"""A technique of a user's own on each way through a search: in worker processes, resumed, and in a study read later."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import autocompress
from autocompress.cli.main import main
from autocompress.errors import InputError, StudyMismatchError
from autocompress.study.loading import portable
from autocompress.study.own_code import code_fingerprint
from autocompress.study.request import Request
from autocompress.study.settings import SearchSettings
from autocompress.tasks.factory import load_object

TOY = (Path(__file__).parent / "test_technique.py").read_text("utf-8")
NET = '''
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 3)).eval()

def data():
    inputs = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)
'''
# Worker processes run the technique's file too, and train for a moment like this one.
SHORTER = "from autocompress.study import trainer\ntrainer.SHORT_STEPS, trainer.LONG_STEPS = 4, 16\n"


@pytest.fixture(scope="module", autouse=True)
def short(short_searches: None) -> None:
    """Nothing here hangs on how well a network recovers."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that a user would have: the technique, the network with its data, and the space."""
    (tmp_path / "rows.py").write_text(TOY.partition("class TestZeroRows")[0] + SHORTER, "utf-8")
    (tmp_path / "net.py").write_text(NET, "utf-8")
    (tmp_path / "space.toml").write_text('schema = 1\nname = "mine"\n[zero-rows]\nshare = 0.25\n', "utf-8")
    return tmp_path


def search(folder: Path, **more: Any) -> autocompress.SearchResult:
    """A search of two candidates, by files or by what else is given."""
    files = {"model": f"{folder}/net.py:net", "data": f"{folder}/net.py:data",
             "techniques": f"{folder}/rows.py:ZeroRows"}
    return autocompress.search(**{**files, "budget": "60kB", "space": f"{folder}/space.toml", "trials": 2, "epochs": 1,
                                  "effort": "fast", "out": folder / "study", **more})


def change(folder: Path, before: str, after: str) -> None:
    """Edit the technique's file."""
    text = (folder / "rows.py").read_text("utf-8")
    assert before in text
    (folder / "rows.py").write_text(text.replace(before, after), "utf-8")


def test_a_study_of_it_goes_on_with_the_same_code_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search(folder, trials=1)
    study = str(folder / "study")
    assert main(["show", study]) == 0
    assert "zero-rows 2 sites" in capsys.readouterr().out
    change(folder, "(0, 1), plain", "(0, 1) , plain")  # layout alone
    change(folder, "class ZeroRows", "# The smallest rows.\nclass ZeroRows")
    assert autocompress.open_study(study, load_network=True).bench
    change(folder, "stable=True", "descending=True")
    with pytest.raises(StudyMismatchError, match="technique_code: stored"):
        search(folder, resume=True)
    assert main(["export", study, "--out", f"{folder}/again", "--trust-code"]) == 2
    assert "the code of the technique zero-rows must be the one that the study was made with" in capsys.readouterr().err
    assert not (folder / "again").exists()


@pytest.mark.slow
def test_its_study_is_shown_reported_exported_and_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search(folder)
    study = str(folder / "study")
    for command in (["show", study], ["report", study], ["export", study, "--out", f"{folder}/out", "--trust-code"],
                    ["verify", f"{folder}/out", "--study", study, "--trust-code"],
                    ["search", "--resume", "--out", study, "--trials", "3", "--trust-code"],
                    ["search", "--from", study, "--budget", "58kB", "--trials", "1", "--out", f"{folder}/smaller",
                     "--trust-code"]):
        capsys.readouterr()
        assert main(command) == 0, (command, capsys.readouterr().err)
    assert len(autocompress.open_study(study).candidates) == 3
    with pytest.raises(InputError, match=r"unknown field `zero-rows`; .*--technique FILE.py:NAME"):
        autocompress.search(resume=True, out=study, techniques=[])
    (folder / "rows.py").unlink()
    assert main(["show", study]) == main(["report", study]) == 0, "the report does without the file"
    assert main(["export", study, "--out", f"{folder}/again", "--trust-code"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_what_goes_to_workers_leaves_its_tables_behind(folder: Path) -> None:
    """A worker has not loaded the file from which the class of the table's settings is."""
    request = Request.of(SearchSettings.of(model=f"{folder}/net.py:net", data=f"{folder}/net.py:data",
                                           techniques=f"{folder}/rows.py:ZeroRows", space=f"{folder}/space.toml"))
    assert request.space.extensions and "zero-rows" in request.techniques
    received = pickle.loads(pickle.dumps(portable(request)))
    assert list(received.techniques) == list(request.techniques)


def test_the_code_is_the_class_and_what_it_uses_of_its_file(folder: Path) -> None:
    def fingerprint() -> str:
        return code_fingerprint([load_object(f"{folder}/rows.py:Mine", what="technique", trust_code=True)])

    (folder / "rows.py").write_text("""
class Base:
    share = 0.1

def used():
    return CONSTANT

def unused():
    return 1

CONSTANT = 1

class Mine(Base):
    'What it does.'
    def apply(self):
        return used()
""", "utf-8")
    first = fingerprint()
    for before, after, same in (("return 1", "return 2", True), ("What it does", "What it did", True),
                                ("CONSTANT = 1", "CONSTANT = 2", False), ("CONSTANT = 2", "CONSTANT = 1", True),
                                ("share = 0.1", "share = 0.2", False)):
        change(folder, before, after)
        assert (fingerprint() == first) is same, (before, after)
    assert code_fingerprint([type("Typed", (), {"__module__": "nowhere"})()]) == ""


@pytest.mark.slow
def test_worker_processes_load_its_file(folder: Path) -> None:
    result = search(folder, jobs=2)
    assert result.artifact is not None and result.artifact["verified"]
    assert any(candidate.plan and candidate.plan.find("zero-rows") for candidate in result.candidates)


@pytest.mark.slow
def test_worker_processes_get_an_object_of_a_script(folder: Path) -> None:
    """Of a class that the script itself defines; afterwards its study opens with the object, and only with it."""
    script = folder / "script.py"
    script.write_text(f"""{(folder / 'rows.py').read_text('utf-8')}

if __name__ == "__main__":
    from net import data, net
    def search(**more):
        return autocompress.search(net(), data(), "60kB", techniques=[ZeroRows()], space="space.toml", trials=2,
                                   epochs=1, effort="fast", jobs=2, out="study", **more)
    search()
    assert search(resume=True).best is not None
    result = autocompress.open_study("study", model=net(), data=data(), techniques=[ZeroRows()])
    assert result.export("out").is_file()
    assert "of its rows zero" in result.report().read_text("utf-8")
    try:
        autocompress.open_study("study", model=net(), data=data())
    except autocompress.InputError as error:
        assert "techniques" in str(error)
    else:
        raise AssertionError
""", "utf-8")
    done = subprocess.run([sys.executable, script.name], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_object_of_a_class_typed_at_a_prompt_cannot_go_to_processes(folder: Path) -> None:
    script = (folder / "rows.py").read_text("utf-8") + """
autocompress.search("net.py:net", "net.py:data", "60kB", techniques=[ZeroRows()], trials=2, effort="fast", jobs=2)
"""
    done = subprocess.run([sys.executable, "-"], input=script, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "defined at a prompt or in a notebook" in done.stderr
