"""Tables of ours as they are written and read back, and which of them are whole."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saetools.errors import UserError
from saetools.files.formats import AP_TABLE, PROBE_TABLE, TABLES, YIELD
from saetools.files.provenance import Provenance
from saetools.files.tables import count_rows, read_csv, sidecar_path, write_csv

CELLS = st.text(st.sampled_from('ab ,"\n\u2028é'), max_size=4)


def write(path: Path, table: pd.DataFrame) -> Provenance:
    provenance = Provenance.of(AP_TABLE, "score-traits", {"seed": 0}, ["1" * 32])
    write_csv(path, table, provenance)
    return provenance


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Names that other readers take for a missing value stay names, and numbers keep all their digits."""
    table = pd.DataFrame(
        {"trait": ["NA", "null", "a, b", 'say "c"', None], "ap": [0.1, 1 / 3, np.nan, np.inf, 1e-300]}
    )
    provenance = write(tmp_path / "a.csv", table)
    for formats in (AP_TABLE, TABLES):
        found, source = read_csv(tmp_path / "a.csv", formats)
        assert found["ap"].tolist()[:2] + found["ap"].tolist()[3:] == [0.1, 1 / 3, np.inf, 1e-300]
        assert found["trait"].tolist()[:4] == ["NA", "null", "a, b", 'say "c"']
        assert found.isna().sum().tolist() == [1, 1]
        assert (source.uid, source.settings) == (provenance.uid, {"seed": 0})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=3), min_size=1, max_size=6))
def test_lines_are_counted_as_the_csv_module_reads_them(rows: list[list[str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL).writerows(rows)
    text = file.getvalue().encode()
    if len({len(row) for row in rows}) == 1:
        assert count_rows(Path("a.csv"), text, "mend it") == len(rows) - 1
    else:
        odd = next(row for row in rows if len(row) != len(rows[0]))
        with pytest.raises(
            UserError, match=rf"has {len(odd)} fields, the first line {len(rows[0])}; mend it"
        ):
            count_rows(Path("a.csv"), text, "mend it")


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_line_is_named(quote: str) -> None:
    text = f"a,b\n{quote}1{quote},2\n3,4,5\n6\n".encode()
    with pytest.raises(UserError, match=r"a\.csv: line 3 has 3 fields, the first line 2"):
        count_rows(Path("a.csv"), text, "mend it")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'a,b\n"1,2\n', "unexpected end of data"),
        (b"a,b\n\xff,2\n", "not a CSV table in UTF-8"),
        (b"", "cut short"),
    ],
)
def test_what_is_no_table(tmp_path: Path, text: bytes, said: str) -> None:
    write(tmp_path / "a.csv", pd.DataFrame({"a": [1], "b": [2]}))
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(UserError, match=rf"a\.csv: .*{said}.*; write it again with score-traits"):
        read_csv(tmp_path / "a.csv", AP_TABLE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": [1]}, "its settings are no mapping"),
        ({"format_version": "one"}, "it is broken: invalid literal"),
        ({"complete": False}, "it is not complete"),
        ({"uid": ...}, "'uid' is missing"),
        ({"format": ...}, "found 'no format name'"),
        ({"rows": 3}, "it has 1 rows, but a.csv.json says 3"),
    ],
)
def test_what_is_no_sidecar(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1], "b": [2]}))
    values = json.loads(sidecar_path(path).read_text()) | change
    kept = {name: value for name, value in values.items() if value is not ...}
    sidecar_path(path).write_text(json.dumps(kept))
    for formats in (AP_TABLE, TABLES):
        with pytest.raises(UserError, match=said):
            read_csv(path, formats)


def test_tables_of_other_formats_and_sidecars_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1], "b": [2]}))
    with pytest.raises(UserError, match="found 'saetools-ap-table', expected format 'saetools-yield'"):
        read_csv(path, YIELD)
    with pytest.raises(
        UserError, match="expected one of saetools-yield, saetools-probe-table; give a table that"
    ):
        read_csv(path, (YIELD, PROBE_TABLE))
    values = json.loads(sidecar_path(path).read_text())
    del values["rows"]  # as those that were written before tables were counted
    sidecar_path(path).write_text(json.dumps(values))
    assert len(read_csv(path, AP_TABLE)[0]) == 1
    path.unlink()
    with pytest.raises(UserError, match=r"a\.csv: no such file, though a\.csv\.json is there"):
        read_csv(path, AP_TABLE)
