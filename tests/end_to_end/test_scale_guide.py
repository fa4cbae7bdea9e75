"""The scripts of docs/scale.md can be read by what they are for, and their commands by ours."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from autocompress.cli.search import search

GUIDE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text("utf-8")


def _block(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return str(block)


def _settings(command: str) -> dict[str, Any]:
    """What `autocompress search` makes of a command line, without running it."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["autocompress", "search"]
    with click.Context(search, info_name="search") as context:
        search.parse_args(context, words[2:])
        return context.params


def test_the_script_for_slurm_is_short_and_legal() -> None:
    script = _block("bash")
    assert len(script.splitlines()) <= 12
    shell = shutil.which("bash")
    assert shell is None or subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0
    command = re.search(r"^autocompress .*?[^\\]$", script, re.MULTILINE | re.DOTALL)
    assert command is not None
    settings = _settings(command.group())
    assert settings["workers"] == "auto" and settings["resume"] and settings["gpus_per_worker"] == 0.5


def test_the_manifest_for_kubernetes_is_a_job_of_kuberay() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(_block("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}, "a cluster without a token is refused"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert group["template"]["spec"]["containers"][0]["image"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes texts"
    settings = _settings(job["spec"]["entrypoint"])
    assert settings["workers"] == "auto" and settings["resume"]
