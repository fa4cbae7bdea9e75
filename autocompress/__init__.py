"""autocompress: from a trained PyTorch network to a verified file inside a budget.

    import autocompress
    result = autocompress.search(model=net, data=(images, labels), budget="2MB")
    print(result.front)
    result.export("artifact")

The stages of a search one by one, with a plan of one's own:

    traced = autocompress.trace(model=net, data=(images, labels))
    traced.sensitivity()
    plan = autocompress.Plan.of([autocompress.Step("layer1.0.conv1", "quantize",
                                                   {"weight_bits": 4, "activation_bits": 8})])
    traced.evaluate(plan).metrics
    traced.export(plan, "artifact")
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.artifact.loaded import load
    from autocompress.artifact.module import load_module
    from autocompress.core.budget import Budget
    from autocompress.core.evaluation import Candidate, Evaluation
    from autocompress.core.plan import Plan, Step
    from autocompress.errors import (
        AutocompressError,
        EnvironmentFault,
        InfeasibleError,
        InputError,
        Interrupted,
    )
    from autocompress.hardware.profile import HardwareProfile, list_profiles, load_profile
    from autocompress.study import SearchResult, open_study
    from autocompress.study.traced_model import TracedModel, compress, evaluate, export, sensitivity, trace
    from autocompress.tasks.batch_task import Task
    from autocompress.tasks.metrics.table import metric

__version__ = "0.1.0"

_HOMES = {
    "AutocompressError": "errors", "Budget": "core.budget", "Candidate": "core.evaluation",
    "EnvironmentFault": "errors", "Evaluation": "core.evaluation", "HardwareProfile": "hardware.profile",
    "InfeasibleError": "errors", "InputError": "errors", "Interrupted": "errors", "Plan": "core.plan",
    "SearchResult": "study", "Step": "core.plan", "list_profiles": "hardware.profile",
    "load": "artifact.loaded", "load_module": "artifact.module", "load_profile": "hardware.profile",
    "metric": "tasks.metrics.table", "open_study": "study", "Task": "tasks.batch_task",
    **dict.fromkeys(("TracedModel", "compress", "evaluate", "export", "sensitivity", "trace"), "study.traced_model"),
}
__all__ = [
    "AutocompressError", "Budget", "Candidate", "EnvironmentFault", "Evaluation", "HardwareProfile",
    "InfeasibleError", "InputError", "Interrupted", "Plan", "SearchResult", "Step", "Task", "TracedModel",
    "compress", "evaluate", "export", "list_profiles", "load", "load_module", "load_profile", "metric", "open_study",
    "search", "sensitivity", "trace",
]


def _search(model: Any = None, data: Any = None, budget: str | float | None = None, **options: Any) -> SearchResult:
    """Search for the best compressed versions of a network inside a budget, and export the best.

    Args:
        model: an nn.Module, `torchvision:NAME`, `timm:NAME` or `path/to/file.py:factory`; left out with `data`, the
            embedded ResNet-18.
        data: arrays, Datasets, or a spec such as `imagefolder:DIR`.
        budget: bytes of the exported file, such as `"2MB"`.
        options: the further settings; `help(autocompress.study.search)` lists them.

    Returns:
        The study: its front, trials, best candidate and exported file.

    Raises:
        InputError: for what is wrong with what was given.
        InfeasibleError: where no plan meets the budget.
        EnvironmentFault: where storage, the network or an optional package fails.
        AutocompressError: where the exported file does not do what was promised.
        Interrupted: after Ctrl-C; a study that has begun is kept.
    """
    from autocompress.study import search as run

    return run(model, data, budget, **options)


class _CallablePackage(ModuleType):
    """`autocompress.search` is a function that users call and a package that holds the engine: both in one, whichever
    is imported first."""

    __call__ = staticmethod(_search)


import_module("autocompress.search")
sys.modules["autocompress.search"].__class__ = _CallablePackage
if TYPE_CHECKING:
    search = _search
else:
    search = sys.modules["autocompress.search"]


def __getattr__(name: str) -> Any:
    """Load on first use: `autocompress --help` need not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f"autocompress.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
