"""Tables of separated values."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from source_files import WordTokenizer

from autocompress.errors import InputError
from autocompress.tasks.sources.base import SourceContext
from autocompress.tasks.sources.opened import open_source

NUMBERS, CLASSES = SourceContext(), SourceContext(classes=True)


def houses(path: Path, header: str = "area,rooms,price,city", rows: int = 20) -> Path:
    lines = [f"{50 + row},{row % 4},{1000.5 + row},{'Rome' if row % 2 else 'Oslo'}" for row in range(rows)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_columns_are_inputs_and_a_target(tmp_path: Path) -> None:
    path = houses(tmp_path / "houses.csv")
    source = open_source(f"csv:{path}?target=price&inputs=area,rooms", NUMBERS)
    assert [(split, len(samples)) for split, samples in source.splits.items()] == [
        ("train", 16), ("validation", 2), ("test", 2)]
    sample = source.splits["train"][3]
    assert sample["input"].dtype == sample["target"].dtype == torch.float32
    row = float(sample["input"][0]) - 50
    assert sample["input"].tolist() == [50 + row, row % 4] and float(sample["target"]) == 1000.5 + row
    assert source.inputs == ("input",) and source.labelled and source.classes is None
    everything = [float(samples[i]["input"][0]) for samples in source.splits.values() for i in range(len(samples))]
    assert sorted(everything) == list(range(50, 70))


def test_classes_may_be_names_and_are_spread_over_the_splits(tmp_path: Path) -> None:
    path = houses(tmp_path / "houses.csv", rows=40)
    source = open_source(f"csv:{path}?target=city", CLASSES)
    assert source.class_names == ("Oslo", "Rome") and source.classes == 2
    for samples in source.splits.values():
        labels = [int(samples[i]["target"]) for i in range(len(samples))]
        assert sum(labels) * 2 == len(labels)
        assert samples[0]["input"].shape == (3,)


def test_several_targets_and_none(tmp_path: Path) -> None:
    path = houses(tmp_path / "houses.csv")
    both = open_source(f"csv:{path}?target=price,rooms&inputs=area", NUMBERS)
    assert both.splits["train"][0]["target"].shape == (2,)
    none = open_source(f"csv:{path}?target=&inputs=area", NUMBERS)
    assert not none.labelled and set(none.splits["train"][0]) == {"input"}


def test_a_time_series_without_a_header_takes_a_shape(tmp_path: Path) -> None:
    table = np.column_stack([np.arange(30) % 3, np.random.default_rng(0).normal(size=(30, 12))])
    np.savetxt(tmp_path / "series.tsv", table, delimiter="\t")
    source = open_source(f"csv:{tmp_path}/series.tsv?target=0&shape=1,12", CLASSES)
    sample = source.splits["train"][0]
    assert sample["input"].shape == (1, 12) and source.classes == 3
    assert np.abs(table[:, 1:] - sample["input"].numpy()).max(1).min() < 1e-6


def test_a_column_says_the_split(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x;fold;y\n" + "".join(f"{row};{'train' if row < 6 else 'val' if row < 8 else 'test'};{row}\n"
                                           for row in range(10)))
    source = open_source(f"csv:{path}?split=fold", NUMBERS)
    assert [float(source.splits["test"][i]["target"]) for i in range(2)] == [8, 9]
    assert len(source.splits["train"]) == 6 and source.splits["train"][0]["input"].shape == (1,)


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    """Texts with separators, quotes and ends of lines inside, behind a byte order mark."""
    rows = [f'"word, ""{"x" * row}""\nand {"more " * (row % 3)}é",{"good" if row % 2 else "bad"}' for row in range(20)]
    path = tmp_path / "stories.csv"
    path.write_text("\ufefftext,label\r\n" + "\r\n".join(rows) + "\r\n", "utf-8")
    return path


def test_texts_are_read_again_and_tokenised_when_asked_for(stories: Path) -> None:
    context = SourceContext(arguments={"input_ids": True, "attention_mask": False}, tokenizer=WordTokenizer(),
                            classes=True)
    source = open_source(f"csv:{stories}", context)
    assert source.inputs == ("input_ids", "attention_mask") and source.class_names == ("bad", "good")
    by_length = {}
    for samples in pickle.loads(pickle.dumps(source.splits)).values():
        for i in range(len(samples)):
            sample = samples[i]
            assert sample["input_ids"].shape == sample["attention_mask"].shape == (8,)
            length = int(sample["input_ids"][1]) - 3
            by_length[length] = (int(sample["target"]), int(sample["attention_mask"].sum()))
    assert by_length == {row: (row % 2, 4 + row % 3) for row in range(20)}
    assert open_source(f"csv:{stories}?text=text&length=5", context).splits["train"][0]["input_ids"].shape == (5,)


@pytest.mark.parametrize(("query", "context", "said"), [
    ("", NUMBERS, "say which column is the target"),
    ("?target=prize", NUMBERS, "there is no 'prize'; there are area, rooms, price, city"),
    ("?target=price&target=area", NUMBERS, "target must be given once"),
    ("?target=price&inputs=area,area", NUMBERS, "'area' is named twice"),
    ("?target=price&inputs=area,price", NUMBERS, "'price' is named as both"),
    ("?target=price", NUMBERS, "record 1, column 'city' must be a number, but is 'Oslo'"),
    ("?target=city&inputs=area", NUMBERS, "record 1: the target must be a finite number, but is 'Oslo'"),
    ("?target=price,city&inputs=area", CLASSES, "a class must be in one column"),
    ("?target=price&text=city", NUMBERS, "a tokenizer must turn into tokens"),
    ("?target=price&text=city&inputs=area", NUMBERS, "leave out one"),
    ("?target=price&split=rooms&inputs=area", NUMBERS, "must say train, validation or test, but is '0'"),
    ("?target=price&inputs=area,rooms&shape=3,1", NUMBERS, "shape must be the sizes of an input of 2 columns"),
    ("?target=price&lenght=3", NUMBERS, "did you mean 'length'?"),
    ("?target=price&text=city&length=0", NUMBERS, "length must be a number of tokens, but is '0'"),
])
def test_columns_that_cannot_be(tmp_path: Path, query: str, context: SourceContext, said: str) -> None:
    path = houses(tmp_path / "houses.csv")
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        open_source(f"csv:{path}{query}", context)


@pytest.mark.parametrize(("text", "said"), [
    ("", "is empty"),
    ("x,y\n", "holds none"),
    ("x,x,y\n1,2,3\n", "name each column once, but 'x' is there twice"),
    ("x,y\n1,2\n1,2,3\n", "every record must have 2 cells, one a column, but record 2 has 3"),
    ("x,y\n1,2\n,2\n", "record 2, column 'x' must be a finite number, but is ''"),
    ("x,y\n1,2\nnan,2\n", "record 2, column 'x' must be a finite number, but is 'nan'"),
    ("x,y\n1,2\n1,\n", "record 2: the target must be a finite number, but is ''"),
    ('x,y\n1,2\n"1,2\n', "in line"),
    ("x,y\n" + "1,2\n" * 5, "split is empty: bring more samples"),
])
def test_files_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        open_source(f"csv:{tmp_path}/rows.csv", NUMBERS)


@pytest.mark.parametrize("text", [",x,y\n" + "".join(f"{row},{row / 2},1\n" for row in range(20)),
                                  "x,y,\n" + "".join(f"{row / 2},1,\n" for row in range(20))])
def test_a_column_without_a_name_is_left_out(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Row numbers, as pandas writes them, and what a comma at the end of lines makes."""
    (tmp_path / "rows.csv").write_text(text)
    source = open_source(f"csv:{tmp_path}/rows.csv", NUMBERS)
    sample = source.splits["train"][0]
    (values,) = (each for key, each in sample.items() if key != "target")
    assert values.shape == (1,) and "has no name" in caplog.text


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"x,y\n1,\xff\n")
    with pytest.raises(InputError, match="save the file as UTF-8"):
        open_source(f"csv:{tmp_path}/rows.csv", NUMBERS)
    with pytest.raises(InputError, match="there is no file"):
        open_source(f"csv:{tmp_path}/none.csv", NUMBERS)


