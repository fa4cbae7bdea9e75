"""The stored trials of one study, for the rooms above: Optuna's own object stays in `search`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import optuna
from optuna.trial import TrialState

from autocompress.core.evaluation import Candidate, Evaluation
from autocompress.core.front import Direction
from autocompress.core.search_status import SearchStatus
from autocompress.errors import InputError, StorageError
from autocompress.search.databases import open_storage, sqlite_path
from autocompress.search.other_drivers import Alone, Drivers
from autocompress.search.storage import (
    FAILURE,
    RUNG,
    candidates,
    create_study,
    delete_study,
    failures,
    load_study,
    require_same,
    store_rung,
)
from autocompress.search.storage_urls import shown_url
from autocompress.search.stored_trials import trial_counts

# Of attributes of a study that hold what drivers tell of their searches, by driver.
STATUS = "status"


class StudyStore:
    """Reads and extends the trials of one study. `study` is Optuna's, `drivers` who else may extend it, for this room
    alone."""

    def __init__(self, study: optuna.Study, *, shared: bool = False) -> None:
        self.study = study
        self.drivers = Drivers(study) if shared else Alone(study)

    @classmethod
    def read(cls, url: str, name: str, folder: Path) -> StudyStore:
        """Open a stored study of `folder`. StorageError when its database holds none of that name."""
        study = load_study(open_storage(url, extend=False), name)
        if study is None:
            raise StorageError(f"the database of {folder} must hold study {name!r}, but does not")
        return cls(study)

    @classmethod
    def open(cls, url: str, name: str, identity: Mapping[str, Any], objectives: Mapping[str, Direction],
             sampler: optuna.samplers.BaseSampler, *, resume: bool, replace: bool, shared: bool = False,
             former: Mapping[str, Collection[Any]] | None = None) -> StudyStore:
        """Open the stored study to go on with, or create one.

        Args:
            url: of an Optuna storage.
            name: of the study in it.
            identity: what the study is of; a stored one must have the same.
            objectives: directions by metric.
            sampler: of a study that is created.
            resume: whether a stored study is gone on with.
            replace: whether a stored study is deleted first.
            shared: whether other drivers may reach it.
            former: by field of the identity, further values that stand for the same in earlier releases.

        Raises:
            StudyMismatchError: when the stored study is of something else.
            InputError: when there is a stored study and `resume` is not said.
        """
        storage = open_storage(url, alone=not shared)
        if replace:
            delete_study(storage, name)
        study = load_study(storage, name)
        if study is None:
            with suppress(optuna.exceptions.DuplicatedStudyError):  # another driver was faster
                return cls(create_study(storage, name, sampler, identity, objectives), shared=shared)
            study = load_study(storage, name)
            assert study is not None
        require_same(study, identity, objectives, former)
        if not resume:
            place = sqlite_path(url) or shown_url(url)
            raise InputError(f"study {name!r} is already in {place}: add --resume to go on with it, or choose another "
                             "--out")
        return cls(study, shared=shared)

    def __len__(self) -> int:
        """Trials that were begun or wait."""
        return trial_counts(self.study).total()

    def use(self, sampler: optuna.samplers.BaseSampler) -> None:
        """Let `sampler` propose the next trials."""
        self.study.sampler = sampler

    def candidates(self) -> list[Candidate]:
        """Every trial as a candidate, with all its rungs, in order of number; read from the database."""
        return candidates(self.study)

    def failures(self) -> dict[tuple[int, int], str]:
        """Why candidates failed above their calibration, by trial and rung."""
        return failures(self.study)

    def publish(self, driver: str, status: SearchStatus | None) -> None:
        """Keep what a driver tells of its search; None when it has ended."""
        told = None if status is None else msgspec.to_builtins(status)
        self.study._storage.set_study_user_attr(self.study._study_id, f"{STATUS}:{driver}", told)

    def watched(self) -> tuple[str, dict[str, SearchStatus]]:
        """A text that differs when trials or evaluations have come, and the statuses of drivers, by driver. Read
        without the trials themselves."""
        storage, study = self.study._storage, self.study._study_id
        attributes = storage.get_study_user_attrs(study)
        statuses = {key.partition(":")[2]: msgspec.convert(told, SearchStatus) for key, told in attributes.items()
                    if key.startswith(f"{STATUS}:") and told is not None}
        by_state = trial_counts(self.study)
        counts = [by_state[state] for state in TrialState]
        later = sum(key.startswith((f"{RUNG}:", f"{FAILURE}:")) for key in attributes)
        return " ".join(map(str, (*counts, later))), statuses

    def keep(self, trial: int, evaluation: Evaluation) -> None:
        """Keep the evaluation of a closed trial at a higher rung, or anew at the same one."""
        store_rung(self.study, trial, evaluation)
