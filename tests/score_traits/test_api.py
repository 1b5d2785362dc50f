"""score_traits as a Python call: the command's values, scorers in memory, errors that name arguments."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from saetools.errors import UsageError, UserError
from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance
from saetools.scorers.baselines import Linear
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.reader import open_shards
from score_traits.api import score_traits as call


@pytest.fixture(scope="module")
def sae() -> SAE:
    generator = torch.Generator().manual_seed(0)
    weights = torch.nn.functional.normalize(torch.randn(8, 6, generator=generator), dim=1)
    return SAE(SAEConfig(6, 8, "relu"), weights.T.contiguous(), torch.zeros(8), weights, torch.zeros(6))


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def test_the_call_gives_the_commands_values(birds, score_traits) -> None:
    options = ["--n-train", "20,all", "--repeats", 2, "--seed", 3, "--bootstrap", 20, "--null", 3]
    scorers = ["const", "random:5", "linear"]
    done = score_traits(
        *birds.options, "--layer", 3, *options, *(a for s in scorers for a in ("--scorer", s))
    )
    found = call(
        str(birds.train), [birds.test], birds.table, scorers=scorers, layer=3, n_train=(20, "all"), repeats=2,
        seed=3, bootstrap=20, null=3,
    )  # fmt: skip
    pd.testing.assert_frame_equal(read(found.to_csv(index=False)), read(done.stdout))


def test_an_sae_in_memory_scores_as_its_file(birds, sae, tmp_path) -> None:
    file = tmp_path / "sae.h5"
    source = {**open_shards([birds.train]).header.source(), "layer": 3}
    trained = TrainedScorer("sae", sae, Provenance.of(SCORERS, "a test", {}), source)
    save_scorer(file, trained)
    shards = open_shards([birds.train]), open_shards([birds.test])
    weights = sae.W_enc.clone()
    tables = [call(*shards, birds.table, scorers=scorer, layer=3) for scorer in (file, sae, [trained])]
    for table in tables:
        assert (table["scorer"] == "sae").all() and (table["d_sae"] == 8).all()
        np.testing.assert_array_equal(table["ap"], tables[0]["ap"])
        np.testing.assert_array_equal(table["prototype"], tables[0]["prototype"])
    assert torch.equal(sae.W_enc, weights)


def test_any_object_with_prototypes_is_a_scorer(birds) -> None:
    class Doubled:
        n_prototypes = 6

        def __call__(self, activations: torch.Tensor) -> torch.Tensor:
            return 2 * activations

    found = call(
        birds.train, birds.test, birds.table, scorers=[Doubled(), "units", Linear(torch.eye(6))], layer=3
    )
    by_scorer = {name: rows["ap"].tolist() for name, rows in found.groupby("scorer")}
    assert set(by_scorer) == {"doubled", "units", "linear"}
    assert by_scorer["doubled"] == by_scorer["units"] == by_scorer["linear"]


def test_two_objects_in_memory_share_a_cache_without_mixing(birds, tmp_path) -> None:
    """Scores are kept under the weights of an SAE, and never again for objects whose contents are not known."""

    class Column:
        n_prototypes = 1

        def __init__(self, column: int) -> None:
            self.column = column

        def __call__(self, activations: torch.Tensor) -> torch.Tensor:
            return activations[:, [self.column]]

    tables = [
        call(birds.train, birds.test, birds.table, scorers=Column(k), layer=3, cache=tmp_path) for k in (0, 1)
    ]
    assert not tables[0]["ap"].equals(tables[1]["ap"])


def test_out_is_written_and_not_computed_again(birds, tmp_path) -> None:
    out = tmp_path / "ap.csv"
    first = call(birds.train, birds.test, birds.table, scorers="units", layer=3, out=out)
    before = out.read_bytes()
    assert read(before.decode())["ap"].equals(first["ap"])
    again = call(birds.train, birds.test, birds.table, scorers="units", layer=3, out=str(out))
    assert again["ap"].equals(first["ap"]) and out.read_bytes() == before
    with pytest.raises(UserError, match=re.escape(str(out))):
        call(birds.train, birds.test, birds.table, scorers="const", layer=3, out=out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"traits": None}, "`traits`, `pairs` and `patch_traits`"),
        ({"patch_traits": True}, "`traits`, `pairs` and `patch_traits`"),
        ({"scorers": "kmeans:many"}, "`scorers` kmeans:many"),
        ({"scorers": [object()]}, "`scorers`: found a object"),
        ({"scorers": []}, "`scorers`: expected at least one"),
        ({"n_train": (0,)}, "`n_train` 0"),
        ({"n_train": (61,)}, "`n_train` 61: the training shards hold 60 images"),
        ({"repeats": 0}, "`repeats` 0: expected at least 1"),
        ({"certainty": (5,)}, "`certainty` 5"),
        ({"drop_not_visible": True}, "`certainty` and `drop_not_visible`"),
        ({"bootstrap_by": "class"}, "`bootstrap_by` class: it needs `bootstrap`"),
        ({"bootstrap_by": "species"}, "`bootstrap_by` species"),
        ({"layer": None}, "`layer`"),
        ({"memory": "much"}, "`memory`"),
    ],
)
def test_errors_name_the_argument(birds, arguments: dict[str, object], words: str) -> None:
    given = {"traits": birds.table, "scorers": "units", "layer": 3, **arguments}
    with pytest.raises(UserError, match=re.escape(words)):
        call(birds.train, birds.test, **given)


def test_a_scorer_of_another_width_is_refused(birds, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`scorers`: the scorer in memory 1"):
        call(birds.train, birds.test, birds.table, scorers=Linear(torch.eye(5)), layer=3)
