"""Compare what an edit of a latent does to a head's attributes with what the same bird drawn again does.

    python compare_edits.py data/birds-pairs --train ACTS --traits data/birds --table AP.csv --sae 'SAES/seed={seed}.h5'
        --seeds 0,1,2 --head HEAD.h5 --probe PROBE.h5 --model timm/test_vit2 --weights vit.safetensors --out edits.csv

Everything is decided on training images: the latent of an attribute (score-traits, in AP.csv), the head, the probe and
the difference of means, and the edits:

    removed   (redrawing takes the attribute away)  f' = 0 in every patch in which the latent fires
    added     (redrawing adds it)                   f' = f + a in every patch, a: mean of f over patches of training
                                                    images with the attribute, less the mean of those without

Controls move each patch by the same length along another direction (edit_latents.controls). Beside them stand the
latent, and all latents, set to what they are in the redrawn picture: no edit that one could choose, but how much of
the change goes through them. agreement.py has the measures. Rows are written to --out; means over attributes are
printed, then the attributes with the highest AP.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from agreement import MEASURES, Floats, agreement, interval, resampled
from PIL import Image

import saetools as st
from edit_latents.controls import like_latents, random_directions, same_size
from saetools.cli.markdown import render_markdown
from saetools.errors import UserError
from saetools.files.ap_tables import rows_of_scorer
from saetools.files.atomic import write_text
from saetools.labels.tables import read_trait_table
from saetools.scorers.compatibility import check_scorer_fits
from saetools.scorers.file import load_scorer
from saetools.scorers.head import Head, check_head_fits
from saetools.scorers.sae import SAE
from saetools.scorers.start import rebuild_start, training_shards
from saetools.vision.cut_models import CutModel, CutState
from saetools.vision.edits import EVERYWHERE, FIRING, Operation, latent_change
from saetools.vision.models import VisionModel

IntArray = npt.NDArray[np.int64]

AT_ONCE = 128  # images in one pass
REMOVED, ADDED = "removed", "added"
LATENT, UNTRAINED = "latent", "untrained"
RANDOM = ("random-latent", "random-direction")
CONTROLS = (LATENT, UNTRAINED, *RANDOM, "diff-means", "probe")
# What the SAE could do at best: the latent, or all of them, at the values that they have in the redrawn picture
LATENT_REDRAWN, ALL_REDRAWN = "latent-redrawn", "all-redrawn"
OF_UNTRAINED = {
    LATENT: UNTRAINED,
    LATENT_REDRAWN: f"{UNTRAINED}-redrawn",
    ALL_REDRAWN: f"{UNTRAINED}-all-redrawn",
}
CEILINGS = (LATENT_REDRAWN, OF_UNTRAINED[LATENT_REDRAWN], ALL_REDRAWN, OF_UNTRAINED[ALL_REDRAWN])
BEST = 10  # attributes that are printed one by one
FOLLOWS = 0.8  # share of pairs in which redrawing moves the attribute's own logit as it should


@dataclass(frozen=True)
class Pairs:
    """n pairs: before and after, numbers of images {n}; added and removed: columns of the head {n}, -1 none."""

    paths: list[str]
    before_n: IntArray
    after_n: IntArray
    added_n: IntArray
    removed_n: IntArray

    def of(self, change: str, attribute: int) -> np.ndarray:
        return np.flatnonzero((self.removed_n if change == REMOVED else self.added_n) == attribute)

    def intended(self, rows: np.ndarray, n_attributes: int) -> np.ndarray:
        """bool {rows, C}: the attributes that redrawing is meant to change."""
        columns = np.arange(n_attributes)
        return (self.added_n[rows, None] == columns) | (self.removed_n[rows, None] == columns)


def read_pairs(root: Path, names: Sequence[str]) -> Pairs:
    table = pd.read_csv(root / "pairs.csv", keep_default_na=False)
    paths = [*dict.fromkeys(table["before"]), *table["after"]]
    number = {path: i for i, path in enumerate(paths)}
    column = {name: i for i, name in enumerate(names)} | {"": -1}
    if unknown := ({*table["added"]} | {*table["removed"]}) - set(column):
        raise UserError(f"{root}/pairs.csv: the head has no attribute {min(unknown)!r}; fit it on --traits")
    numbers = [[number[path] for path in table[name]] for name in ("before", "after")]
    columns = [[column[name] for name in table[side]] for side in (ADDED, REMOVED)]
    return Pairs(paths, *(np.array(values) for values in (*numbers, *columns)))


@dataclass(frozen=True)
class Network:
    """A model cut at the layer of the SAEs, and the head behind it; logits in units of their training spread {C}."""

    cut: CutModel
    head: Head
    spread_c: Floats

    @torch.inference_mode()
    def logits(self, state: CutState, image_n: IntArray, change_npd: torch.Tensor | None = None) -> Floats:
        """{n, C} of images of a state, with their patches changed."""
        found = []
        for start in range(0, len(image_n), AT_ONCE):
            rows = torch.from_numpy(image_n[start : start + AT_ONCE])
            patches = state.patches[rows]
            if change_npd is not None:
                patches = patches + change_npd[start : start + AT_ONCE]
            tokens = self.cut.rest_until(state.with_patches(patches, rows), self.head.layer)
            logits = self.head(tokens[:, state.n_prefix :].double().mean(1))
            found.append(logits.numpy() / self.spread_c)
        return np.concatenate(found)


@dataclass(frozen=True)
class Attribute:
    """One attribute as training images have it, for one SAE: its latent, what an edit adds to that, and controls."""

    column: int
    latent: int
    amount: float
    controls: Mapping[str, torch.Tensor]  # name -> directions {draws, D}


def edit_of(sae: SAE, f_nps: torch.Tensor, attribute: Attribute, change: str) -> torch.Tensor:
    """x' - x {n, P, D}"""
    if change == REMOVED:
        return latent_change(sae, f_nps, attribute.latent, Operation("set", 0.0), FIRING)
    return latent_change(sae, f_nps, attribute.latent, Operation("add", attribute.amount), EVERYWHERE)