def series(path: Path) -> Path:
    """Two series of 60 records each, whose value counts up."""
    lines = [f"2020-01-{row % 28 + 1},{'AB'[row // 60]},{row},{row / 2},{row // 10 % 2}" for row in range(120)]
    path.write_text("\n".join(["date,site,load,heat,on", *lines]) + "\n")
    return path


def test_windows_of_a_time_series_foretell_what_comes_behind(tmp_path: Path) -> None:
    path = series(tmp_path / "series.csv")
    source = open_source(f"csv:{path}?window=4&target=load&inputs=load,heat&series=site", NUMBERS)
    starts = {}
    for split, samples in source.splits.items():
        read = [samples[i] for i in range(len(samples))]
        assert all(sample["input"].shape == (4, 2) for sample in read)
        assert all(float(sample["target"]) == float(sample["input"][-1, 0]) + 1 for sample in read)
        starts[split] = [int(sample["input"][0, 0]) for sample in read]
    assert starts["train"][:3] == [0, 1, 2] and not {*range(44, 60)} & {*starts["train"]}
    assert starts["test"] == [54, 55, 114, 115] and starts["validation"] == [48, 49, 108, 109]
    several = open_source(f"csv:{path}?window=4&horizon=3&stride=5&target=load,heat&inputs=heat", NUMBERS)
    sample = several.splits["train"][1]
    assert sample["input"][:, 0].tolist() == [2.5, 3.0, 3.5, 4.0]
    assert sample["target"].tolist() == [[9, 4.5], [10, 5], [11, 5.5]]


