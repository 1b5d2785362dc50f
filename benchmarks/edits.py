"""Editing against the bare passes that it must run, and the memory of edit-latents; prints Markdown.

    python benchmarks/edits.py                                 # both, some minutes
    python benchmarks/edits.py --only time --stacked 8,16,32,64    # images that go through the blocks at a time

Time: ViT-Ti/16 with random weights, 196 patches, SAE at layer 8 of 12, head with 11 classes at layer 11, one latent,
five amounts, all controls. Edits are all that is done for a stack of images but decoding them and the blocks up to
layer 8: latents, changes, blocks 9 to 11, head, sums. Bare is a plain loop over the same blocks, and the head, for as
many images in stacks of the same sizes. Both alternate; processor time on one thread, which other jobs change little;
the ratio is that of the fastest rounds.

Memory: the peak of processes of edit-latents, less that of one that only imports it, without mapped files (Linux).

Measured on 2 cores (AVX-512) with other jobs running, two rounds, stacks of 32: edits take 1.10 times as long as bare
passes with 1,024 latents and 1.11 with 4,096 where the head reads patches, 1.06 and 1.09 where it reads their mean.
Bare passes per second of processor time on one thread, for stacks of 8, 16, 32, 48, 64, 128: 156, 157, 159, 139, 138,
128.

Memory above imports, one run each: 64, 256, 512 images, 2 latents x 5 amounts: 313, 361, 352 MB; 16 and 32 latents, 64
images: 326 and 422 MB, of which sums and their resamples (of 256 edits at a time) are the growth; 200MB and 50MB,
64 images, 2 latents: 181 and 81 MB.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

from edit_latents.plan import CONTROLS, Case, Directions, list_edits
from edit_latents.running import Work, _Part
from saetools.files.formats import HEADS, SCORERS
from saetools.files.provenance import Provenance
from saetools.scorers.head import Head, save_head
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.reader import open_shards
from saetools.vision.cut_models import CutModel, CutState
from saetools.vision.edits import FIRING, Operation
from saetools.vision.heads import FittedHead

LAYER, LAST, WIDTH, PATCHES, CLASSES = 8, 11, 192, 196, 11
MODEL = "vit_tiny_patch16_224"
AMOUNTS = (-2.0, -1.0, 0.0, 0.5, 2.0)
BIN = Path(sys.executable).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["time", "memory"])
    parser.add_argument("--stacked", default="32", help="sizes of a stack, with commas between them")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    network = timm.create_model(MODEL, pretrained=False).eval().requires_grad_(False)
    if args.only != "memory":
        torch.set_num_threads(1)
        print(
            "| latents | head on | stack | image passes | passes/s, bare | edits / bare |\n|---|---|---|---|---|---|"
        )
        for d_sae in (1024, 4096):
            for tokens in ("patches", "mean"):
                for stacked in map(int, args.stacked.split(",")):
                    compare_times(network, d_sae, tokens, stacked, args.rounds)
    if args.only != "time":
        with tempfile.TemporaryDirectory() as folder:
            compare_memory(network, Path(folder))


def random_sae(d_sae: int) -> SAE:
    """TopK with k = 32: a latent fires in some patches of nearly every image."""
    decoder_sd = np.random.default_rng(0).standard_normal((d_sae, WIDTH)).astype(np.float32)
    w_sd = torch.from_numpy(decoder_sd / np.linalg.norm(decoder_sd, axis=1, keepdims=True))
    zeros_s, zeros_d = torch.zeros(d_sae), torch.zeros(WIDTH)
    return SAE(SAEConfig(WIDTH, d_sae, "topk", 32), w_sd.T.contiguous(), zeros_s, w_sd, zeros_d)


def random_head(tokens: str, trained_on: dict[str, Any]) -> Head:
    weight_cd = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    names = [f"class {i}" for i in range(CLASSES)]
    record = Provenance.of(HEADS, "benchmark", {})
    bias_c, trained_on = torch.zeros(CLASSES, dtype=torch.float64), {**trained_on, "layer": LAST}
    arrays = {
        **{name: np.arange(CLASSES) for name in ("label", "train_rows", "test_rows")},
        "class_accuracy": np.zeros(CLASSES),
        **{name: np.zeros(1) for name in ("cv_l2", "cv_log_loss")},
    }
    return Head(weight_cd, bias_c, names, "softmax", tokens, trained_on, 1.0, record, arrays)


class Counted:
    """A head that notes how many images each of its passes has."""

    def __init__(self, head: FittedHead) -> None:
        self.head, self.sizes = head, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.head, name)

    def logits(self, cut: CutModel, state: CutState) -> torch.Tensor:
        self.sizes.append(len(state.tokens))
        return self.head.logits(cut, state)


def make_work(network: Any, d_sae: int, tokens: str, stacked: int) -> Work:
    """That of one stack of random images, which are at the cut already."""
    sae, head = random_sae(d_sae), random_head(tokens, {})
    cut: Any = CutModel(network, LAYER)
    with torch.inference_mode():
        state = cut.first(torch.randn(stacked, 3, 224, 224))
    cut.first = lambda _: state
    means_cd = head.weight.float()
    known = Directions(means_cd, means_cd, np.full(d_sae, 0.03))
    cases = [Case(17, 3)]
    model: Any = SimpleNamespace(computing=nullcontext, inputs=lambda pixels: pixels)
    test: Any = SimpleNamespace(shape=lambda _: (PATCHES, WIDTH))
    places: Any = SimpleNamespace(at=lambda _: FIRING)
    return Work(
        *(model, cut, sae, FittedHead(head), cases),
        edits=list_edits(cases, len(AMOUNTS), CONTROLS, 3, 0, sae.W_dec.detach(), known),
        operations=[Operation("scale", amount) for amount in AMOUNTS],
        largest={},
        mean=torch.zeros(WIDTH),
        places=places,
        labels=torch.randint(-1, CLASSES, (stacked, PATCHES if tokens == "patches" else 1)),
        keep=np.ones(stacked, bool),
        test=test,
        root=Path(),
        stacked=stacked,
    )


def run_edits(work: Work) -> None:
    part = _Part(work, range(work.stacked))
    part.checked = True  # there are no shards to compare with
    part.run(np.arange(work.stacked), torch.empty(0))


@torch.inference_mode()
def run_bare(work: Work, sizes: list[int]) -> None:
    head: Any = work.head
    tokens = work.cut.first(torch.empty(0)).tokens
    for size in sizes:
        stream = tokens[:size]
        for block in work.cut.blocks[LAYER + 1 :]:
            stream = block(stream)
        patches = stream[:, 1:].double()
        head.head(patches if work.head.per_patch else patches.mean(1, keepdim=True))


def compare_times(network: Any, d_sae: int, tokens: str, stacked: int, rounds: int) -> None:
    work = make_work(network, d_sae, tokens, stacked)
    counted: Any = Counted(work.head)  # type: ignore[arg-type]
    run_edits(replace(work, head=counted))
    sizes, bare, edited = counted.sizes, [], []
    run_bare(work, sizes)
    for _ in range(rounds):
        start = time.process_time()
        run_bare(work, sizes)
        middle = time.process_time()
        run_edits(work)
        bare.append(middle - start)
        edited.append(time.process_time() - middle)
    print(
        f"| {d_sae:,} | {tokens} | {stacked} | {sum(sizes):,} | {sum(sizes) / min(bare):.0f} |"
        f" {min(edited) / min(bare):.3f} |",
        flush=True,
    )


def compare_memory(network: Any, folder: Path) -> None:
    images, rng = folder / "images", np.random.default_rng(0)
    images.mkdir()
    for i in range(512):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8))
        coarse.resize((224, 224), Image.Resampling.BICUBIC).save(images / f"{i:03d}.png")
    weights = folder / "weights.pth"
    torch.save(network.state_dict(), weights)
    for n in (64, 256, 512):
        table = folder / f"images-{n}.csv"
        table.write_text("\n".join(["path", *(f"images/{i:03d}.png" for i in range(n))]) + "\n")
        command = [BIN / "dump-acts", table, "--model", f"timm/{MODEL}", "--weights", weights]
        call([*command, "--layers", f"{LAYER},{LAST}", "--workers", 0, "--out", folder / f"acts-{n}"])
    source = open_shards(folder / "acts-64").shards[0].header.source()
    sae = random_sae(1024)
    record = Provenance.of(SCORERS, "benchmark", {})
    trained_on, share_s = {**source, "layer": LAYER, "n_tokens": 1}, torch.full((1024,), 0.03)
    save_scorer(folder / "sae.h5", TrainedScorer("sae", sae, record, trained_on, {}, share_s, share_s))
    save_head(folder / "head.h5", random_head("patches", dict(source)))
    base = peak_of([sys.executable, "-c", "import edit_latents.api, timm, pandas, scipy"])
    print("\n| images | latents x amounts | --memory | peak above imports, MB |\n|---|---|---|---|")
    for n, latents, memory in (
        *((64, 2, "1GB"), (256, 2, "1GB"), (512, 2, "1GB"), (64, 16, "1GB"), (64, 32, "1GB")),
        *((64, 2, "50MB"), (64, 2, "200MB")),
    ):
        command = [BIN / "edit-latents", folder / f"images-{n}.csv", "--test", folder / f"acts-{n}"]
        command += ["--weights", weights, "--scorer", folder / "sae.h5", "--head", folder / "head.h5"]
        command += ["--latents", ",".join(map(str, range(latents))), "--targets", "class 3", "--draws", 1]
        command += [f"--scale={','.join(map(str, AMOUNTS))}", "--controls", "reconstruction"]
        out = folder / f"edits-{n}-{latents}-{memory}"
        peak = peak_of([*command, "--memory", memory, "--device", "cpu", "--out", out])
        print(f"| {n} | {latents} x {len(AMOUNTS)} | {memory} | {(peak - base) / 1e6:,.0f} |", flush=True)


def call(command: list[Any]) -> None:
    subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)


def peak_of(command: list[Any]) -> int:
    """Peak bytes of a process that belong to no file, looked at every 5 ms."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=said)
        peak = 0
        while process.poll() is None:
            found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, 1024 * int(found[1]) if found else 0)
            time.sleep(0.005)
        said.seek(0)
        assert process.returncode == 0, said.read().decode()
    return peak


if __name__ == "__main__":
    main()