@dataclass(frozen=True)
class Pictures:
    """The images of pairs at the cut, numbered as in pairs, and their logits {images, C}."""

    pairs: Pairs
    state: CutState
    logits_nc: Floats


@torch.inference_mode()
def compare(
    network: Network, sae: SAE, pictures: Pictures, attribute: Attribute, change: str, resamples: int
) -> dict[str, dict[str, Floats]]:
    """By name of the latent and of each control its measures {1 + R}; random controls as the mean of their draws.

    An image is drawn again, for intervals, with all its pairs.
    """
    pairs, state, column = pictures.pairs, pictures.state, attribute.column
    rows = pairs.of(change, column)
    image_n = pairs.before_n[rows]
    before_nc, after_nc = pictures.logits_nc[image_n], pictures.logits_nc[pairs.after_n[rows]]
    intended_nc = pairs.intended(rows, before_nc.shape[1])
    weights_rn = resampled(int(pairs.before_n.max()) + 1, resamples, seed=0)[:, image_n]
    f_nps, redrawn_nps = (sae.encode(state.patches[one]) for one in (image_n, pairs.after_n[rows]))
    own_npd = edit_of(sae, f_nps, attribute, change)
    own_row_d = sae.W_dec[attribute.latent] * sae.scale
    changes = {
        LATENT: [own_npd],
        LATENT_REDRAWN: [(redrawn_nps - f_nps)[..., attribute.latent, None] * own_row_d],
        ALL_REDRAWN: [(redrawn_nps - f_nps) @ (sae.W_dec * sae.scale)],
    }
    for name, directions in attribute.controls.items():
        changes[name] = [same_size(own_npd, sae.W_dec[attribute.latent], one) for one in directions]
    found = {}
    for name, draws in changes.items():
        edits = [network.logits(state, image_n, one) - before_nc for one in draws]
        measured = [agreement(one, after_nc - before_nc, intended_nc, column, weights_rn) for one in edits]
        found[name] = {measure: np.mean([one[measure] for one in measured], axis=0) for measure in MEASURES}
    return found


