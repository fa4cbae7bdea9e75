"""What the docstrings of public names must say: parameters, what is returned and what is raised.

The style: the first line names the thing that is returned, or the algorithm. Then, where there is something to say,
`Args:` with a line `name: …` for each parameter (shapes and units there), `Returns:`, `Raises:` with a line `Error: …`
for each, and `Source:` for an algorithm of the literature. A short docstring may name its parameters in a sentence, in
backticks, and its errors too. A method that implements one of a protocol need not repeat the protocol.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache, cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import msgspec
import pytest

import autocompress

PACKAGE = Path(autocompress.__file__).parent
# Modules whose public names users meet: what they call, the protocols that they implement, and the contract suites.
MODULES = (
    "autocompress", "autocompress.artifact.loaded", "autocompress.artifact.verify",
    "autocompress.backend.network.compressed", "autocompress.core.attribution", "autocompress.core.budget",
    "autocompress.core.evaluation", "autocompress.core.front", "autocompress.core.layer", "autocompress.core.metric",
    "autocompress.core.plan", "autocompress.core.sensitivity", "autocompress.core.store", "autocompress.core.warnings",
    "autocompress.formats.base", "autocompress.formats.table", "autocompress.hardware.profile",
    "autocompress.hardware.targets", "autocompress.search.executors.base", "autocompress.search.executors.inline",
    "autocompress.search.executors.processes", "autocompress.space.projection", "autocompress.space.solver.solver",
    "autocompress.space.space", "autocompress.space.spec", "autocompress.study", "autocompress.study.apply",
    "autocompress.tasks.base", "autocompress.tasks.metrics.measure", "autocompress.tasks.score",
    "autocompress.tasks.stored_samples", "autocompress.techniques", "autocompress.techniques.apply",
    "autocompress.techniques.base", "autocompress.techniques.knobs", "autocompress.tensors.composed",
    "autocompress.tensors.likelihood", "autocompress.tensors.named", "autocompress.testing.executor_contract",
    "autocompress.testing.format_contract", "autocompress.testing.networks", "autocompress.testing.sampler_contract",
    "autocompress.testing.store_contract", "autocompress.testing.task_contract", "autocompress.testing.techniques",
)


# First words of docstrings that say what is done, so that what is returned must be said beside it.
VERBS = re.compile(r"(Add|Apply|Ask|Begin|Build|Bring|Call|Check|Choose|Complete|Compress|Convert|Copy|Cut|Do|Draw|"
                   r"Estimate|Evaluate|Export|Find|Give|Load|Make|Measure|Move|Open|Predict|Prepare|Put|Read|Reach|"
                   r"Run|Save|Score|Search|Settle|Sort|Take|Tell|Time|Trace|Train|Verify|Write)\b")


@cache
def public_objects() -> dict[str, Any]:
    """Classes and functions by their full names."""
    objects: dict[str, Any] = {}
    for place in MODULES:
        module = import_module(place)
        names = getattr(module, "__all__", None) or [
            name for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == place]
        for name in names:
            value = getattr(module, name)
            value = value.__call__ if isinstance(value, ModuleType) else value  # autocompress.search is both
            if isinstance(value, type | FunctionType) and value.__module__.startswith("autocompress"):
                objects[f"{value.__module__}.{value.__qualname__}"] = value
    return objects


def members(cls: type) -> Iterator[tuple[str, Any, bool]]:
    """Public methods and properties that a class defines itself: name, function, and whether it is a property."""
    for name, value in vars(cls).items():
        if name.startswith("_") and name != "__call__":
            continue
        if isinstance(value, property | cached_property):
            yield name, value.fget if isinstance(value, property) else value.func, True
        elif isinstance(value, FunctionType | classmethod | staticmethod):
            function = getattr(value, "__func__", value)
            if function.__name__ == name and not name.startswith(("test_", "pytest_")):  # no default that is a lambda
                yield name, function, False


def implements(cls: type, name: str) -> bool:
    """Whether a method is one of a base of its class in this package, or of a protocol that its class has all of."""
    protocols = [each for each in public_objects().values() if getattr(each, "_is_protocol", False)]
    has_all = [each for each in protocols if each is not cls
               and all(hasattr(cls, member) for member, _, is_property in members(each) if not is_property)]
    return any(name in vars(base) and vars(base)[name].__doc__ for base in (*cls.__mro__[1:], *has_all)
               if base.__module__.startswith("autocompress") and not base.__name__.startswith("_"))


def section(doc: str, *titles: str) -> str:
    """The text of a section of a docstring; empty where there is none."""
    match = re.search(rf"^({'|'.join(titles)}):\n((?:[ \t]+.*\n?|\n)+)", doc, re.M)
    return match[2] if match else ""


def raised(function: Any) -> set[str]:
    """Names of the errors that a function raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    errors = [node.exc.func if isinstance(node.exc, ast.Call) else node.exc
              for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return {error.id for error in errors if isinstance(error, ast.Name)
            and error.id[0].isupper()} - {"NotImplementedError", "AttributeError"}


def names_parameter(doc: str, name: str) -> bool:
    """Whether a docstring names a parameter: at the head of a line of `Args` or `Attributes`, or in backticks."""
    heads = re.findall(r"^[ ]+([\w*, ]+):", section(doc, "Args", "Attributes"), re.M)
    return name in re.findall(r"\w+", " ".join(heads)) or f"`{name}`" in doc


def missing_of_function(function: Any, is_property: bool = False) -> list[str]:
    """What the docstring of a function does not say."""
    doc = inspect.getdoc(function) or ""
    if not doc:
        return ["a docstring"]
    signature = inspect.signature(function)
    gaps = [name for name in signature.parameters
            if name not in ("self", "cls") and not name.startswith("_") and not names_parameter(doc, name)]
    if not is_property and signature.return_annotation not in ("None", None, inspect.Signature.empty) \
            and VERBS.match(doc) and not re.search(r"\b[Rr]eturns?\b|^Yields", doc, re.M):
        gaps.append("Returns")
    return gaps + [error for error in sorted(raised(function)) if error not in doc]


def missing_of_class(cls: type) -> list[str]:
    """What the docstring of a class does not say of its fields, or of the arguments of its constructor. A comment above
    a field counts too."""
    doc = inspect.getdoc(cls) or ""
    if not doc:
        return ["a docstring"]
    names: list[str] = []
    if issubclass(cls, msgspec.Struct):
        names = [name for name in cls.__struct_fields__ if name in cls.__annotations__]
    elif "__init__" in vars(cls) and not getattr(cls, "_is_protocol", False):
        names = [name for name in inspect.signature(vars(cls)["__init__"]).parameters if name != "self"]
    lines = inspect.getsource(cls).splitlines()
    commented = {match[1] for before, line in pairwise(lines)
                 if before.strip().startswith("#") and (match := re.match(r"\s+(\w+):", line))}
    return [f"field {name}" for name in names
            if not name.startswith("_") and name not in commented and not names_parameter(doc, name)]


@pytest.mark.parametrize("name", sorted(public_objects()))
def test_public_docstrings_say_what_goes_in_and_what_comes_out(name: str) -> None:
    value = public_objects()[name]
    if not isinstance(value, type):
        assert missing_of_function(value) == []
        return
    gaps = {"": missing_of_class(value)}
    for member, function, is_property in members(value):
        documented = implements(value, member)
        gaps[member] = ([] if function.__doc__ else ["a docstring"]) if documented else \
            missing_of_function(function, is_property)
    assert {member: missing for member, missing in gaps.items() if missing} == {}


# Modules that hold an algorithm of the literature.
ALGORITHMS = (
    "backend.decompose.cp", "backend.decompose.factorize", "backend.graph.label_propagation",
    "backend.graph.residual_blocks", "backend.network.grids", "backend.prune.importance", "backend.quantize.adaround",
    "backend.quantize.cross_layer_equalization", "backend.quantize.gptq", "backend.sensitivity.fisher",
    "backend.sparsify.magnitude_wanda_obs", "backend.statistics.reconstruct", "backend.training.averaging",
    "backend.training.blockwise", "backend.training.distill", "backend.training.feature_distillation",
    "backend.training.lsq", "backend.training.schedule", "backend.training.warm_start", "core.hypervolume",
    "core.model_selection", "formats.ranges", "hardware.latency", "search.fidelity", "search.samplers.surrogate",
    "search.samplers.targets", "search.samplers.thompson_sampler", "space.solver.lagrangian", "study.model_soup",
    "study.racing",
)


@pytest.mark.parametrize("module", ALGORITHMS)
def test_algorithms_of_the_literature_name_their_source(module: str) -> None:
    doc = import_module(f"autocompress.{module}").__doc__ or ""
    assert re.search(r"\b(19|20)\d\d\b", doc), "the module's docstring must name authors, title or venue, and the year"


def test_arguments_that_a_docstring_lists_are_parameters() -> None:
    """Of every function of the package, so that renamed parameters take their docstrings along."""
    unknown = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                listed = re.findall(r"^ {4}\*{0,2}(\w+):", section(ast.get_docstring(node) or "", "Args"), re.M)
                parameters = {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
                if not set(listed) <= parameters:
                    unknown[f"{path.relative_to(PACKAGE)}: {node.name}"] = set(listed) - parameters
    assert unknown == {}
