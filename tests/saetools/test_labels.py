"""Labels of two splits: the same from shards and from latents, and sums against plain loops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from saetools.errors import UserError
from saetools.labels import IGNORED_LABEL
from saetools.labels.dense import DenseSplits, KnownRows
from saetools.labels.rows import RowLabels
from saetools.labels.splits import read_labels, read_pairs, read_patch_traits, read_traits, targets
from saetools.labels.tables import read_trait_table

TRAIN = np.array([[1, IGNORED_LABEL, 4], [4, 4, 1]], np.uint16)
TEST = np.array([[4, 9, IGNORED_LABEL]], np.uint16)


@dataclass
class Latents:
    """What the readers use of a LatentsSet."""

    paths: list[str]
    target: list[int]
    patches: np.ndarray | None
    names: np.ndarray | None = None

    @property
    def files(self) -> list[SimpleNamespace]:
        examples = SimpleNamespace(target=np.array(self.target), class_name=self.names)
        return [SimpleNamespace(path=Path("some.npz"), examples=examples, labels=self.patches)]


@dataclass
class Shards(Latents):
    """What the readers use of a ShardSet: labels are a layer's."""

    @property
    def shards(self) -> list[SimpleNamespace]:
        examples = SimpleNamespace(target=np.array(self.target), class_name=self.names)
        return [SimpleNamespace(path=Path("some.h5"), examples=examples, labels=lambda _layer: self.patches)]

    files = property()  # type: ignore[assignment]


def two(kind: type[Latents], *, unknown: bool = False) -> tuple[Latents, Latents]:
    train = kind(["a/owl/1.png", "a/hen/2.png"], [5, -1 if unknown else 2], TRAIN)
    return train, kind(["b/owl/3.png"], [5], TEST)


@pytest.mark.parametrize("kind", [Latents, Shards])
def test_classes_of_images_are_the_same_from_latents_and_from_shards(kind: type[Latents]) -> None:
    train, test = two(kind)
    for read in (read_labels, read_traits):
        named = read("target", train, test)
        assert named.names == ["hen", "owl"] and named.pooled
        assert (named.train.ids.tolist(), named.test.ids.tolist()) == ([1, 0], [1])
    assert targets(train).tolist() == [5, 2]
    train.paths[0] = "a/hen/1.png"  # two classes in folders of one name: by number
    assert read_labels("target", train, test).names == ["2", "5"]
    assert read_traits("target", train, test).names == ["class 2", "class 5"]
    given = ["", "", "cock", "", "", "eagle"]
    assert read_labels("target", train, test, class_names=given).names == ["cock", "eagle"]
    assert read_traits("target", train, test, class_names=given[:3]).names == ["cock", "class 5"]
    with pytest.raises(UserError, match="two of the labels are called 'cock'"):
        read_labels("target", train, test, class_names=["cock"] * 6)


