"""Compares a table computed on another device with the CPU's: largest differences in AP, and mAP of every scorer.

    make device-check DEVICE=cuda                       # makes both tables from the images on, and calls this
    python benchmarks/device_chain.py CPU_OUT OTHER_OUT  # two folders with ap-*-layer*.csv

Prints Markdown; exits with 1 if the tables have different rows, or the mAP of a scorer differs by more than its
tolerance. Scorers that are drawn at random or computed directly may differ by rounding (and by `dump-acts --precision
auto`, which is float16 on a GPU). Trained scorers diverge after the first rounding difference; their tolerance is
about the range of mAP over seeds. APs of single traits are printed but not tested, since near ties can change the
prototype.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

ROW = ["layer", "scorer", "n_prototypes", "seed", "n_train"]
TOLERANCE = 0.005
TRAINED = {"sae": 0.03, "kmeans": 0.03}
SHOWN = 10


def read_tables(folder: Path) -> pd.DataFrame:
    """The AP tables of all layers in a folder, one after the other."""
    paths = sorted(folder.glob("ap-*-layer*.csv"), key=lambda path: int(re.findall(r"\d+", path.stem)[-1]))
    if not paths:
        sys.exit(f"{folder}: no ap-*-layer*.csv; give the OUT of `make cub200-table`")
    return pd.concat([pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in paths])


def compare(cpu: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(per scorer, per trait) mAP or AP of both, their difference and, per scorer, what is allowed.

    Raises ValueError where the tables are not of the same scorers and traits.
    """
    keys = [*ROW, "trait", "prevalence"]
    if not cpu[keys].reset_index(drop=True).equals(other[keys].reset_index(drop=True)):
        raise ValueError("the tables are not of the same layers, scorers, images and traits")
    traits = cpu[[*ROW, "trait"]].assign(cpu=cpu["ap"].array, other=other["ap"].array)
    scorers = traits.groupby(ROW, sort=False, dropna=False)[["cpu", "other"]].mean().reset_index()
    for table in (scorers, traits):
        table["difference"] = (table["other"] - table["cpu"]).abs()
    scorers["allowed"] = scorers["scorer"].map(TRAINED).fillna(TOLERANCE)
    return scorers, traits.sort_values("difference", ascending=False, kind="stable")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cpu", type=Path)
    parser.add_argument("other", type=Path)
    given = parser.parse_args(arguments)
    try:
        scorers, traits = compare(read_tables(given.cpu), read_tables(given.other))
    except ValueError as error:
        print(f"{given.cpu}, {given.other}: {error}", file=sys.stderr)
        return 1
    print("mAP of every scorer:\n")
    _print_markdown(scorers)
    print("\nThe largest differences in AP:\n")
    _print_markdown(traits.head(SHOWN))
    far = ~(scorers["difference"] <= scorers["allowed"])
    if far.any():
        print(f"\n{far.sum()} of {len(scorers)} rows differ by more than is allowed", file=sys.stderr)
    return int(far.any())


def _print_markdown(table: pd.DataFrame) -> None:
    print("| " + " | ".join(table.columns) + " |")
    print("|" + "---|" * table.shape[1])
    for row in table.itertuples(index=False):
        print(
            "| " + " | ".join(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
        )


if __name__ == "__main__":
    sys.exit(main())
