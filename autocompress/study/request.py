"""What one search is asked to do, with the files that its settings name read once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autocompress.core.budget import Budget
from autocompress.core.calling import call_with
from autocompress.errors import InputError
from autocompress.formats.base import Format
from autocompress.formats.table import format_named
from autocompress.hardware.profile import HardwareProfile
from autocompress.hardware.targets import load_targets
from autocompress.search.executors.base import Executor
from autocompress.search.executors.inline import Inline
from autocompress.search.executors.pool import as_executor
from autocompress.search.executors.processes import Processes
from autocompress.search.executors.ray import RayActors
from autocompress.search.samplers.make import check_sampler
from autocompress.space.spec import SpaceSpec, load_space
from autocompress.study.chosen_format import chosen_format
from autocompress.study.settings import SearchSettings
from autocompress.study.user_code import user_code
from autocompress.tasks.factory import is_factory, load_object, makes_objects
from autocompress.techniques.apply import with_own
from autocompress.techniques.base import Technique


def own_techniques(settings: SearchSettings) -> dict[str, Technique]:
    """The table of techniques with those of the user's own; a class is called. InputError for what is no technique."""
    rows = [load_object(spec, what="--technique", trust_code=settings.trust_code) for spec in settings.techniques]
    return with_own([row() if isinstance(row, type) else row for row in rows])


@dataclass(frozen=True)
class Request:
    """Settings, the space and the profile that they name, and the bounds on the devices of the profile."""

    settings: SearchSettings
    space: SpaceSpec
    profile: HardwareProfile
    budget: Budget

    @classmethod
    def of(cls, settings: SearchSettings) -> Request:
        """Read the files. InputError for a space or a profile that cannot be read, for what is no sampler, executor or
        format, and for a latency bound on a device that is not searched for."""
        profile = load_targets(settings.profile)
        devices = [device.id for device in profile.latencies.values()]
        space = load_space(settings.space, own_techniques(settings))
        request = cls(settings, space, profile, settings.bounds(devices))
        check_sampler(request.sampler)
        assert request.file_format is not None  # what is no format is said before anything is loaded
        assert request.further_formats is not None
        assert request.executor is not None
        return request

    @cached_property
    def sampler(self) -> Any:
        """The name of a sampler, the user's own, or what makes it."""
        return _named(self.settings, "sampler")

    @cached_property
    def techniques(self) -> dict[str, Technique]:
        """The techniques by name, in the order of application: those that ship, and the user's own."""
        return own_techniques(self.settings)

    @cached_property
    def file_format(self) -> Format:
        """The format of the files: the user's own, or the one that the profile names."""
        return chosen_format(self.settings.first_format, self.profile, self.settings.trust_code,
                             self.settings.dynamic)

    @cached_property
    def further_formats(self) -> tuple[Format, ...]:
        """The formats in which the best candidate ships beside the one that is searched."""
        further: tuple[Format, ...] = tuple(map(format_named, self.settings.further_formats))
        if any(one.name == self.file_format.name for one in further):
            raise InputError(f"each format must be named once, but {self.file_format.name} is that of the profile too")
        return further

    @cached_property
    def executor(self) -> Executor:
        """The user's own executor, or actors of Ray, or `jobs` processes, or this one."""
        settings = self.settings
        if settings.workers is not None:
            return RayActors(settings.workers, cpus=settings.cpus_per_worker, gpus=settings.gpus_per_worker,
                             most=settings.jobs, code=user_code(settings))
        jobs, spec = settings.jobs or 1, _named(settings, "executor")
        if spec is None:
            return Inline() if jobs == 1 else Processes(jobs)
        return as_executor(call_with(spec, {"jobs": jobs}, "an executor") if makes_objects(spec) else spec, jobs)


def _named(settings: SearchSettings, name: str) -> Any:
    """An object of the user's own, or the function or class that makes it; a name that names no file as it is."""
    value = getattr(settings, name)
    if isinstance(value, str) and not is_factory(value):
        return value
    return load_object(value, what=f"--{name}", trust_code=settings.trust_code, call=False)
