"""Whether two versions of the tools write the same bytes: the drawn birds from images to table, probes, page and sweep.

    git worktree add /tmp/before COMMIT && make -C /tmp/before setup
    python tests/same_bytes.py /tmp/before .venv

Each argument is an environment (a folder with bin/dump-acts in it) or a checkout with a .venv. Both run the same
commands in folders of their own; then every file is compared. Left out is what differs from run to run (uids, times,
the rates of training) and the record of the command and its settings. Prints the parts that differ, and exits with 1
if there are any. Compare on one machine: another CPU rounds
other sums.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.written_files import digests

ROOT = Path(__file__).resolve().parent.parent
MODEL = ["--model", "timm/test_vit2", "--weights", "examples/birds/vit.safetensors", "--workers", "0"]


def steps() -> Iterator[list[str | Path]]:
    """The commands, in order, as they are run in an empty folder."""
    yield ["python", "examples/birds/make_birds.py", "birds", "--count", "6"]
    for split in ("train", "test"):
        yield ["dump-acts", "birds", "--split", split, "--layers", "3,7", "--out", f"acts/{split}", *MODEL]
        yield ["dump-acts", f"birds/parts-{split}.csv", "--layers", "7", "--out", f"tokens/{split}", *MODEL]
    yield [
        "dump-acts",
        "birds",
        "--split",
        "test",
        "--layers",
        "7",
        "--dtype",
        "int8",
        "--out",
        "acts/int8",
        *MODEL,
    ]
    train = [
        "train-sae",
        "acts/train",
        "--val",
        "acts/test",
        "--layer",
        "7",
        "--d-sae",
        "256",
        "--tokens",
        "60k",
    ]
    yield [*train, "--k", "8", "--batch-size", "1024", "--out", "topk.h5"]
    yield [
        *train,
        "--k",
        "8",
        "--aux-k",
        "16",
        "--dead-after",
        "5k",
        "--batch-size",
        "512",
        "--out",
        "auxk.h5",
    ]
    yield [*train, "--activation", "relu", "--l1", "1e-2", "--batch-size", "1024", "--out", "relu.h5"]
    yield [
        *train,
        "--activation",
        "relu",
        "--l1",
        "3e-2",
        "--start-l0",
        "16",
        "--batch-size",
        "512",
        "--out",
        "sparse.h5",
    ]
    yield [*train, "--activation", "jumprelu", "--l0", "1e-3", "--batch-size", "1024", "--out", "jump.h5"]
    yield [*train, "--activation", "batchtopk", "--k", "8", "--objective", "matryoshka", "--out", "batch.h5"]
    yield [
        *train,
        "--optimizer",
        "muon",
        "--k",
        "8",
        "--normalize",
        "mean",
        "--b-dec",
        "geometric-median",
        "--out",
        "muon.h5",
    ]
    yield [*train, "--batch-size", "1024", "--grid", "seed=0,1 k=8,16", "--out", "grid"]
    specs = [
        "const",
        "units-both",
        "pca-both:16",
        "random:64",
        "random-centred:64",
        "kmeans:64",
        "linear",
        "untrained:topk.h5",
    ]
    scorers = [part for spec in [*specs, "topk.h5", "relu.h5"] for part in ("--scorer", spec)]
    yield [
        "score-traits",
        "--train",
        "acts/train",
        "--test",
        "acts/test",
        "--traits",
        "birds",
        "--layer",
        "7",
        *scorers,
        "--n-train",
        "8,all",
        "--repeats",
        "2",
        "--summary",
        "--save-scorer",
        "fitted",
        "--out",
        "ap.csv",
    ]
    yield [
        "score-traits",
        "--train",
        "tokens/train",
        "--test",
        "tokens/test",
        "--patch-traits",
        "--scorer",
        "random:64",
        "--scorer",
        "kmeans:64",
        "--bootstrap",
        "50",
        "--out",
        "ap-patches.csv",
    ]
    for labels in ("patch", "target"):
        splits = ["--train", "tokens/train", "--test", "tokens/test"]
        yield ["fit-heads", *splits, "--labels", labels, "--folds", "3", "--out", f"heads/{labels}.h5"]
    for scorer in ("topk", "relu"):
        for split in ("train", "test"):
            yield [
                "encode-acts",
                f"tokens/{split}",
                "--scorer",
                f"{scorer}.h5",
                "--out",
                f"latents/{scorer}/{split}",
            ]
        of = ["--train", f"latents/{scorer}/train", "--test", f"latents/{scorer}/test"]
        yield ["fit-probes", *of, "--out", f"probes/{scorer}"]
    yield [
        "encode-acts",
        "tokens/test",
        "--scorer",
        "fitted/layer7-kmeans-64-seed0.h5",
        "--out",
        "latents/kmeans",
    ]
    yield [
        "audit-latents",
        "--train",
        "latents/topk/train",
        "--test",
        "latents/topk/test",
        "--labels",
        "target",
        "--out",
        "audit",
    ]
    page = ["latents/topk/test", "--images", "birds"]  # without the names of parts, whose option was renamed
    yield [
        "render-visuals",
        "page",
        *page,
        "--scorer",
        "topk.h5",
        "--table",
        "probes/topk/latents.csv",
        "--out",
        "page",
    ]
    yield ["render-visuals", "latents", *page, "--random", "6", "--spread", "--out", "pictures"]
    for kind, tables in (("map", ["ap.csv"]), ("traits", ["ap.csv"]), ("training", ["relu.metrics.csv"])):
        yield ["render-visuals", "plot", kind, *tables, "--out", f"{kind}.svg"]
    yield ["convert-sae", "topk.h5", "topk.pt"]
    yield ["convert-sae", "relu.h5", "saelens"]
    yield ["convert-sae", "topk.pt", "back.h5"]
    yield ["collect-runs", "ap.csv", "--sort", "-map", "--out", "runs.csv"]
    yield ["collect-runs", "ap.csv", "--by", "scorer", "--format", "markdown"]
    yield ["check-files", "acts", "tokens", "topk.h5", "latents", "probes", "ap.csv", "runs.csv"]
    sweep = [
        "expand-sweep",
        "sweeps/birds.yml",
        "--set",
        f"weights={MODEL[3]}",
        "--set",
        "count=3",
        "--set",
        "layers=[7]",
        "--set",
        "tokens=20k",
        "--set",
        "d_sae=64",
        "--set",
        "ks=[8]",
        "--set",
        "n_train=[16, all]",
        "--set",
        "cub=birds",
    ]
    yield [*sweep]
    yield [*sweep, "--steps"]
    yield [*sweep, "--make"]
    yield [*sweep, "--sbatch", "slurm", "--max-array", "4"]
    for step in ("dump", "train", "score", "table"):
        yield ["bash", "-euo", "pipefail", "-c", f"{_quoted([*sweep, '--step', step])} | bash -eu"]


def _quoted(command: list[Any]) -> str:
    return shlex.join(map(str, command))


def tools_of(environment: Path) -> Path:
    """The folder of an environment's commands."""
    places = (environment / "bin", environment / ".venv/bin")
    return next(place for place in places if (place / "dump-acts").exists()).resolve()


