"""dump-acts against a bare loop: the same model on the same images, decoded the same way, with nothing stored.

    python benchmarks/dump.py IMAGES --weights vit_tiny_patch16_224.safetensors [--out FOLDER]

Records all layers of a ViT-Ti/16. The two alternate for `--rounds` rounds; the ratio is that of the fastest rounds.
The peak memory of the dump-acts process is measured for a quarter of the images and for all of them.

Measured on 2 cores (AVX-512), 1,000 birds of CUB-200-2011, float16, all 12 layers, three rounds: bare loop 19.57 s,
dump-acts 20.06 s, 1.025 times as long. Peak memory 1,589 MB, the same for 250 and for 1,000 images.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from dump_acts.decoding import Decoding, decode
from dump_acts.plan import Contents, Plan, default_images_per_shard
from dump_acts.recording import RunSettings, record
from saetools.cli.slices import WHOLE
from saetools.vision.image_sets import ImageSet, list_images
from saetools.vision.models import VisionModel, load_model, outline_model

MODEL = "timm/vit_tiny_patch16_224"
HALF = [0.5, 0.5, 0.5]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=None, help="a folder on the disk to be written to")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--limit", type=int, default=None, help="only so many images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        compare_times(arguments, Path(scratch) / "acts")
        compare_memory(arguments, Path(scratch) / "acts")


def compare_times(arguments: argparse.Namespace, folder: Path) -> None:
    """Time both in turn, and print the ratio of the fastest rounds."""
    images = list_images(arguments.images, "auto", None)
    limit = arguments.limit or len(images)
    images = ImageSet(images.root, images.path[:limit], images.target[:limit])
    outline = outline_model(MODEL, weights=arguments.weights, mean=HALF, std=HALF)
    model = load_model(outline, weights=arguments.weights, device=torch.device("cpu"))
    contents = Contents(dict(outline.shapes), arguments.dtype, False, False)
    per_shard = default_images_per_shard(len(images), contents.image_bytes)
    plan = Plan(images, folder, contents, per_shard, WHOLE)
    settings = RunSettings(None, arguments.batch_size, arguments.workers, False, None)
    bare, dumped, bare_cpu, dumped_cpu = [], [], [], []
    for round_number in range(arguments.rounds):
        started, used = time.perf_counter(), cpu_seconds()
        run_bare(model, plan, settings)
        bare.append(time.perf_counter() - started)
        bare_cpu.append(cpu_seconds() - used)
        started, used = time.perf_counter(), cpu_seconds()
        n_bytes = sum(path.stat().st_size for path in record(model, plan, settings))
        dumped.append(time.perf_counter() - started)
        dumped_cpu.append(cpu_seconds() - used)
        shutil.rmtree(folder)
        print(
            f"round {round_number}: bare {bare[-1]:.2f} s ({bare_cpu[-1]:.2f} s of processors),"
            f" dump-acts {dumped[-1]:.2f} s ({dumped_cpu[-1]:.2f} s)",
            flush=True,
        )
    print(
        f"{len(images)} images, {n_bytes / 1e6:.0f} MB of {arguments.dtype}: bare {min(bare):.2f} s,"
        f" dump-acts {min(dumped):.2f} s, {min(dumped) / min(bare):.3f} times as long,"
        f" {min(dumped_cpu) / min(bare_cpu):.3f} times the processors' time"
    )


def cpu_seconds() -> float:
    """Processor time of this process and of its workers that have ended: other work on the machine adds little."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


@torch.inference_mode()
def run_bare(model: VisionModel, plan: Plan, settings: RunSettings) -> None:
    """The model's own forward pass over all images."""
    rows = range(len(plan.images))
    batches = [rows[start : start + settings.batch_size] for start in rows[:: settings.batch_size]]
    decoding = Decoding(model.outline.preprocess, list(plan.contents.layers.values()))
    module = model._module
    for batch in decode(plan.images, decoding, batches, settings.workers, pin=False):
        for group in batch.groups:
            pixels = group.pixels.permute(0, 3, 1, 2).float() / 255
            module.forward_features(((pixels - model._mean) / model._std).contiguous())  # type: ignore[operator]


def compare_memory(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the largest resident memory of the process dump-acts, for fewer and for all images."""
    images = list_images(arguments.images, "auto", None)
    limit = arguments.limit or len(images)
    for share in (4, 1):
        table = folder.parent / "paths.csv"
        root = os.path.relpath(arguments.images, table.parent)
        lines = [f"{root}/{path}" for path in images.path[: limit // share]]
        table.write_text("\n".join(["path", *lines]) + "\n")
        command = [str(Path(sys.executable).parent / "dump-acts"), str(table), "--model", MODEL]
        command += ["--weights", str(arguments.weights), "--layers", "all", "--out", str(folder)]
        command += ["--images-per-shard", "32", "--dtype", arguments.dtype]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        print(f"{len(lines)} images: at most {usage.ru_maxrss / 1e3:.0f} MB of memory", flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