def follows(pictures: Pictures, change: str, column: int) -> float:
    """Share of pairs in which redrawing moves the attribute's own logit the way it is meant to."""
    rows = pictures.pairs.of(change, column)
    after_n, before_n = pictures.pairs.after_n[rows], pictures.pairs.before_n[rows]
    moved_n = pictures.logits_nc[after_n, column] - pictures.logits_nc[before_n, column]
    return float(((moved_n < 0) if change == REMOVED else (moved_n > 0)).mean())


@dataclass(frozen=True)
class Training:
    """Training images at the layer of the SAEs, {n, P, D}, and which have each of the head's attributes {n, C}."""

    x_npd: torch.Tensor
    has_nc: npt.NDArray[np.bool_]
    known_nc: npt.NDArray[np.bool_]

    def difference(self, mean_nk: torch.Tensor, column: int) -> torch.Tensor:
        """Mean over the images with an attribute, less that of those known to be without it: {k}."""
        has_n, known_n = self.has_nc[:, column], self.known_nc[:, column]
        return mean_nk[torch.from_numpy(has_n & known_n)].mean(0) - mean_nk[
            torch.from_numpy(~has_n & known_n)
        ].mean(0)

    @torch.inference_mode()
    def attributes(
        self, sae: SAE, latent_of: Mapping[int, int], probe: Head, draws: int, seed: int
    ) -> Iterator[Attribute]:
        """The attributes (columns of the head) with a latent; `random-latent` has the decoder's rows."""
        f_nps = sae.encode(self.x_npd)
        frequency_s = (f_nps > 0).double().mean((0, 1)).numpy()
        f_ns, x_nd = f_nps.mean(1), self.x_npd.mean(1)
        for column, latent in latent_of.items():
            like = like_latents(frequency_s, latent, draws, seed)
            controls = {
                "random-latent": sae.W_dec[like],
                "random-direction": random_directions(draws, sae.d_model, seed * len(frequency_s) + latent),
                "diff-means": self.difference(x_nd, column)[None],
                "probe": probe.weight[column][None].float(),
            }
            yield Attribute(column, latent, float(self.difference(f_ns, column)[latent]), controls)


@torch.inference_mode()
def images_at_cut(model: VisionModel, cut: CutModel, root: Path, paths: Sequence[str]) -> CutState:
    states = []
    for start in range(0, len(paths), AT_ONCE):
        pixels = []
        for path in paths[start : start + AT_ONCE]:
            with Image.open(root / path) as image:
                pixels.append(torch.from_numpy(np.array(model.outline.preprocess.pixels(image))))
        with model.computing():
            states.append(cut.first(model.inputs(torch.stack(pixels))))
    return replace(states[0], tokens=torch.cat([state.tokens for state in states]))


def latents_of(table: pd.DataFrame, names: Sequence[str]) -> tuple[dict[int, int], dict[int, float]]:
    """Column of the head -> latent that score-traits chose, and its AP on training images."""
    chosen = table[table["n_train"] == table["n_train"].max()].dropna(subset="prototype").set_index("trait")
    columns = [c for c, name in enumerate(names) if name in chosen.index]
    return (
        {c: int(chosen["prototype"][names[c]]) for c in columns},
        {c: float(chosen["ap_train"][names[c]]) for c in columns},
    )


Measured = dict[tuple[str, str, int, str], dict[str, Floats]]  # by attribute, change, seed, control


