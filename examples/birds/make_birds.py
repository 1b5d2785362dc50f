"""Make the example data set: drawn birds in the layout of CUB-200-2011.

    python make_birds.py data/birds [--seed 0] [--count 25]

The same seed and count give the same bytes (with the same versions of numpy and Pillow). The folder appears under
its name when it is complete; one that is there already is left alone.
"""

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from annotations import ATTRIBUTES, CERTAINTIES, NOT_VISIBLE, Answers, annotate
from canvas import PARTS
from drawing import LANDMARKS, Picture, draw_bird
from PIL import Image
from species import SPECIES

VERSION = 1  # of the drawings and answers: raised with each change of what is drawn or written
CLASSES = [f"{i + 1:03d}.{s.name.replace(' ', '_')}" for i, s in enumerate(SPECIES)]
EXTRA_FIELDS = (
    12  # about so many lines of image_attribute_labels.txt have six or seven fields instead of five
)
# One colour per part, for whoever opens a mask in an image viewer.
PALETTE = (
    (0, 0, 0), (244, 162, 40), (255, 255, 255), (214, 60, 60), (238, 130, 140), (250, 200, 90), (160, 90, 60),
    (120, 190, 90), (60, 140, 90), (90, 110, 160), (70, 150, 220), (150, 90, 190), (200, 200, 120),
)  # fmt: skip


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def label_lines(image_id: int, answers: Answers, rng: np.random.Generator, odd_share: float) -> list[str]:
    """Lines `image attribute is_present certainty time`; a few have one or two stray fields before the time."""
    stray = rng.random(len(ATTRIBUTES))
    rows = zip(answers.present_t, answers.certainty_t, answers.seconds_t, stray, strict=True)
    return [
        f"{image_id} {t + 1} {present} {certainty} "
        f"{'1 0 ' if s < odd_share / 2 else '0 ' if s < odd_share else ''}{seconds:g}"
        for t, (present, certainty, seconds, s) in enumerate(rows)
    ]


def save_pictures(root: Path, stem: str, picture: Picture) -> None:
    """The picture as JPEG, its part mask as an 8-bit palette PNG whose values are the part ids."""
    mask = root / "segmentations" / f"{stem}.png"
    save_image(root / "images" / f"{stem}.jpg", picture)
    mask.parent.mkdir(parents=True, exist_ok=True)
    indexed = Image.fromarray(picture.mask_hw)
    indexed.putpalette([channel for colour in PALETTE for channel in colour])
    indexed.save(mask)


def save_image(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.rgb_hw3).save(path, quality=90)


def box(picture: Picture) -> tuple[float, float, float, float]:
    """x, y, width, height of the bird in pixels."""
    y, x = np.nonzero(picture.mask_hw)
    return float(x.min()), float(y.min()), float(np.ptp(x) + 1), float(np.ptp(y) + 1)


def class_percentages(present_nt: np.ndarray, certainty_nt: np.ndarray) -> list[str]:
    """Per class (a line), the per cent of its images with each attribute, of those where it could be seen."""
    per_class = len(present_nt) // len(SPECIES)
    shape = (len(SPECIES), per_class, len(ATTRIBUTES))
    visible = (certainty_nt != NOT_VISIBLE).reshape(shape)
    present = (present_nt.reshape(shape) > 0) & visible
    percent_ct = 100 * present.sum(1) / np.maximum(visible.sum(1), 1)
    return [" ".join(f"{value:.10g}" for value in row) for row in percent_ct]