@pytest.mark.parametrize("kind", [Latents, Shards])
def test_recorded_names_decide_where_numbers_differ(
    kind: type[Latents], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Test has no cat, so its hen is number 0, and its crow, which train has not, has the number of train's hen."""
    from saetools.log import logger

    logger.propagate = True
    caplog.set_level("INFO")
    train = kind(["1.png", "2.png", "3.png"], [0, 1, 2], TRAIN, np.array(["cat", "hen", "owl"], object))
    test = kind(["4.png", "5.png", "6.png"], [1, 0, -1], TEST, np.array(["crow", "hen", ""], object))
    labels = read_labels("target", train, test)
    assert labels.names == ["cat", "hen", "owl", "crow"]
    assert (labels.train.ids.tolist(), labels.test.ids.tolist()) == ([0, 1, 2], [3, 1, -1])
    assert "compared by their classes' names" in caplog.text
    assert read_labels("target", train, test, ignore=[0]).names == ["hen", "owl", "crow"]
    test.names, test.target = np.array(["crow", "hen", "hen"], object), [1, 0, 0]
    (tmp_path / "pairs.csv").write_text("hen;crow\n")
    dense = DenseSplits.of(read_pairs(tmp_path / "pairs.csv", train, test))
    assert dense.test.labels_nt[:, 0].tolist() == [False, True, True] and dense.train.row_n.tolist() == [1]
    test.names = None  # a file of an earlier version: numbers, as before
    assert read_labels("target", train, test).test.ids.tolist() == [1, 0, 0]


def test_an_image_without_a_class_is_left_out_of_probes_and_refused_for_traits() -> None:
    train, test = two(Latents, unknown=True)
    assert read_labels("target", train, test).train.ids.tolist() == [0, -1]
    with pytest.raises(UserError, match=r"1 images have no class, for example 'a/hen/2.png'"):
        read_traits("target", train, test)


def test_patch_labels_of_probes_are_those_of_either_split_and_of_traits_those_of_train() -> None:
    probes = read_labels("patch", *two(Latents), ignore=[1])
    assert probes.names == ["4", "9"] and not probes.pooled
    assert probes.train.ids.tolist() == [-1, -1, 0, 0, 0, -1] and probes.test.ids.tolist() == [0, 1, -1]
    traits = read_patch_traits(*two(Shards), layer=3)
    assert traits.names == ["label 1", "label 4"]
    names = ["sky", "bird"]
    assert read_patch_traits(*two(Shards), layer=3, class_names=names).names == ["bird", "label 4"]
    assert read_labels("patch", *two(Latents), class_names=names).names == ["bird", "4", "9"]
    dense = DenseSplits.of(traits, (3, 3))
    assert dense.train.row_n.tolist() == [0, 2, 3, 4, 5] and dense.train.image_n.tolist() == [0, 0, 1, 1, 1]
    # label 9, which train has not, is a negative of both
    assert dense.test.labels_nt.tolist() == [[False, True], [False, False]] and dense.test.valid_nt is None


def test_pairs_leave_other_classes_out(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("owl,hen\n")
    dense = DenseSplits.of(read_pairs(pairs, *two(Shards)))
    assert dense.names == ["owl against hen"] and dense.is_pairs
    assert dense.train.labels_nt[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("seed", range(4))
def test_sums_of_a_table_with_unknown_cells_are_those_of_plain_loops(seed: int, monkeypatch) -> None:
    """Blocks of seven rows, so that sums go over several."""
    monkeypatch.setattr("saetools.labels.rows._BLOCK", 7)
    rng = np.random.default_rng(seed)
    y_nc, known_nc = rng.choice([0, 0.25, 0.5, 1], (30, 4)), rng.random((30, 4)) < 0.6
    labels = RowLabels(4, table=y_nc, known=known_nc)
    for c in range(4):
        y = [y_nc[n, c] for n in range(30) if known_nc[n, c]]
        assert labels.kept_rows[c] == len(y)
        assert labels.mass[c] == pytest.approx(sum(y), abs=1e-12)
        assert labels.positives[c] == sum(v >= 0.5 for v in y)
        assert (labels.some_positive[c], labels.some_negative[c]) == (
            sum(v > 0 for v in y),
            sum(v < 1 for v in y),
        )
    dense = KnownRows.of(RowLabels(4, table=y_nc >= 0.5, known=known_nc), 3)
    assert dense.row_n.tolist() == [n for n in range(30) if known_nc[n].any()]
    images = sorted({n // 3 for n in dense.row_n})
    assert dense.image_n.tolist() == [images.index(n // 3) for n in dense.row_n]
    assert dense.n_positives.tolist() == [int(((y_nc >= 0.5) & known_nc)[:, c].sum()) for c in range(4)]


def test_groups_have_the_same_known_rows_and_cover_all_classes() -> None:
    known_nc = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1]], bool)
    labels = RowLabels(3, table=np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]], bool), known=known_nc)
    groups = {tuple(at): part for at, part in labels.groups(np.array([2, 0, 1]))}
    assert set(groups) == {(0,), (1, 2)}
    assert groups[1, 2].keep.tolist() == [True, True, False] and groups[1, 2].mass.tolist() == [1, 1]
    one_class = RowLabels.from_classes([0, 1, -1, 2], 3, ignore=-1)
    ((at, part),) = one_class.groups(np.array([2, 0]))
    assert at.tolist() == [0, 1] and part.ids.tolist() == [1, 2, -1, 0]
    assert (part.positives.tolist(), part.some_negative.tolist(), part.n_kept) == ([1, 1], [2, 2], 3)


def test_names_of_macos_are_found_in_tables_written_elsewhere(tmp_path: Path) -> None:
    """An accent as a letter of its own (NFD), and the table with one letter (NFC); and the other way round."""
    composed, apart = "vogel/\u00e9l\u00e8ve.jpg", "vogel/e\u0301le\u0300ve.jpg"
    for written, recorded in ((composed, apart), (apart, composed)):
        (tmp_path / "t.csv").write_text(f"path,red\nvogel/a.jpg,0\n{written},1\n", encoding="utf-8")
        table = read_trait_table(tmp_path / "t.csv")
        labels_nt, valid_nt = table.of([recorded, "vogel/a.jpg"], "train")
        assert labels_nt.tolist() == [[True], [False]] and valid_nt.all()
        with pytest.raises(UserError, match="1 of the 2 images in train have no row"):
            table.of([recorded, "vogel/b.jpg"], "train")
        with pytest.raises(UserError, match="have no row"):
            table.of([written, recorded], "train")  # two images and one row
    (tmp_path / "t.csv").write_text(f"path,red\n{composed},0\n{apart},1\n", encoding="utf-8")
    assert read_trait_table(tmp_path / "t.csv").of([apart, composed], "train")[0].tolist() == [
        [True],
        [False],
    ]