def measure(args: argparse.Namespace) -> tuple[pd.DataFrame, Measured]:
    """A row for each attribute, change, seed and control; and the measures of each with all resamples."""
    shards, head, probe = st.open_shards(args.train), st.load_head(args.head), st.load_head(args.probe)
    model = st.load_model(args.model, weights=args.weights, device="cpu")
    layer = probe.layer
    for one, path in ((head, args.head), (probe, args.probe)):
        check_head_fits(one, path, model.source(), tokens="mean")
    if head.layer < layer or probe.names != head.names:
        raise UserError(
            f"{args.head}: layer {head.layer}, {len(head.names)} attributes; {args.probe}: layer {layer},"
            f" {len(probe.names)}; expected the same attributes, and a probe at the layer of the SAEs"
        )
    train_paths = [*shards.frame()["path"]]
    pairs = read_pairs(args.pairs, head.names)
    if seen := set(pairs.paths) & set(train_paths):
        raise UserError(f"{args.pairs}: {min(seen)} is an image of --train; draw pairs of test images")
    traits = read_trait_table(args.traits)
    order = [traits.name.index(name) for name in head.names]
    labels_nt, valid_nt = traits.of(train_paths, "--train")
    training = Training(shards.read(layer), labels_nt[:, order] > 0, valid_nt[:, order])
    spread_c = head(shards.read(head.layer).double().mean(1)).std(0).numpy()
    network = Network(CutModel(model.module, layer), head, spread_c)
    state = images_at_cut(model, network.cut, args.pairs, pairs.paths)
    pictures = Pictures(pairs, state, network.logits(state, np.arange(len(pairs.paths))))
    table = st.read_table(args.table)
    rows: list[dict[str, object]] = []
    measured: Measured = {}
    for seed in args.seeds:
        path = Path(str(args.sae).replace("{seed}", str(seed)))
        file = load_scorer(path)
        check_scorer_fits(file, path, shards.shards[0], layer)
        start = rebuild_start(
            file.provenance.settings, training_shards(file, str(path), shards.shards), layer, str(path)
        )
        for kind, uid, sae in (("sae", file.provenance.uid, st.load_sae(path)), (UNTRAINED, "", start)):
            of_scorer = rows_of_scorer(
                args.table, table, uid=uid, kind=kind, n_prototypes=sae.n_prototypes, layer=layer
            )
            latent_of, ap_train = latents_of(of_scorer[of_scorer["seed"] == seed], head.names)
            for attribute in training.attributes(sae, latent_of, probe, args.draws, seed):
                name = head.names[attribute.column]
                if kind == UNTRAINED:
                    attribute = replace(attribute, controls={})
                for change in (REMOVED, ADDED):
                    n_pairs = len(pairs.of(change, attribute.column))
                    if n_pairs < args.least:
                        continue
                    found = compare(network, sae, pictures, attribute, change, args.resamples)
                    for control, measures in found.items():
                        control = OF_UNTRAINED[control] if kind == UNTRAINED else control
                        measured[name, change, seed, control] = measures
                        ends = [(one, interval(measures[one])) for one in MEASURES]
                        rows.append(
                            {
                                "attribute": name,
                                "change": change,
                                "control": control,
                                "seed": seed,
                                "latent": attribute.latent,
                                "ap_train": ap_train[attribute.column],
                                "amount": 0.0 if change == REMOVED else attribute.amount,
                                "pairs": n_pairs,
                                "follows": follows(pictures, change, attribute.column),
                                **{one: value for one, (value, _, _) in ends},
                                **{f"{one}_low": low for one, (_, low, _) in ends},
                                **{f"{one}_high": high for one, (_, _, high) in ends},
                            }
                        )
    return pd.DataFrame(rows), measured


