"""One bird of each species on a sheet, for the README: python contact_sheet.py contact-sheet.jpg

With a folder of make_pairs.py, pairs instead, each bird above itself redrawn:
python contact_sheet.py pairs.jpg data/birds-pairs
"""

import csv
import sys
from pathlib import Path

from drawing import draw_bird
from PIL import Image, ImageOps
from species import SPECIES

COLUMNS, CELL, GAP = 6, (160, 128), 4
BEST_VIEW = {"Noctilla": "front", "Stilus": "flying"}  # of the others: side
PAIRS = (  # added, removed; the first pair of each with a landscape picture
    ("crown_color::red", ""), ("head_pattern::crested", ""), ("breast_pattern::spotted", ""),
    ("bill_shape::hooked", ""), ("wing_color::blue", ""), ("head_pattern::masked", ""),
    ("", "head_pattern::eyering"), ("tail_shape::forked_tail", ""), ("wing_pattern::striped", ""),
    ("leg_color::orange", ""), ("breast_color::yellow", ""), ("", "head_pattern::crested"),
)  # fmt: skip


def species_sheet() -> list[Image.Image]:
    chosen = []
    for c, species in enumerate(SPECIES):
        pictures = (draw_bird(0, c, i) for i in range(25))
        wanted = BEST_VIEW.get(species.genus, "side")
        chosen.append(
            next(
                Image.fromarray(p.rgb_hw3)
                for p in pictures
                if p.bird.view == wanted
                and p.bird.plumage == species.male
                and p.rgb_hw3.shape[1] > p.rgb_hw3.shape[0]
            )
        )
    return chosen


def pairs_sheet(root: Path) -> list[Image.Image]:
    """A row of pictures as they are, below it the same ones redrawn, and so on."""
    with (root / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pairs, birds = [], set()
    for added, removed in PAIRS:
        for row in rows:
            if row["before"].split("/")[1] in birds or not (
                row["added"].endswith(added) and row["removed"].endswith(removed)
            ):
                continue
            before, after = (Image.open(root / row[name]) for name in ("before", "after"))
            if before.width > before.height:
                birds.add(row["before"].split("/")[1])
                pairs.append((before, after))
                break
    lines = [pairs[i : i + COLUMNS] for i in range(0, len(pairs), COLUMNS)]
    return [pair[side] for line in lines for side in (0, 1) for pair in line]


def main(path: str, pairs: str | None = None) -> None:
    pictures = species_sheet() if pairs is None else pairs_sheet(Path(pairs))
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL[0] + GAP) - GAP, rows * (CELL[1] + GAP) - GAP), "white")
    for i, picture in enumerate(pictures):
        cell = ImageOps.fit(picture, CELL, Image.Resampling.LANCZOS)
        sheet.paste(cell, (i % COLUMNS * (CELL[0] + GAP), i // COLUMNS * (CELL[1] + GAP)))
    sheet.save(path, quality=85, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