def run_all(environment: Path, folder: Path) -> None:
    """Run the steps with the tools of `environment`; what each prints is kept as NN.stdout."""
    bin_folder = next(
        b for b in (environment / "bin", environment / ".venv/bin") if (b / "dump-acts").exists()
    )
    path = f"{bin_folder.resolve()}{os.pathsep}{os.environ['PATH']}"
    for name in ("examples", "sweeps"):
        (folder / name).symlink_to(ROOT / name)
    for number, step in enumerate(steps()):
        sys.stderr.write(f"{environment}: {' '.join(map(str, step))[:150]}\n")
        done = subprocess.run(
            [str(part) for part in step],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{environment}: exit code {done.returncode}: {_quoted(step)}\n{done.stderr}")
        (folder / f"{number:02}.stdout").write_text(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "before", type=Path, help="environment of the one version, or digests that --save wrote"
    )
    parser.add_argument("after", type=Path, nargs="?", help="environment of the other version")
    parser.add_argument("--save", type=Path, help="write the digests of the first to this file, for later")
    arguments = parser.parse_args()
    found = []
    for environment in filter(None, [arguments.before, arguments.after]):
        if environment.is_file():
            found.append(json.loads(environment.read_text()))
            continue
        with tempfile.TemporaryDirectory(prefix="same-bytes-") as folder:
            run_all(environment, Path(folder))
            places = [(folder.encode(), b"FOLDER"), (str(tools_of(environment)).encode(), b"TOOLS")]
            found.append(digests(Path(folder), places))
    if arguments.save:
        arguments.save.write_text(json.dumps(found[0], indent=1, sort_keys=True) + "\n")
    if len(found) < 2:
        return 0
    before, after = found
    different = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    for name in different:
        print(f"{name}: {before.get(name, 'absent')} became {after.get(name, 'absent')}")  # noqa: T201
    sys.stderr.write(f"{len({*before, *after})} parts of files compared, {len(different)} differ\n")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