def summary(table: pd.DataFrame, measured: Measured) -> str:
    """Means over the attributes of a table, with intervals over images; mean over seeds and standard deviation."""
    lines = []
    for change in (REMOVED, ADDED):
        for control in (*CONTROLS, *CEILINGS):
            here = table[(table["change"] == change) & (table["control"] == control)]
            if here.empty:
                continue
            cells: list[object] = [change, control]
            for one in MEASURES[:3]:
                of_seed = [
                    np.nanmean(
                        [measured[name, change, seed, control][one] for name in part["attribute"]], axis=0
                    )
                    for seed, part in here.groupby("seed")
                ]
                value, low, high = interval(np.mean(of_seed, axis=0))
                spread = np.std([values[0] for values in of_seed], ddof=1) if len(of_seed) > 1 else np.nan
                cells += [f"{value:.2f} [{low:.2f}, {high:.2f}]", f"{spread:.2f}"]
            lines.append([*cells, float(here["ratio"].median())])
    head = [
        "change",
        "moved along",
        "r_images",
        "sd",
        "r_attributes",
        "sd",
        "direction",
        "sd",
        "ratio (median)",
    ]
    return render_markdown(head, lines)


def best_attributes(table: pd.DataFrame, measure: str) -> str:
    """One measure for the attributes whose latents have the highest AP in training; means over seeds."""
    own = table[table["control"] == LATENT]
    ranked = own.groupby("attribute")["ap_train"].mean().sort_values(ascending=False, kind="stable")
    both = own.groupby("attribute")["change"].nunique() == 2
    lines = []
    for attribute in [name for name in ranked.index if both[name]][:BEST]:
        for change in (REMOVED, ADDED):
            here = table[(table["attribute"] == attribute) & (table["change"] == change)]
            means = here.groupby("control")[[measure, f"{measure}_low", f"{measure}_high"]].mean()
            value, low, high = means.loc[LATENT]
            rest = [f"{means[measure][name]:.2f}" for name in CONTROLS[1:]]
            first = here.iloc[0]
            cells = [attribute.removeprefix("has_"), change, int(first["pairs"]), f"{first['follows']:.2f}"]
            lines.append([*cells, f"{value:.2f} [{low:.2f}, {high:.2f}]", *rest])
    return render_markdown([measure, "change", "pairs", "follows", *CONTROLS], lines)


def report(table: pd.DataFrame, measured: Measured) -> str:
    own = table[(table["control"] == LATENT) & (table["seed"] == table["seed"].min())]
    parts = []
    for what, least in (
        ("all attributes", 0.0),
        (f"those whose head follows in {FOLLOWS:.0%} of pairs", FOLLOWS),
    ):
        counts = [
            f"{len(part)} {change} in {part['pairs'].sum():,} pairs, of which the head follows"
            f" {(part['follows'] * part['pairs']).sum() / part['pairs'].sum():.0%}"
            for change, part in sorted(own[own["follows"] >= least].groupby("change"), reverse=True)
        ]
        parts += [f"{what}: {'; '.join(counts)}", summary(table[table["follows"] >= least], measured)]
    return "\n\n".join([*parts, *(best_attributes(table, one) for one in MEASURES[:3])])


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare edits of latents with birds drawn again.")
    parser.add_argument("pairs", type=Path, help="what make_pairs.py made")
    parser.add_argument("--train", type=Path, required=True, help="training shards of both layers")
    parser.add_argument("--traits", type=Path, required=True, help="what make_birds.py made")
    parser.add_argument("--table", type=Path, required=True, help="AP table of the SAEs and untrained ones")
    parser.add_argument("--sae", required=True, help="scorer files, with {seed}")
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], required=True)
    parser.add_argument(
        "--head", type=Path, required=True, help="of the attributes, on the mean of a later layer"
    )
    parser.add_argument("--probe", type=Path, required=True, help="the same on the mean of the SAEs' layer")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--draws", type=int, default=3, help="of each random control (default 3)")
    parser.add_argument("--least", type=int, default=15, help="pairs that an attribute needs (default 15)")
    parser.add_argument(
        "--resamples", type=int, default=500, help="of the images, for intervals (default 500)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    args = parser.parse_args()
    try:
        table, measured = measure(args)
        write_text(args.out, table.to_csv(index=False))
    except UserError as error:
        print(f"compare_edits: error: {error}", file=sys.stderr)
        return 1
    print(report(table, measured))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