def make(root: Path, seed: int, count: int) -> None:
    """Draw and write everything under root: `count` images of each species, half of them for training."""
    names: list[str] = []
    labels: list[str] = []
    split: list[str] = []
    boxes: list[str] = []
    attributes: list[str] = []
    parts: list[str] = []
    present: list[list[int]] = []
    certainty: list[list[int]] = []
    odd_share = EXTRA_FIELDS / (len(SPECIES) * count * len(ATTRIBUTES))
    for c, name in enumerate(CLASSES):
        rng = np.random.default_rng([seed, 1_000_000 + c])  # of what is written; each drawing has its own
        train = set(rng.permutation(count)[: (count + 1) // 2].tolist())
        for i in range(count):
            picture = draw_bird(seed, c, i)
            image_id = len(names) + 1
            stem = f"{name}/{name[4:]}_{i + 1:04d}"
            save_pictures(root, stem, picture)
            names.append(f"{image_id} {stem}.jpg")
            labels.append(f"{image_id} {c + 1}")
            split.append(f"{image_id} {int(i in train)}")
            boxes.append(f"{image_id} " + " ".join(f"{value:.1f}" for value in box(picture)))
            answers = annotate(picture, rng)
            present.append(answers.present_t)
            certainty.append(answers.certainty_t)
            attributes += label_lines(image_id, answers, rng, odd_share)
            for k, landmark in enumerate(LANDMARKS):
                x, y = picture.landmarks.get(landmark, (0.0, 0.0))
                parts.append(f"{image_id} {k + 1} {x:.1f} {y:.1f} {int(landmark in picture.landmarks)}")
    write_lines(root / "images.txt", names)
    write_lines(root / "image_class_labels.txt", labels)
    write_lines(root / "train_test_split.txt", split)
    write_lines(root / "classes.txt", [f"{c + 1} {name}" for c, name in enumerate(CLASSES)])
    write_lines(root / "bounding_boxes.txt", boxes)
    write_lines(root / "attributes/attributes.txt", [f"{t + 1} {name}" for t, name in enumerate(ATTRIBUTES)])
    write_lines(root / "attributes/certainties.txt", [f"{k} {name}" for k, name in CERTAINTIES.items()])
    write_lines(root / "attributes/image_attribute_labels.txt", attributes)
    for side, name in (
        ("1", "train"),
        ("0", "test"),
    ):  # the same images with their part masks, for patch labels
        fields = [
            (n.split()[1], c.split()[1], s.split()[1]) for n, c, s in zip(names, labels, split, strict=True)
        ]
        rows = [
            f"images/{image},{int(c) - 1},segmentations/{image.removesuffix('.jpg')}.png"
            for image, c, s in fields
            if s == side
        ]
        write_lines(root / f"parts-{name}.csv", ["path,target,mask", *rows])
    percentages = class_percentages(np.array(present), np.array(certainty))
    write_lines(root / "attributes/class_attribute_labels_continuous.txt", percentages)
    write_lines(root / "parts/parts.txt", [f"{k + 1} {name}" for k, name in enumerate(LANDMARKS)])
    write_lines(root / "parts/part_locs.txt", parts)
    write_lines(root / "segmentations/classes.txt", PARTS)
    with (root / "class_scientific_names.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["class_id", "cub_class", "genus_species"])
        table.writerows((c + 1, CLASSES[c], s.scientific_name) for c, s in enumerate(SPECIES))


def main() -> int:
    parser = argparse.ArgumentParser(description="Make drawn birds in the layout of CUB-200-2011.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make, e.g. data/birds")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other birds (default 0)")
    parser.add_argument(
        "--count", type=int, default=25, help="images per species (default 25, so 600 in all)"
    )
    args = parser.parse_args()
    if args.seed < 0 or args.count < 2:
        parser.error("--seed must be 0 or more, --count 2 or more")
    settings = {"made_by": "make_birds.py", "version": VERSION, "seed": args.seed, "count": args.count}
    if (status := made_folder(args.out, settings, lambda root: make(root, args.seed, args.count))) is None:
        print(f"{args.out}: {args.count * len(SPECIES)} images of {len(SPECIES)} species", file=sys.stderr)
    return status or 0


def made_folder(out: Path, settings: Mapping[str, Any], fill: Callable[[Path], None]) -> int | None:
    """Let `fill` write into a new folder, which appears as `out` when it is complete, with the settings in it.

    None if it was made; 0 if it is there already with these settings, 1 if with others; both are said.
    """
    note = out / "made_by.json"
    if out.exists():
        found = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
        if found == settings:
            print(f"{out}: is there already, with the same settings; nothing to do", file=sys.stderr)
            return 0
        what = f"was made with {found}" if found else "holds something else"
        program = str(settings["made_by"]).removesuffix(".py")
        print(f"{program}: error: {out}: {what}; asked for {settings}.", file=sys.stderr)
        print("Remove it, or name another folder.", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        fill(unfinished)
        write_lines(unfinished / note.name, [json.dumps(settings)])
        unfinished.chmod(0o777 & ~_umask())
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


if __name__ == "__main__":
    raise SystemExit(main())
