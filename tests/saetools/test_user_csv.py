"""Tables that people write are read as they stand, or refused with file and line: no cell moves to another column."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saetools.errors import UserError
from saetools.files.user_csv import read_user_csv
from saetools.labels import cub200
from saetools.labels.splits import _read_pairs
from saetools.labels.tables import read_trait_table
from saetools.vision.image_sets import list_images

GOOD = b"path,a,b\nx.png,1,0\ny.png,,1\n"
READ = {
    "as it is": GOOD,
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "CR": GOOD.replace(b"\n", b"\r"),
    "no last line end": GOOD[:-1],
    "blank lines": GOOD.replace(b"\n", b"\n\n"),
    "quoted": b'"path",a,b\n"x.png",1,"0"\ny.png,"",1\n',
    "other order": b"a,path,b\n1,x.png,0\n,y.png,1\n",
    "semicolons": GOOD.replace(b",", b";"),
    "tabs": GOOD.replace(b",", b"\t"),
    "semicolons, a name with a comma": b'path;a;b\n"x.png";1;0\ny.png;;1\n',
    "true and false": b"path,a,b\nx.png,True,FALSE\ny.png,NA,true\n",
    "yes and no": b"path,a,b\nx.png,Yes, no\ny.png,?,Y\n",
    "numbers of pandas": b"path,a,b\nx.png,1.0,0.0\ny.png,nan,1.0\n",
    "further columns": b"id,path,species,a,b,target,mask\n"
    + b"".join(
        b"%d,%s,hen,%s,%d,m/%d.png\n" % (i % 8, path, traits, i, i)  # two lists, joined: numbers come again
        for i, (path, traits) in enumerate(
            [(b"x.png", b"1,0"), (b"y.png", b",1"), *((b"%d.png" % i, b"0,0") for i in range(9))]
        )
    ),
}
REFUSED = {
    "short": (b"path,a,b\nx.png,1,0\ny.png,1\n", "line 3 has 2 fields, the header 3"),
    "long": (b"path,a,b\nx.png,1,0\ny.png,1,0,0\n", "line 3 has 4 fields, the header 3"),
    "all long": (b"path,a,b\nx.png,1,0,1\ny.png,1,0,0\n", "line 2 has 4 fields, the header 3"),
    "spaces only": (b"path,a,b\nx.png,1,0\n   \n", "line 3 has 1 fields"),
    "after a value of two lines": (b'path,a,b\n"x\ny.png",1,0\nz.png,1\n', "line 4 has 2 fields"),
    "two columns of a name": (b"path,a,a\nx.png,1,0\n", "line 1: two columns are called 'a'"),
    "two paths": (b"path,path,a\nx.png,y.png,0\n", "two columns are called 'path'"),
    "no name": (b"path,,a\nx.png,1,0\n", "line 1: column 2 has no name"),
    "comma at the end": (b"path,a,\nx.png,1,\n", "column 3 has no name"),
    "twice": (b"path,a,b\nx.png,1,0\n\nx.png,1,0\n", "line 4: the image 'x.png' has two rows, it was in line 2"),
    "empty": (b"", "it is empty"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "it is empty"),
    "blank": (b"\n\n", "it is empty"),
    "header only": (b"path,a,b\n", "has a header but no rows"),
    "Latin-1": (b"path,a,b\nx.png,1,0\n\xe9.png,1,0\n", "line 3: not UTF-8 text \\(byte 0xe9\\)"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "line 1: not UTF-8 text"),
    "zero bytes": (GOOD + b"\0\0\0", "line 4: a zero byte"),
    "open quote": (b'path,a,b\nx.png,1,0\n"y.png,1,0\n', "row from line 3 on"),
    "quote in a value": (b'path,a,b\n"x"y.png,1,0\n', "row from line 2 on"),
    "a value of 200,000 letters": (b"path,a,b\nx.png,1," + b"0" * 200_000, "field larger"),
    "a value of 100,000 letters": (
        b"path,a,b\ny.png,1,0\nx.png,1," + b"0" * 100_000 + b"\n", "line 3, trait 'b' holds '0000"
    ),
    "bars": (GOOD.replace(b",", b"|"), "its columns are 'path|a|b'"),
    "semicolons, short": (b"path;a;b\nx.png;1;0\ny.png;1\n", "line 3 has 2 fields, the header 3.*a semicolon inside"),
    "text": (b"path,a,b\nx.png,1,0\n\ny.png,maybe,0\n", "line 4, trait 'a' holds 'maybe'"),
    "one column alone": (b"path,a\nx.png,ja\ny.png,nein\n", "line 2, trait 'a' holds 'ja'"),
    "mostly a word": (
        b"path,a,b\nx.png,1,0\ny.png,1,absent\nz.png,0,absent\n", "line 3, trait 'b' holds 'absent'"
    ),
    "a count": (b"path,a,b\nx.png,1,0\ny.png,1,2\nz.png,0,1\nw.png,0,2\n", "line 3, trait 'b' holds '2'"),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("soft", [False, True])
def test_what_programs_write_is_read(tmp_path: Path, case: str, soft: bool) -> None:
    path = tmp_path / "traits.csv"
    path.write_bytes(READ[case])
    table = read_trait_table(path, soft=soft)
    assert table.name == ["a", "b"] and list(table.row.items())[:2] == [("x.png", 0), ("y.png", 1)]
    assert table.labels_nt[:2].tolist() == [[True, False], [False, True]]
    assert table.valid_nt[:2].tolist() == [[True, True], [False, True]]


def test_columns_that_are_no_traits_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from saetools.log import logger

    logger.propagate = True
    path = tmp_path / "traits.csv"
    path.write_bytes(READ["further columns"])
    read_trait_table(path)
    assert (
        f"{path}: columns that hold other things than a trait are left out: id ('2'), species ('hen')"
        in caplog.text
    )
    assert "target ('2'), mask ('m/0.png')" in caplog.text


def test_decimal_commas_beside_semicolons(tmp_path: Path) -> None:
    path = tmp_path / "traits.csv"
    path.write_text("path;a;b\nx.png;0,25;1\ny.png;;0,5\n")
    table = read_trait_table(path, soft=True)
    assert table.labels_nt.tolist() == [[0.25, 1], [0, 0.5]] and table.valid_nt.tolist() == [
        [True, True],
        [False, True],
    ]
    path.write_text("path;a;b\nx.png;0,25;1\ny.png;0;0.5\n")
    with pytest.raises(UserError, match="line 2, trait 'a' holds '0,25'"):
        read_trait_table(path, soft=True)


ROOTS = ["/home/me/birds/", "C:\\me\\birds\\", "./", "birds/", "/"]


@pytest.mark.parametrize("root", ROOTS)
def test_paths_with_a_folder_before_them(tmp_path: Path, root: str) -> None:
    """Absolute paths, those of Windows, and those from a folder above; two files of one name stay apart."""
    paths = ["a/1.png", "b/1.png", "b/2.png"]
    lines = [
        root + (path.replace("/", "\\") if "\\" in root else path) + f",{i % 2}"
        for i, path in enumerate(paths)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["path,red", *lines]) + "\n")
    table = read_trait_table(tmp_path / "t.csv")
    labels_nt, valid_nt = table.of(["b/1.png", "b/2.png", "a/1.png"], "train")
    assert labels_nt.tolist() == [[True], [False], [False]] and valid_nt.all()
    with pytest.raises(UserError, match=r"1 of the 2 images in train have no row, for example 'c/1\.png'"):
        table.of(["a/1.png", "c/1.png"], "train")


def test_paths_below_two_folders_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,red\n/one/a/1.png,1\n/two/a/1.png,0\n")
    with pytest.raises(UserError, match="1 of the 1 images in train have no row"):
        read_trait_table(tmp_path / "t.csv").of(["a/1.png"], "train")
    (tmp_path / "t.csv").write_text("path,red\n/one/a/1.png,1\n")
    with pytest.raises(UserError, match="2 of the 2 images"):  # one row for two images
        read_trait_table(tmp_path / "t.csv").of(["a/1.png", "./a/1.png"], "train", "unknown")


def test_missing_rows_are_unknown_or_no(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,red,big\na.png,1,\nb.png,0,1\n")
    table = read_trait_table(tmp_path / "t.csv")
    paths = ["c.png", "b.png", "a.png"]
    labels_nt, valid_nt = table.of(paths, "train", "unknown")
    assert labels_nt.tolist() == [[False, False], [False, True], [True, False]]
    assert valid_nt.tolist() == [[False, False], [True, True], [True, False]]
    labels_nt, valid_nt = table.of(paths, "train", "no")
    assert labels_nt.tolist()[0] == [False, False] and valid_nt.tolist() == [
        [True, True],
        [True, True],
        [True, False],
    ]
    for rule in ("unknown", "no", "fail"):
        with pytest.raises(UserError, match="2 of the 2 images in train have no row"):
            table.of(["x.png", "y.png"], "train", rule)
    with pytest.raises(UserError, match="expected one of unknown, no, fail"):
        table.of(paths, "train", "none")


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("soft", [False, True])
def test_what_pandas_would_mend_is_refused(tmp_path: Path, case: str, soft: bool) -> None:
    path = tmp_path / "traits.csv"
    content, said = REFUSED[case]
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: .*{said}") as raised:
        read_trait_table(path, soft=soft and case != "a value of 100,000 letters")
    assert len(str(raised.value)) < 400


def read_images_csv(path: Path) -> Any:
    return list_images(path, "csv", None)


@pytest.mark.parametrize("reader", [read_trait_table, _read_pairs, read_images_csv])
def test_folders_pipes_and_unreadable_files(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path / "none.csv", tmp_path / ("a" * 200 + ".csv")):
        with pytest.raises(UserError, match="expected"):
            reader(path)
    if os.geteuid():
        locked = tmp_path / "locked.csv"
        locked.write_bytes(GOOD)
        locked.chmod(0)
        with pytest.raises(UserError, match="permission denied"):
            reader(locked)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2, max_size=2),
        min_size=1, max_size=5,
    ),
    st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip
def test_every_value_that_csv_can_hold_arrives(tmp_path_factory, rows: list[list[str]], end: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "own.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["path", "of it"], *rows])
    found = read_user_csv(path, "anything")
    assert found.header == ["path", "of it"] and found.rows == rows
    assert found.line[0] == 2


OFFICIAL = ["1 1 1 4 7.7", "1 2 0 3 5.0 6", "2 1 0 1 8 1 2", "2 2 1 4 2"]
BROKEN = {
    "cut before the time": ("2 2 1 4", 4, "four whole numbers and a time"),
    "three fields": ("2 2 1", 4, "four whole numbers and a time"),
    "a quotation mark": ('"2 2 1 4 2', 4, "four whole numbers"),
    "is_present of 2": ("2 2 2 4 2", 4, "an is_present of 2"),
    "certainty of 0": ("2 2 1 0 2", 4, "a certainty of 0"),
    "certainty of 5": ("2 2 1 5 2", 4, "a certainty of 5"),
    "a large number": ("2 99999999999999999999 1 4 2", 4, "four whole numbers"),
    "True": ("2 2 True 4 2", 4, "four whole numbers"),
    "a zero": ("2 2 1 4 \0", 4, "a zero byte"),
}


def write_cub(root: Path, last: str, **lists: str) -> Path:
    (root / "attributes").mkdir()
    texts = {
        "images": "1 a/1.jpg\n2 a/2.jpg\n",
        "image_class_labels": "1 1\n2 1\n",
        "train_test_split": "1 1\n2 0\n",
    }
    for name, text in {**texts, **lists}.items():
        (root / f"{name}.txt").write_text(text, encoding="latin-1")
    (root / "attributes/attributes.txt").write_text("1 red\n2 blue\n")
    (root / "attributes/image_attribute_labels.txt").write_text("\n".join([*OFFICIAL[:3], last]) + "\n")
    return root


def test_cub_with_further_fields(tmp_path: Path) -> None:
    table = read_trait_table(write_cub(tmp_path, OFFICIAL[3]))
    np.testing.assert_array_equal(table.labels_nt, [[True, False], [False, True]])


@pytest.mark.parametrize("case", BROKEN)
def test_broken_lines_of_cub(tmp_path: Path, case: str) -> None:
    last, line, said = BROKEN[case]
    with pytest.raises(UserError, match=f"image_attribute_labels.txt: line {line}:? .*{said}"):
        read_trait_table(write_cub(tmp_path, last))


LISTS = {
    "class of 0": ({"image_class_labels": "1 0\n2 1\n"}, "class or split is not a number"),
    "split of 2": ({"train_test_split": "1 1\n2 2\n"}, "class or split is not a number"),
    "id twice": ({"images": "1 a.jpg\n1 b.jpg\n"}, "line 2 is the second of the number 1"),
    "image twice": ({"images": "1 a.jpg\n2 a.jpg\n"}, "'a.jpg' is there twice"),
    "an id of 5000 digits": ({"images": "9" * 5000 + " a.jpg\n"}, "line 1 is '999"),
    "an id for which memory does not last": ({"images": "99999999999999 a.jpg\n"}, "line 1 is '999"),
    "superscript": ({"images": "\xb2 a.jpg\n"}, "not UTF-8"),
}


@pytest.mark.parametrize("case", LISTS)
def test_broken_lists_of_cub(tmp_path: Path, case: str) -> None:
    lists, said = LISTS[case]
    with pytest.raises(UserError, match=said):
        cub200.read_images(write_cub(tmp_path, OFFICIAL[3], **lists))


def test_images_without_annotations_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that was cut short at the end of a line."""
    root = write_cub(tmp_path, OFFICIAL[3])
    (root / "attributes/image_attribute_labels.txt").write_text("\n".join(OFFICIAL[:2]) + "\n")
    from saetools.log import logger

    logger.propagate = True
    read_trait_table(root)
    assert "1 of 2 images have no line" in caplog.text
