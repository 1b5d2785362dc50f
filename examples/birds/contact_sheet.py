"""One bird of each species on a sheet, for the README: python contact_sheet.py contact-sheet.jpg"""

import sys

from drawing import draw_bird
from PIL import Image, ImageOps
from species import SPECIES

COLUMNS, CELL, GAP = 6, (160, 128), 4
BEST_VIEW = {"Noctilla": "front", "Stilus": "flying"}  # of the others: side


def main(path: str) -> None:
    rows = -(-len(SPECIES) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL[0] + GAP) - GAP, rows * (CELL[1] + GAP) - GAP), "white")
    for c, species in enumerate(SPECIES):
        pictures = (draw_bird(0, c, i) for i in range(25))
        wanted = BEST_VIEW.get(species.genus, "side")
        picture = next(
            p
            for p in pictures
            if p.bird.view == wanted
            and p.bird.plumage == species.male
            and p.rgb_hw3.shape[1] > p.rgb_hw3.shape[0]
        )
        cell = ImageOps.fit(Image.fromarray(picture.rgb_hw3), CELL, Image.Resampling.LANCZOS)
        sheet.paste(cell, (c % COLUMNS * (CELL[0] + GAP), c // COLUMNS * (CELL[1] + GAP)))
    sheet.save(path, quality=85, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
