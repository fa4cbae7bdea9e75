"""What a search is asked to do: every setting once, with its type, default, help and where it may be said.

From `SearchSettings` come the flags of `autocompress search`, the keys of a config file, the arguments of
`autocompress.search`, what `study.json` holds, what a study that goes on takes over, and the identity of a study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec

from autocompress.core.budget import Budget
from autocompress.errors import InputError
from autocompress.formats.table import FORMATS
from autocompress.hardware.fields import meant
from autocompress.quantities import amount_in_unit
from autocompress.search.efforts import DEFAULT_EFFORT, EFFORTS
from autocompress.search.storage_urls import shown_url
from autocompress.study import setting_kinds as kinds
from autocompress.study.setting_kinds import ANY_DEVICE, Kind, nearest
from autocompress.tasks.augmentation import Augmentation
from autocompress.tasks.kinds.names import KINDS, is_kind
from autocompress.tasks.picture_cache import DEFAULT_BYTES

if TYPE_CHECKING:
    from autocompress.tasks.preparation import Preparation

WHAT, LIMITS, HOW, WHERE = "What to compress", "Limits", "How to search", "Where results go"
GENERAL = "General"
_TRIALS, _EPOCHS = ("{}, {} or {}".format(*(getattr(effort, name) for effort in EFFORTS.values()))
                    for name in ("trials", "epochs"))

# Whose a setting is. Of one run: never taken from a stored study. Of the study: taken when that study goes on. Of the
# start: also when another study starts from it; of the network and of the data, also then, as long as no other network
# or data are given.
Owner = Literal["run", "study", "start", "network", "data"]


@dataclass(frozen=True)
class Setting:
    """One setting of a search beside its type and default: its kind, its help, and who it concerns.

    `flag` is the name on the command line and in config files where it is not that of the field. `in_config`: whether
    a config file may say it. `identity`: whether a study is another one where it differs.
    """

    section: str
    kind: Kind
    help: str
    metavar: str = ""
    owner: Owner = "run"
    flag: str = ""
    in_config: bool = True
    identity: bool = False


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one search, as values: sizes in bytes, latencies in milliseconds by device, durations in seconds.

    `SearchSettings.of` makes them of what a user gave, with units, and checks them. `model`, `data`, `task`, `format`,
    `techniques`, `executor` and `sampler` may hold objects of the user's own.
    """

    model: Annotated[Any, Setting(
        WHAT, kinds.SOURCE, "torchvision:NAME, timm:NAME, hf:FOLDER of transformers, or path/to/file.py:factory, which "
        "is run. Default: the embedded ResNet-18.", "SPEC", "network", identity=True)] = None
    weights: Annotated[Path | None, Setting(
        WHAT, kinds.PATH, "Trained weights: .safetensors, or a checkpoint of torch.save (read without running code).",
        "FILE", "network")] = None
    weights_key: Annotated[str | None, Setting(
        WHAT, kinds.TEXT, "Which state dict of the checkpoint, where several fit, such as state_dict. Default: the "
        "averaged one (EMA), else the only one.", "KEY", "network")] = None
    data: Annotated[Any, Setting(
        WHAT, kinds.SOURCE, "digits, fashion-mnist, cifar10, imagefolder:DIR, npz:FILE, csv:FILE?target=COLUMN, "
        "masks:IMAGES,MASKS, coco:JSON,IMAGES, voc:DIR, audio:DIR or path/to/file.py:factory, which is run; "
        "docs/tasks.md lists the options of each.", "SPEC", "data", identity=True)] = None
    data_root: Annotated[Path | None, Setting(
        WHAT, kinds.PATH, "Folder of the files of fashion-mnist or cifar10.", "DIR", "data")] = None
    image_size: Annotated[int | None, Setting(
        WHAT, kinds.COUNT, "Side of the square pictures that the network is fed. Default: that of the network's "
        "weights where timm, torchvision or transformers says it, else 224, and for masks and boxes the pictures' own.",
        "PIXELS", "data")] = None
    resize: Annotated[int | None, Setting(
        WHAT, kinds.COUNT, "Shorter side of a picture before the middle square is cut out. Default: as the weights "
        "say, else the image size.", "PIXELS", "data")] = None
    crop: Annotated[float | None, Setting(
        WHAT, kinds.NUMBER, "In place of --resize, the share of the shorter side that the square keeps, such as 0.875; "
        "a number above 1 is the image size.", "SHARE|PIXELS", "data")] = None
    mean: Annotated[tuple[float, ...] | None, Setting(
        WHAT, kinds.NUMBERS, "Mean that is subtracted from pixels after they were divided by 255, one for each channel "
        "or for all: 0.485,0.456,0.406. Default: that of the weights or the data, for imagefolder else ImageNet's.",
        "NUMBERS", "data")] = None
    std: Annotated[tuple[float, ...] | None, Setting(
        WHAT, kinds.NUMBERS, "Standard deviation by which they are then divided: 0.229,0.224,0.225.", "NUMBERS",
        "data")] = None
    inputs: Annotated[str | None, Setting(
        WHAT, kinds.TEXT, "What the stored numbers are: pixels (divided by 255), values or tokens. Default: bytes of "
        "pictures are pixels; whether other numbers are values or tokens follows from the network.", "KIND",
        "data")] = None
    augment: Annotated[Augmentation | None, Setting(
        WHAT, kinds.AUGMENTATION, "Random changes of training inputs: flip,pad=4 mirrors pictures and shifts them by "
        "up to 4 pixels, shift=1600,gain=6 moves sounds in time by up to 1,600 samples and makes them up to 6 dB "
        "louder or quieter. Default: for classification what the data bring, else none.", "CHANGES", "data")] = None
    cache_size: Annotated[int, Setting(
        WHAT, kinds.SIZE, "Bytes of the user's cache folder that decoded pictures of large imagefolders may take; "
        "those of the data set that was opened least recently go first. Samples of other data that would take more are "
        "refused. Default: 10GB.", "SIZE")] = DEFAULT_BYTES
    task: Annotated[Any, Setting(
        WHAT, kinds.SOURCE, "What the network is for: classification, regression, embedding, segmentation, detection "
        "or text; or a task of your own, whose file is run. Default: segmentation of masks, detection of boxes, else "
        "classification.", "KIND|FILE.py:NAME", "start", identity=True)] = None
    metric: Annotated[Any, Setting(
        WHAT, kinds.SOURCE, "What is searched for, where that is not the usual metric of the task: a name such as "
        "f1_macro, mae or spearman, or a function of outputs and batch, whose file is run.", "NAME|FILE.py:NAME",
        "start", identity=True)] = None
    decode: Annotated[Any, Setting(
        WHAT, kinds.SOURCE, "Detection: a function that makes boxes, scores and labels of what the network returns. "
        "Its file is run. Default: the network's own method decode.", "FILE.py:NAME", "start", identity=True)] = None
    from_study: Annotated[Path | None, Setting(
        WHAT, kinds.PATH, "Start where another study of the same network and data ended. Network, data, seed, space, "
        "profile, effort and epochs that are not given are taken from it.", "STUDY", "study", flag="from",
        in_config=False)] = None
    budget: Annotated[int | None, Setting(
        LIMITS, kinds.SIZE, "Largest exported file in bytes, such as 2MB or 512KiB.", "SIZE", "study",
        identity=True)] = None
    latency: Annotated[dict[str, float] | None, Setting(
        LIMITS, kinds.LATENCIES, "Longest latency of one sample on one thread, such as 5ms or 800us, on every device; "
        "stm32h743=80ms is for that profile alone. Can be repeated.", "[ID=]TIME", "study", identity=True)] = None
    macs: Annotated[int | None, Setting(
        LIMITS, kinds.AMOUNT, "Most multiply-accumulates of one sample, such as 50M.", "COUNT", "study",
        identity=True)] = None
    peak_memory: Annotated[int | None, Setting(
        LIMITS, kinds.SIZE, "Most bytes of activations alive at once, such as 256KiB.", "SIZE", "study",
        identity=True)] = None
    max_drop: Annotated[float | str | None, Setting(
        LIMITS, kinds.DROP, "Largest loss of the task's metric against the original: 1% is a point of a metric in "
        "percent, and of any other a hundredth of the original's value, which an error may pass by more than 100%; or "
        "in the metric's unit or by its name, such as 0.5dB or 0.02rmse.", "SHARE|AMOUNT", "study",
        identity=True)] = None
    at_least: Annotated[dict[str, float] | None, Setting(
        LIMITS, kinds.QUALITIES, "The worst value that is allowed of a metric of the task, such as miou=70%; of one "
        "where less is better, the largest. Can be repeated.", "METRIC=VALUE", "study", identity=True)] = None
    profile: Annotated[str | tuple[str, ...], Setting(
        HOW, kinds.PROFILES, "The device: see `autocompress profiles list`. Given several times, for several devices: "
        "plans are legal on all of them, and the latency on each is an objective. Default: host, measured on this "
        "machine.", "NAME|FILE", "start", identity=True)] = "host"
    space: Annotated[str, Setting(
        HOW, kinds.SPACE, "Which techniques may be used, and how far: see `autocompress spaces list`. Default: "
        "default.", "NAME|FILE", "start", identity=True)] = "default"
    format: Annotated[Any, Setting(
        HOW, kinds.ONE_OR_SEVERAL, f"Format of the files: {', '.join(FORMATS)}, or one of your own. Repeated: the "
        "first is searched, and the best candidate ships in the others too. Default: that of the profile.",
        "NAME|FILE.py:NAME", "start", identity=True)] = None
    dynamic: Annotated[bool, Setting(
        HOW, kinds.FLAG, "Leave height, width and length of inputs free in the file, where the network takes other "
        "sizes.", "", "start", identity=True)] = False
    techniques: Annotated[tuple[Any, ...], Setting(
        HOW, kinds.SOURCES, "A technique of your own, beside those of the space. Can be repeated.", "FILE.py:NAME",
        "start", flag="technique", identity=True)] = ()
    executor: Annotated[Any, Setting(
        HOW, kinds.SOURCE, "Where candidates are evaluated, where that is not in processes of this machine: an "
        "executor of your own.", "FILE.py:NAME", "run")] = None
    sampler: Annotated[Any, Setting(
        HOW, kinds.SOURCE, "auto, tpe, nsga2, random, gp, or one of your own. Default: auto.", "NAME|FILE.py:NAME",
        "study")] = "auto"
    effort: Annotated[str, Setting(
        HOW, kinds.EFFORT, "fast, normal or thorough: how many candidates are tried and trained. Default: normal.",
        "NAME", "start")] = DEFAULT_EFFORT
    trials: Annotated[int, Setting(
        HOW, kinds.COUNT, f"Candidates to try. Default: {_TRIALS}, by --effort.", "N", "study",
        )] = EFFORTS[DEFAULT_EFFORT].trials
    epochs: Annotated[int, Setting(
        HOW, kinds.COUNT, f"Epochs of the long distillation, without --timeout. Default: {_EPOCHS}, by --effort.",
        "N", "start")] = EFFORTS[DEFAULT_EFFORT].epochs
    timeout: Annotated[float | None, Setting(
        HOW, kinds.DURATION, "Wall clock of the whole search, such as 15m. Default: none.", "TIME")] = None
    trial_timeout: Annotated[float | None, Setting(
        HOW, kinds.DURATION, "Longest that one evaluation of a candidate may take, such as 10m; it fails then. "
        "Default: what is left of --timeout, if there is one.", "TIME")] = None
    seed: Annotated[int, Setting(
        HOW, kinds.SEED, "Of all random numbers. Default: 0.", "N", "start", identity=True)] = 0
    jobs: Annotated[int | None, Setting(
        HOW, kinds.COUNT, "Processes that evaluate candidates. Default: 1; with --workers, as many as there is room "
        "for.", "N")] = None
    workers: Annotated[str | None, Setting(
        HOW, kinds.WORKERS, "Evaluate candidates in actors of Ray: ray starts them on this machine, auto in the "
        "cluster that this machine is in, ray://HOST:PORT in another one. Default: in processes of this machine.",
        "ADDRESS")] = None
    cpus_per_worker: Annotated[int, Setting(
        HOW, kinds.COUNT, "With --workers, CPU cores of each. Default: 1.", "N")] = 1
    gpus_per_worker: Annotated[float, Setting(
        HOW, kinds.GPUS, "With --workers, GPUs of each, or the share of one, such as 0.5: two then share a GPU and its "
        "memory. Default: 0.", "NUMBER")] = 0.0
    device: Annotated[str, Setting(
        HOW, kinds.DEVICE, "Where networks are trained: auto, cpu, cuda, or cuda:1 where there are several. Default: "
        "auto.", "NAME")] = "auto"
    out: Annotated[Path | None, Setting(
        WHERE, kinds.PATH, "Folder of the study. Default: studies/NAME.", "DIR")] = None
    name: Annotated[str | None, Setting(
        WHERE, kinds.TEXT, "Name of the study. Default: made of model, data and budget.", "NAME")] = None
    storage: Annotated[str | None, Setting(
        WHERE, kinds.TEXT, "Database of the trials: the URL of any storage of Optuna. Default: SQLite in the study's "
        "folder.", "URL", "study")] = None
    resume: Annotated[bool, Setting(
        WHERE, kinds.FLAG, "Go on with the study that is there. With --out, what is not given is taken from it, except "
        "--timeout, --trial-timeout, --jobs, --workers and --device.", in_config=False)] = False
    force_new_study: Annotated[bool, Setting(
        WHERE, kinds.FLAG, "Replace the study that is there.", in_config=False)] = False
    trust_code: Annotated[bool, Setting(
        GENERAL, kinds.FLAG, "Run Python files that you did not name yourself, but the --config file, or the study of "
        "--from or --resume.",
        in_config=False)] = True

    @classmethod
    def of(cls, **values: Any) -> SearchSettings:
        """The settings that a user gave, checked; what is None is not given. InputError, with the nearest name there
        is for one that there is not."""
        return cls.completed(read(values))

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> SearchSettings:
        """Settings of values that were read; `trials` and `epochs` that are missing are those of the `effort`.
        InputError where settings do not go together."""
        effort = EFFORTS[values.get("effort", DEFAULT_EFFORT)]
        settings = cls(**{"trials": effort.trials, "epochs": effort.epochs, **values})
        settings._check()
        return settings

    def _check(self) -> None:
        if self.resume and self.force_new_study:
            raise InputError("resume and force_new_study exclude each other: go on with a study, or start afresh")
        if self.model is None and self.data is not None and not _is_text(self.data, "digits"):
            raise InputError(f"data {self.data!r} needs a model: give one such as torchvision:resnet18 with its "
                             "weights, or path/to/file.py:factory")
        if self.model is None and self.weights is not None:
            raise InputError(f"weights {str(self.weights)!r} need the model that they belong to: give one such as "
                             "torchvision:resnet18 or path/to/file.py:factory")
        if self.weights_key is not None and self.weights is None:
            raise InputError(f"weights_key {self.weights_key!r} needs the weights file in which it is a key")
        if self.workers is not None and self.executor is not None:
            raise InputError("workers and executor exclude each other: both say where candidates are evaluated")
        if self.workers is None and (self.cpus_per_worker, self.gpus_per_worker) != (1, 0.0):
            raise InputError("cpus_per_worker and gpus_per_worker need workers: ray, auto or ray://HOST:PORT; without, "
                             "candidates are evaluated in processes of this machine, see jobs")
        if self.workers is not None and self.device.startswith("cuda") and (":" in self.device
                                                                           or not self.gpus_per_worker):
            raise InputError("device must be auto, cpu or cuda with workers, and cuda asks for gpus_per_worker above 0,"
                             f" but got {self.device!r} and {self.gpus_per_worker:g}: Ray gives each worker its GPU")
        self._check_task()
        self._check_formats()
        if any(value is not None for value in self._of_pictures):
            _ = self.preparation

    def _check_task(self) -> None:
        kind = isinstance(self.task, str) and ".py" not in self.task
        if kind and not is_kind(self.task):
            raise InputError(f"task must be one of {', '.join(KINDS)}, or path/to/file.py:name, but got {self.task!r}"
                             f"{nearest(self.task, KINDS, '; ')}")
        if self.task is not None and self.model is None:
            what = f"--task {self.task}" if kind else "a task of your own"
            raise InputError(f"{what} needs its model: give an nn.Module or path/to/file.py:factory")
        if self.model is not None and self.data is None and (kind or self.task is None):
            raise InputError("a model needs its data: give digits, fashion-mnist, cifar10, imagefolder:DIR, npz:FILE, "
                             "csv:FILE, masks:IMAGES,MASKS, coco:JSON,IMAGES, voc:DIR, audio:DIR or "
                             "path/to/file.py:factory")
        for name in ("data", "metric", "decode", "augment"):
            if getattr(self, name) is not None and self.task is not None and not kind:
                raise InputError(f"{name} is for tasks that are named by their kind, {', '.join(KINDS)}: a task of "
                                 "your own has its own")
        for name in ("metric", "augment"):
            if getattr(self, name) is not None and self.model is None:
                raise InputError(f"{name} needs a model and its data")

    def _check_formats(self) -> None:
        further = self.further_formats
        for name in further:
            if name not in FORMATS:
                raise InputError(f"formats after the first must be among {', '.join(FORMATS)}, but got {name!r}"
                                 + (nearest(name, FORMATS, "; ") if isinstance(name, str) else ""))
        if len(set(further)) < len(further) or self.first_format in further:
            raise InputError(f"each format must be named once, but got {', '.join(map(str, listed(self.format)))}")

    def bounds(self, devices: Sequence[str]) -> Budget:
        """The bounds as a Budget; `devices` are the ids of the profiles, the primary first. InputError for a latency
        on another device."""
        latency = self.latency or {}
        for device in latency:
            if device not in (ANY_DEVICE, *devices):
                raise InputError(f"latency must be bounded on a profile that is searched for, {', '.join(devices)}, "
                                 f"but got {device!r}{meant(device, devices)}")
        latencies = {device: latency.get(device, latency.get(ANY_DEVICE)) for device in devices}
        further = {device: bound for device, bound in latencies.items() if device != devices[0] and bound is not None}
        drop, unit = amount_in_unit(self.max_drop) if isinstance(self.max_drop, str) else (self.max_drop, "")
        return Budget(size_bytes=self.budget, latency_ms=latencies[devices[0]],
                      further_latency_ms=further or msgspec.UNSET, macs=self.macs, peak_memory_bytes=self.peak_memory,
                      max_drop=drop, max_drop_unit=unit or msgspec.UNSET, at_least=self.at_least or msgspec.UNSET)

    @property
    def _of_pictures(self) -> tuple[int | None, int | None, float | None]:
        return self.image_size, self.resize, self.crop

    @property
    def preparation(self) -> Preparation:
        """How pictures are resized, cut and normalised, as far as the user says it. InputError where what is said does
        not go together."""
        from autocompress.tasks.preparation import asked_preparation  # loads torch

        return asked_preparation(*self._of_pictures, self.mean, self.std)

    @property
    def first_format(self) -> Any:
        """The format that is searched: a name, an object or None for that of the profile."""
        return next(iter(listed(self.format)), None)

    @property
    def further_formats(self) -> tuple[str, ...]:
        """Names of the formats in which the best candidate ships too."""
        return tuple(listed(self.format)[1:])

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the settings that hold objects, which no file can keep."""
        return tuple(name for name, setting in SETTINGS.items() if setting.kind.runs_code
                     and any(not isinstance(each, str) for each in listed(getattr(self, name))))


    def storable(self) -> SearchSettings:
        """The settings as a file can keep them for later searches: specs of files with their absolute places, the
        storage without its password, nothing of one run, and no objects."""
        values = {name: _kept(getattr(self, name), setting.kind) for name, setting in SETTINGS.items()
                  if setting.owner != "run"}
        if self.storage is not None:
            values["storage"] = shown_url(self.storage)
        return SearchSettings(**{name: value for name, value in values.items() if value is not None})


def _kept(value: Any, kind: Kind) -> Any:
    if isinstance(value, Path):
        return Path(kind.locate(str(value), Path.cwd()))
    if isinstance(value, str):
        return kind.locate(value, Path.cwd())
    if kind.repeatable and isinstance(value, list | tuple):
        return tuple(_kept(each, kind) for each in value if isinstance(each, str)) or None
    return None if kind.runs_code else value


def _is_text(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def listed(value: Any) -> list[Any]:
    """What a setting of one or of several holds."""
    return [] if value is None else list(value) if isinstance(value, tuple | list) else [value]


# Every setting by the name of its field.
SETTINGS: dict[str, Setting] = {
    field.name: next(each for each in get_args(field.type) if isinstance(each, Setting))
    for field in msgspec.structs.fields(SearchSettings)}


def flag_name(name: str) -> str:
    """`data_root` → `data-root`, `from_study` → `from`: the flag, and with underscores the key of a config file."""
    return (SETTINGS[name].flag or name).replace("_", "-")


def read(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of settings that a user gave, by name; None means that one is not given. InputError for a name or a
    value that cannot be."""
    for name in values:
        if name not in SETTINGS:
            hint = nearest(name, SETTINGS) or f"there are {', '.join(SETTINGS)}"
            raise InputError(f"search() has no argument {name!r}; {hint}")
    return {name: SETTINGS[name].kind.parse(value, name) for name, value in values.items() if value is not None}


def markdown_table() -> str:
    """Every setting with its flag, its place in a config file, who it concerns and its help, for the guide."""
    lines = ["| argument | flag | config | taken over | help |", "|---|---|---|---|---|"]
    for name, setting in SETTINGS.items():
        flag = f"`--{flag_name(name)}`"
        key = f"`{flag_name(name).replace('-', '_')}`" if setting.in_config else "no"
        taken = {"run": "no", "study": "resume"}.get(setting.owner, "resume, from")
        text = setting.help.replace("|", "\\|")
        lines.append(f"| `{name}` | {flag} | {key} | {taken}{', identity' if setting.identity else ''} | {text} |")
    return "\n".join(lines)


def python_table() -> str:
    """The arguments of `autocompress.search` with their defaults, a line or two for each."""
    defaults = SearchSettings()
    return "\n".join(f"    {name} = {getattr(defaults, name)!r}: {setting.help}" for name, setting in SETTINGS.items())
