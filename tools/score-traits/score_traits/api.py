"""`score_traits`: the AP table as one call, for the command and for Python."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from saetools.cli.quantities import parse_bytes
from saetools.compute import devices
from saetools.errors import UsageError
from saetools.files.ap_tables import SCORER_FILES, list_scorer_files
from saetools.files.formats import AP_TABLE
from saetools.files.reuse import read_reusable, writing
from saetools.files.tables import write_csv
from saetools.labels.cub200 import CERTAIN
from saetools.labels.dense import DenseSplits
from saetools.labels.splits import TARGET, read_pairs, read_patch_traits, read_traits
from saetools.metrics.pooling import parse_pool
from saetools.scorers.baselines import Scorer
from saetools.scorers.record import TrainedScorer
from saetools.shards.reader import Shards, choose_layer, open_shards
from saetools.unfinished import unfinished
from score_traits.arguments import check_labels, check_settings, parse_size
from score_traits.rows import ScoringSettings
from score_traits.scorer_runs import parse_spec
from score_traits.table import ApTable, check_splits


def score_traits(
    train: Shards,
    test: Shards,
    traits: str | Path | None = None,
    *,
    scorers: str | Path | Scorer | TrainedScorer | Sequence[str | Path | Scorer | TrainedScorer],
    layer: int | Sequence[int] | None = None,
    n_train: int | str | Sequence[int | str] = ("all",),
    repeats: int = 1,
    seed: int = 0,
    pool: str = "max",
    pairs: str | Path | None = None,
    patch_traits: bool = False,
    certainty: Collection[int] = CERTAIN,
    drop_not_visible: bool = False,
    missing_rows: str | None = None,
    class_names: Sequence[str] = (),
    bootstrap: int = 0,
    bootstrap_by: str = "image",
    null: int = 0,
    save_scorer: str | Path | None = None,
    cache: str | Path | None = None,
    memory: int | str = "2GB",
    device: str = "auto",
    out: str | Path | None = None,
) -> pd.DataFrame:
    """The AP table of docs/formats.md: the same values as the command `score-traits` with these options.

    For each trait, the best prototype is chosen on the training images, and its average precision measured on the test
    images. One row per layer, scorer, seed, number of training images and trait.

    train, test:  activation shards: a folder or a file, a list of these, or an opened ShardSet
    traits:       a CUB-200-2011 folder, a CSV `path,TRAIT,...` of 0, 1 and empty, or `target` (each class against the
                  rest); or else one of `pairs` (a CSV of two classes a line) and `patch_traits` (the patches' labels)
    scorers:      each `const`, `random:K` and so on as in the README, the path of a scorer file, or a scorer in memory:
                  an SAE, or any object with `n_prototypes` that maps {B, D} to {B, n_prototypes}
    layer:        layers of the shards; needed where they hold several
    n_train:      numbers of training images to choose with, or "all"
    repeats:      as many repeats with the seeds `seed`, `seed` + 1, ...
    pool:         image score from patch scores: max, mean or topk-mean:M
    certainty, drop_not_visible: of CUB-200-2011, see `saetools.labels.tables.read_trait_table`
    missing_rows: of a table, what images without a row count as: "unknown", "no", or "fail" (the default)
    class_names:  names of the patch labels (or classes) 0, 1, ...; without, as they were recorded, or by number
    bootstrap, bootstrap_by: 95% intervals from so many resamples of test images, each image or each class by itself
    null:         mAP with the training labels shuffled so many times
    save_scorer:  folder for the scorers that are fitted here
    cache:        folder that keeps scores and fitted scorers for the next call
    memory:       bytes that scores and scorers may take in memory, or "2GB"
    out:          write the table there too, with its sidecar; the same table is not computed again

    Raises UserError (UsageError where arguments do not fit each other), which names the argument or the file.
    """
    check_labels(traits, pairs, patch_traits, certainty, drop_not_visible, missing_rows)
    classes = pairs is not None or traits == TARGET
    check_settings(classes, patch_traits, repeats, pool, bootstrap, bootstrap_by, null)
    sizes = [parse_size(size) for size in ([n_train] if isinstance(n_train, int | str) else n_train)]
    given = [scorers] if isinstance(scorers, str | Path) or not isinstance(scorers, Sequence) else scorers
    specs = [parse_spec(each, f"in memory {number}") for number, each in enumerate(given, start=1)]
    if not specs or not sizes:
        raise UsageError(f"`{'n_train' if specs else 'scorers'}`: expected at least one")
    parse_pool(pool)
    memory_bytes = parse_bytes("`memory`", memory) if isinstance(memory, str) else memory
    chosen_device = devices.choose_device(device)
    train_set, test_set = open_shards(train), open_shards(test)
    layers = [layer] if layer is None or isinstance(layer, int) else layer
    settings = ScoringSettings(
        layers=tuple(dict.fromkeys(choose_layer(train_set.shards[0], one) for one in layers)),
        n_train=tuple(sizes),
        pool=pool,
        seeds=tuple(range(seed, seed + repeats)),
        bootstrap=bootstrap,
        bootstrap_by=bootstrap_by,
        null=null,
        memory=memory_bytes,
    )
    check_splits(train_set, test_set)
    if patch_traits:
        labels = {}
        for one in settings.layers:
            n_patches = train_set.shape(one)[0], test_set.shape(one)[0]
            labels[one] = DenseSplits.of(read_patch_traits(train_set, test_set, one, class_names), n_patches)
    elif pairs is not None:
        found = read_pairs(Path(pairs), train_set, test_set, class_names)
        labels = dict.fromkeys(settings.layers, DenseSplits.of(found))
    else:
        found = read_traits(
            str(traits),
            train_set,
            test_set,
            certainty=certainty,
            drop_not_visible=drop_not_visible,
            missing_rows=missing_rows,
            class_names=class_names,
        )
        labels = dict.fromkeys(settings.layers, DenseSplits.of(found))
    maker = ApTable(train_set, test_set, labels, specs, settings)
    provenance = maker.provenance()
    target = None if out is None else Path(out)
    with writing(target, provenance.settings, provenance.parents):
        table = None if target is None else read_reusable(target, AP_TABLE, provenance)
        if table is not None and target is not None:
            list_scorer_files(target, maker.scorer_files)
            return table
        with _score_folder(cache) as folder:
            table = maker.make(folder, chosen_device, None if save_scorer is None else Path(save_scorer))
        if target is not None:
            write_csv(target, table, provenance, {SCORER_FILES: maker.scorer_files})
        return table


@contextmanager
def _score_folder(cache: str | Path | None) -> Iterator[Path]:
    """The cache, or a temporary folder ($TMPDIR decides where) that is removed at the end."""
    if cache is not None:
        Path(cache).mkdir(parents=True, exist_ok=True)
        yield Path(cache)
        return
    with tempfile.TemporaryDirectory(prefix="score-traits-") as folder, unfinished(Path(folder)) as path:
        yield path
