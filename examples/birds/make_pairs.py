"""Draw birds of the test split again with one attribute added, removed or swapped, and everything else decided alike.

    python make_pairs.py data/birds-pairs --birds data/birds [--pairs 40]

OUT/images holds the pictures, OUT/pairs.csv which belong together: before, after (paths below OUT), added, removed
(names of attributes; one of them may be empty). `before` is the picture of the data set, byte for byte. A pair is kept
if the drawn truth of every other attribute stays the same, with the same parts in sight, and the change can be seen.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from annotations import ATTRIBUTES, GROUPS
from drawing import Picture, draw_again
from make_birds import CLASSES, made_folder, save_image
from species import Bird, Genus

VERSION = 1  # of the pairs: raised with each change of which are drawn, or how
SEEN = 20  # pixels that a change has to paint otherwise
VALUES = {group.name: group.values for group in GROUPS}
# Groups whose values can be changed alone, and what holds them; the others follow from several parts.
WORN = {
    "has_wing_color": "wing", "has_breast_color": "breast", "has_leg_color": "leg", "has_bill_color": "bill",
    "has_crown_color": "crown", "has_wing_pattern": "wing_pattern", "has_breast_pattern": "breast_pattern",
}  # fmt: skip
SHAPES = {"has_bill_shape": "bill_shape", "has_tail_shape": "tail_shape"}
MARKS = "has_head_pattern"


@dataclass(frozen=True)
class Change:
    """Makes another bird of a bird; added and removed are the attributes that this should change, or empty."""

    apply: Callable[[Bird], Bird]
    added: str
    removed: str


def changes(bird: Bird) -> Iterator[Change]:
    """Everything about a bird that can be drawn otherwise alone. Whether it can be seen, the picture tells."""
    for name, part in WORN.items():
        now = str(getattr(bird.plumage, part))
        for value in VALUES[name]:
            if value != now:
                yield _change(_wearing(part, value), name, value, now)
    for name, part in SHAPES.items():
        now = str(getattr(bird.genus, part))
        for value in VALUES[name]:
            if value != now:
                yield _change(_shaped(part, value), name, value, now)
    worn = bird.plumage.head_marks
    for mark in VALUES[MARKS]:
        if mark in worn:
            rest = tuple(other for other in worn if other != mark)
            yield _change(_wearing("head_marks", rest), MARKS, "" if rest else "plain", mark)
        elif mark != "plain":
            yield _change(_wearing("head_marks", (*worn, mark)), MARKS, mark, "" if worn else "plain")


def _wearing(part: str, value: object) -> Callable[[Bird], Bird]:
    def apply(bird: Bird) -> Bird:
        return replace(bird, plumage=replace(bird.plumage, **{part: value}))  # type: ignore[arg-type]

    return apply


def _shaped(part: str, value: str) -> Callable[[Bird], Bird]:
    def apply(bird: Bird) -> Bird:
        genus: Genus = replace(bird.genus, **{part: value})  # type: ignore[arg-type]
        return replace(bird, genus=genus)

    return apply


def _change(apply: Callable[[Bird], Bird], group: str, added: str, removed: str) -> Change:
    named = [f"{group}::{value}" if value in VALUES[group] else "" for value in (added, removed)]
    return Change(apply, *named)


def truth(picture: Picture) -> set[str]:
    """The attributes of what is drawn, without an annotator's errors; of groups whose part is in sight."""
    seen = [group for group in GROUPS if group.visible(picture)]
    return {f"{g.name}::{value}" for g in seen for value in g.truth(picture) if value in g.values}


def in_sight(picture: Picture) -> set[str]:
    return {group.name for group in GROUPS if group.visible(picture)}


def changed_alone(before: Picture, after: Picture, change: Change) -> bool:
    """Whether exactly these attributes differ, the same groups can be seen, and enough pixels are painted otherwise."""
    was, now = truth(before), truth(after)
    return (
        now - was == {change.added} - {""}
        and was - now == {change.removed} - {""}
        and in_sight(before) == in_sight(after)
        and int((before.rgb_hw3 != after.rgb_hw3).any(2).sum()) >= SEEN
    )


