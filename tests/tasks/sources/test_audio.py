"""Folders of recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from source_files import write_wav

from autocompress.errors import InputError
from autocompress.tasks.sources.base import SourceContext
from autocompress.tasks.sources.opened import open_source


def every_sample(source: object) -> list[dict[str, torch.Tensor]]:
    return [samples[i] for samples in source.splits.values() for i in range(len(samples))]  # type: ignore[attr-defined]


def test_recordings_of_any_format_are_numbers_from_minus_one_to_one(recordings: Path) -> None:
    source = open_source(f"audio:{recordings}", SourceContext(classes=True))
    assert source.class_names == ("high", "low") and source.inputs == ("input",)
    samples = every_sample(source)
    assert len(samples) == 12
    for sample in samples:
        wave = sample["input"]
        assert wave.shape == (91,) and wave.dtype == torch.float32 and 0.9 < float(wave.abs().max()) <= 1
        expected = np.sin(np.arange(91) * (0.1 if int(sample["target"]) else 0.5))
        length = int(wave.nonzero().max()) + 1
        assert np.abs(wave.numpy() - expected)[:length].max() < 0.02


def test_rate_and_length_are_what_is_asked_for(recordings: Path) -> None:
    source = open_source(f"audio:{recordings}?rate=4000&seconds=0.005", SourceContext())
    sample = next(each for each in every_sample(source) if int(each["target"]) == 1)
    assert sample["input"].shape == (20,)
    assert np.abs(sample["input"].numpy()[3:] - np.sin(np.arange(20) * 0.2)[3:]).max() < 0.1


def test_folders_of_splits_and_of_no_class(recordings: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for number in range(3):
            write_wav(tmp_path / "split" / split / "yes" / f"{number}.wav", np.zeros(50, np.int16) + number)
    source = open_source(f"audio:{tmp_path}/split", SourceContext())
    assert {split: len(samples) for split, samples in source.splits.items()} == dict.fromkeys(source.splits, 3)
    for number in range(12):
        write_wav(tmp_path / "flat" / f"{number}.wav", np.ones(50, np.int16))
    flat = open_source(f"audio:{tmp_path}/flat", SourceContext())
    assert not flat.labelled and set(flat.splits["train"][0]) == {"input"}


def test_unreadable_recordings_are_said(recordings: Path) -> None:
    def refused(said: str, query: str = "") -> None:
        with pytest.raises(InputError, match=said):
            open_source(f"audio:{recordings}{query}", SourceContext())

    other = write_wav(recordings / "low" / "other.wav", np.ones(90, np.int16), rate=16000)
    refused(r"must share one rate, but there are 8000 Hz \(.*\), 16000 Hz \(other.wav\)")
    assert len(every_sample(open_source(f"audio:{recordings}?rate=8000", SourceContext()))) == 13
    refused("rate must be a number of samples a second", "?rate=fast")
    refused("seconds must be a number of seconds", "?rate=8000&seconds=0")
    other.write_bytes(other.read_bytes()[:100])
    refused("other.wav must be a recording in an intact .wav file")
    other.write_bytes(b"no sound")
    refused("other.wav must be a recording in an intact .wav file")
    other.unlink()
    write_wav(recordings / "low" / "silent.wav", np.ones(0, np.int16))
    refused("silent.wav must be .* holds no sample")


def test_folders_that_cannot_be(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        open_source(f"audio:{tmp_path}/none", SourceContext())
    (tmp_path / "empty" / "yes").mkdir(parents=True)
    with pytest.raises(InputError, match="but holds none"):
        open_source(f"audio:{tmp_path}/empty", SourceContext())
    write_wav(recordings / "stray.wav", np.ones(90, np.int16))
    with pytest.raises(InputError, match=r"stray\.wav must be in the folder of a class"):
        open_source(f"audio:{recordings}", SourceContext())
