"""Tables of ours as they are written and read back, and which of them are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saetools.errors import UserError
from saetools.files import seal
from saetools.files.formats import AP_TABLE, PROBE_TABLE, TABLES, YIELD
from saetools.files.provenance import Provenance
from saetools.files.tables import read_csv, sidecar_path, sidecar_values, write_csv, write_sidecar


def write(path: Path, table: pd.DataFrame) -> Provenance:
    provenance = Provenance.of(AP_TABLE, "score-traits", {"seed": 0}, ["1" * 32])
    write_csv(path, table, provenance)
    return provenance


def without(path: Path, *names: str) -> None:
    """Remove entries from the sidecar of the table at `path`."""
    values = json.loads(sidecar_path(path).read_text())
    kept = {name: value for name, value in values.items() if name not in names}
    sidecar_path(path).write_text(json.dumps(kept, indent=1))


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


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Flipped, inserted or deleted, anywhere: the table is refused, and the error says how to get it again."""
    path = tmp_path_factory.mktemp("table") / "a.csv"
    write(path, pd.DataFrame({"trait": ["a, b", 'say "c"', None], "ap": [0.1, 1 / 3, np.nan]}))
    text = path.read_bytes()
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.binary(max_size=2).filter(lambda new: new != text[at : at + 1]))
    path.write_bytes(text[:at] + new + text[at + 1 :])
    with pytest.raises(UserError, match=r"SHA-256 is not the one in a\.csv\.json: .*;\nwrite it again with"):
        read_csv(path, AP_TABLE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace(b"\n", b"\r\n"), r"its lines now end in CRLF, as git \(core.autocrlf\)"),
        (lambda text: b"\xef\xbb\xbf" + text, "it now begins with a byte order mark, as Excel"),
        (
            lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
            "its lines now end in CRLF and a byte order mark",
        ),
        (lambda text: text[:-2], "its last line is not complete, so it was probably cut short"),
        (lambda text: text[: text.index(b"\n") + 1], "it was edited or cut short"),
        (lambda _: b"", "cut short"),
    ],
)
def test_what_probably_happened(tmp_path: Path, change: Callable[[bytes], bytes], said: str) -> None:
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1, 2], "b": [2, 3]}))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=said):
        read_csv(path, AP_TABLE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'a,b\n"1,2\n', "not a CSV table in UTF-8"),
        (b"a,b\n\xff,2\n", "not a CSV table in UTF-8"),
        (b"a,b\n1,2\n3,4,5\n", "not a CSV table in UTF-8 .*Expected 2 fields in line 3, saw 3"),
        (b"", "not a CSV table"),
        (b"a,b\n", "it has 0 rows, but a.csv.json says 1"),
    ],
)
def test_tables_with_sidecars_of_earlier_versions(tmp_path: Path, text: bytes, said: str) -> None:
    """They have the number of rows, but no SHA-256."""
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1], "b": [2]}))
    without(path, "sha256", "xxh3_128")
    assert len(read_csv(path, AP_TABLE)[0]) == 1
    path.write_bytes(text)
    with pytest.raises(UserError, match=rf"a\.csv: .*{said}.*; write it again with score-traits"):
        read_csv(path, AP_TABLE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a,b\n1\n", "line 2 has 1 fields, the header 2"),
        (b"a,b\n1,2,3\n", "line 2 has 3 fields, the header 2"),  # to pandas 1 is an index, 2 the value of a
        (b"a,a\n1,2\n", "two columns are called 'a'"),
    ],
)
def test_cells_of_older_tables_stay_in_their_columns(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1], "b": [2]}))
    without(path, "sha256", "xxh3_128")
    path.write_bytes(text)
    with pytest.raises(UserError, match=rf"a\.csv: {said}|a\.csv: line 1: {said}"):
        read_csv(path, AP_TABLE)


def test_the_sidecar_has_the_sha256_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", pd.DataFrame({"trait": ["é", "b"]}))
    values = json.loads((tmp_path / "a.csv.json").read_text())
    assert values["sha256"] == hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()
    assert values["rows"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": [1]}, "'settings' is of another type"),
        ({"format_version": "one"}, "found version one"),
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
    write_sidecar(path, {name: value for name, value in values.items() if value is not ...})
    for formats in (AP_TABLE, TABLES):
        with pytest.raises(UserError, match=said):
            read_csv(path, formats)


@pytest.mark.parametrize("name", ["uid", "settings", "rows", "sha256", "xxh3_128"])
def test_an_entry_of_a_sidecar_that_was_changed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1], "b": [2]}))
    values = json.loads(sidecar_path(path).read_text())
    values[name] = {"settings": {"seed": 1}, "rows": 2}.get(name, "0" * 32)
    sidecar_path(path).write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"a\.csv\.json: its digest is not that of its entries"):
        read_csv(path, AP_TABLE)


def test_a_sidecar_with_a_piece_gone(tmp_path: Path) -> None:
    """Whatever is gone: an error, or all that was there but the digest's own name is there."""
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1], "b": [2]}))
    sidecar = sidecar_path(path)
    content, values = sidecar.read_bytes(), sidecar_values(path)
    for start in range(len(content)):
        for n_bytes in (1, 2, 17, 24, 33, 51, 60):
            sidecar.write_bytes(content[:start] + content[start + n_bytes :])
            try:
                assert sidecar_values(path) == values
            except UserError as error:
                assert str(sidecar) in str(error) or sidecar.name in str(error)


def test_a_table_without_checksums_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "_told", set())
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1], "b": [2]}))
    read_csv(path, AP_TABLE)
    assert not caplog.records
    without(path, "sha256", "xxh3_128")
    for _ in range(2):
        assert len(read_csv(path, AP_TABLE)[0]) == 1
    (record,) = caplog.records
    assert "a.csv: it was written by an earlier version and has no checksums" in record.getMessage()


def test_tables_of_other_formats_and_sidecars_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write(path, pd.DataFrame({"a": [1], "b": [2]}))
    with pytest.raises(UserError, match="found 'saetools-ap-table', expected format 'saetools-yield'"):
        read_csv(path, YIELD)
    with pytest.raises(
        UserError, match="expected one of saetools-yield, saetools-probe-table; give a table that"
    ):
        read_csv(path, (YIELD, PROBE_TABLE))
    without(path, "sha256", "rows", "xxh3_128")  # as those that were written before rows were counted
    assert len(read_csv(path, AP_TABLE)[0]) == 1
    path.unlink()
    with pytest.raises(UserError, match=r"a\.csv: no such file, though a\.csv\.json is there"):
        read_csv(path, AP_TABLE)