def choose(
    pictures: dict[tuple[int, int], Picture], n_pairs: int, rng: np.random.Generator
) -> dict[tuple[int, int], list[Change]]:
    """Changes by individual, so that each attribute is removed and added about n_pairs times where there are so many.

    An individual is taken once at most for each attribute that is to be removed, and once for each to be added; what
    comes in its place, or goes for it, is what was least often taken so far.
    """
    chosen: dict[tuple[int, int], list[Change]] = {key: [] for key in pictures}
    of_bird = {}
    for key, picture in pictures.items():
        present, seen = truth(picture), in_sight(picture)
        of_bird[key] = [
            one
            for one in changes(picture.bird)
            if (one.added or one.removed).split("::")[0] in seen
            and one.added not in present
            and (not one.removed or one.removed in present)
        ]
    counts: Counter[tuple[str, str]] = Counter()
    for side, other in (("removed", "added"), ("added", "removed")):
        for attribute in ATTRIBUTES:
            keys = list(pictures)
            for i in rng.permutation(len(keys)).tolist():
                if counts[side, attribute] >= n_pairs:
                    break
                fitting = [
                    one
                    for one in of_bird[keys[i]]
                    if getattr(one, side) == attribute and one not in chosen[keys[i]]
                ]
                if fitting:
                    least = [counts[other, getattr(one, other)] for one in fitting]
                    best = [one for one, n in zip(fitting, least, strict=True) if n == min(least)]
                    one = best[int(rng.integers(len(best)))]
                    chosen[keys[i]].append(one)
                    counts["added", one.added] += 1
                    counts["removed", one.removed] += 1
    return chosen


def test_birds(birds: Path) -> tuple[int, list[tuple[int, int]]]:
    """The data set's seed, and its test images as (species, number), from 0."""
    note = birds / "made_by.json"
    if not note.is_file():
        raise SystemExit(f"make_pairs: error: {birds}: no made_by.json; expected what make_birds.py made")
    made_by = json.loads(note.read_text(encoding="utf-8"))
    split = [line.split()[1] for line in (birds / "train_test_split.txt").read_text().splitlines()]
    rows = [divmod(row, made_by["count"]) for row, side in enumerate(split) if side == "0"]
    return int(made_by["seed"]), rows


def make(root: Path, birds: Path, n_pairs: int) -> None:
    seed, individuals = test_birds(birds)
    as_they_are = {key: draw_again(seed, *key, [])[0] for key in individuals}
    chosen = choose(as_they_are, n_pairs, np.random.default_rng([seed, 2_000_000]))
    rows = []
    for (species, number), wanted in chosen.items():
        before, *afters = draw_again(seed, species, number, [one.apply for one in wanted])
        kept = [(p, one) for p, one in zip(afters, wanted, strict=True) if changed_alone(before, p, one)]
        if not kept:
            continue
        stem = f"images/{CLASSES[species]}/{CLASSES[species][4:]}_{number + 1:04d}"
        save_image(root / f"{stem}.jpg", before)
        if (root / f"{stem}.jpg").read_bytes() != (birds / f"{stem}.jpg").read_bytes():
            raise SystemExit(
                f"make_pairs: error: {birds / stem}.jpg: drawn again it has other bytes; it comes from other"
                " versions of numpy or Pillow, so remove the folder and make it again"
            )
        for i, (picture, one) in enumerate(kept):
            after = f"{stem}-{i + 1:02d}.jpg"
            save_image(root / after, picture)
            rows.append((f"{stem}.jpg", after, one.added, one.removed))
    with (root / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["before", "after", "added", "removed"])
        table.writerows(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw birds again with one attribute changed.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make, e.g. data/birds-pairs")
    parser.add_argument("--birds", type=Path, required=True, help="what make_birds.py made, e.g. data/birds")
    parser.add_argument(
        "--pairs", type=int, default=40, help="of each attribute added, and removed (default 40)"
    )
    args = parser.parse_args()
    if args.pairs < 1:
        parser.error("--pairs must be 1 or more")
    test_birds(args.birds)
    made_by = json.loads((args.birds / "made_by.json").read_text(encoding="utf-8"))
    settings = {"made_by": "make_pairs.py", "version": VERSION, "pairs": args.pairs, "birds": made_by}
    if (status := made_folder(args.out, settings, lambda root: make(root, args.birds, args.pairs))) is None:
        n = len((args.out / "pairs.csv").read_text().splitlines()) - 1
        print(f"{args.out}: {n} pairs", file=sys.stderr)
    return status or 0


if __name__ == "__main__":
    raise SystemExit(main())