def test_windows_may_name_their_last_record(tmp_path: Path) -> None:
    path = series(tmp_path / "series.csv")
    source = open_source(f"csv:{path}?window=3&target=on&inputs=load,heat", CLASSES)
    sample = source.splits["train"][9]
    assert sample["input"][:, 0].tolist() == [9, 10, 11] and int(sample["target"]) == 1 and source.classes == 2


def test_categories_are_an_input_of_their_own(tmp_path: Path) -> None:
    path = houses(tmp_path / "houses.csv")
    context = SourceContext(arguments={"x_cat": True, "x_num": True})
    source = open_source(f"csv:{path}?target=price&categories=city,rooms&names=x_cat,x_num", context)
    assert source.inputs == ("x_cat", "x_num")
    for sample in (source.splits["train"][i] for i in range(5)):
        row = int(sample["x_num"][0]) - 50
        assert sample["x_cat"].tolist() == [row % 2, row % 4] and sample["x_cat"].dtype == torch.int64
        assert sample["x_num"].shape == (1,) and float(sample["target"]) == 1000.5 + row
    alone = open_source(f"csv:{path}?target=price&categories=city&inputs=", NUMBERS)
    assert alone.inputs == ("input",) and alone.splits["train"][0]["input"].dtype == torch.int64
    with pytest.raises(InputError, match=r"names must be the arguments .* out of x_cat, x_num, but left out it is"):
        open_source(f"csv:{path}?target=price&categories=city", context)


@pytest.mark.parametrize(("query", "said"), [
    ("window=0&target=load&inputs=load", "window must be a number of records"),
    ("horizon=2&target=load&inputs=load", "horizon is of windows of a time series"),
    ("window=90&target=load&inputs=load", "train holds none|validation holds none"),
    ("window=4&categories=site&target=load&inputs=load", "leave out window, categories or text"),
    ("window=4&target=load", "column 'date' must be a number"),
])
def test_windows_that_cannot_be(tmp_path: Path, query: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        open_source(f"csv:{series(tmp_path / 'series.csv')}?{query}", NUMBERS)
