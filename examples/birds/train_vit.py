"""Train the example's tiny vision transformer to tell the species apart; it never sees an attribute.

    python train_vit.py --example data/birds

The architecture is timm's, by name, so this loads it:
`timm.create_model("test_vit2", num_classes=24, checkpoint_path="vit.safetensors")`.
Its training images are drawn with other seeds than the example's, whose images are only for the final check.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm
import torch
from drawing import draw_bird
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from species import SPECIES
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional

MODEL = "test_vit2"
SEED = 1_000  # of the training images; the example itself is seed 0
ALL_PATCHES_FROM = (
    0.8  # of the steps; before that each step sees a random half of the patches, which is twice as fast
)


def draw_training_images(job: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """One species' images {count, side, side, 3}: the shorter side resized as timm does, the middle kept."""
    species, first, count, side = job
    images = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        image = Image.fromarray(draw_bird(SEED, species, first + i).rgb_hw3)
        scale = side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        images[i] = np.asarray(image.resize(size, Image.Resampling.BICUBIC))[
            top : top + side, left : left + side
        ]
    return images


def augment(images_bhw3: Tensor, side: int, mean_3: Tensor, std_3: Tensor, rng: torch.Generator) -> Tensor:
    """Random zoom, turn, shift and flip, then brightness and contrast: {b, 3, side, side}, normalised."""
    b, full = len(images_bhw3), images_bhw3.shape[1]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=rng)

    x = images_bhw3.permute(0, 3, 1, 2).float().div_(255)
    zoom, angle = side / full * uniform(0.82, 1.12, b), uniform(-0.14, 0.14, b)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    flip, shift = torch.sign(uniform(-1, 1, b)), uniform(-0.09, 0.09, b, 2)
    affine = torch.stack([cos * flip, -sin, shift[:, 0], sin * flip, cos, shift[:, 1]], 1).view(b, 2, 3)
    grid = functional.affine_grid(affine, [b, 3, side, side], align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * uniform(0.85, 1.15, b, 1, 1, 1) + middle * uniform(0.85, 1.15, b, 1, 1, 1)
    return (x - mean_3[:, None, None]) / std_3[:, None, None]


def train(model: nn.Module, images_nhw3: Tensor, labels_n: Tensor, steps: int, batch: int, lr: float) -> None:
    config = resolve_model_data_config(model)
    side, mean_3, std_3 = config["input_size"][1], torch.tensor(config["mean"]), torch.tensor(config["std"])
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma"):  # timm starts these at 1e-5, meant for long training
            nn.init.constant_(parameter, 0.3)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
    )
    warm_up = steps // 15
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda i: min((i + 1) / warm_up, 0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * min(i / steps, 1)))),
    )
    rng = torch.Generator().manual_seed(0)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps * batch // len(labels_n) + 1):
            for pick in torch.randperm(len(labels_n), generator=rng).split(batch):
                yield augment(images_nhw3[pick], side, mean_3, std_3, rng), labels_n[pick]

    model.train()
    start, shown, stream = time.monotonic(), 0.0, batches()
    with ThreadPoolExecutor(1) as worker:  # the next batch is made while the model learns from this one
        ahead = worker.submit(next, stream)
        for step in range(steps):
            images_b3hw, labels_b = ahead.result()
            ahead = worker.submit(next, stream)
            if step == round(ALL_PATCHES_FROM * steps):
                model.patch_drop.prob = 0.0  # type: ignore[union-attr]
            loss = functional.cross_entropy(model(images_b3hw), labels_b, label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            shown = 0.95 * shown + 0.05 * loss.item() if step else loss.item()
            if step % 100 == 99:
                print(
                    f"step {step + 1}/{steps}: loss {shown:.3f}, {time.monotonic() - start:.0f} s",
                    file=sys.stderr,
                )


@torch.inference_mode()
def accuracy(model: nn.Module, root: Path, train_split: bool) -> float:
    """Share of the images of one split of the example whose species is recognised, with timm's own transform."""
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    model.eval()
    tables = zip(
        *(
            (root / name).read_text().splitlines()
            for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
        ),
        strict=True,
    )
    rows = [[line.split()[1] for line in lines] for lines in tables]
    rows = [row for row in rows if (row[2] == "1") == train_split]
    right = 0
    for i in range(0, len(rows), 50):
        part = rows[i : i + 50]
        batch = torch.stack(
            [transform(Image.open(root / "images" / path).convert("RGB")) for path, _, _ in part]
        )
        right += int((model(batch).argmax(1) == torch.tensor([int(label) - 1 for _, label, _ in part])).sum())
    return right / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example's tiny vision transformer.")
    parser.add_argument(
        "--example", type=Path, required=True, help="what make_birds.py made, for the final check"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("vit.safetensors"))
    parser.add_argument("--model", default=MODEL, help=f"a timm architecture (default {MODEL})")
    parser.add_argument("--count", type=int, default=160, help="training images per species (default 160)")
    parser.add_argument("--steps", type=int, default=2400, help="default 2400")
    parser.add_argument("--batch", type=int, default=32, help="images a step (default 32)")
    parser.add_argument("--lr", type=float, default=2e-3, help="default 0.002")
    parser.add_argument(
        "--threads", type=int, default=1, help="of the model; so small a one gains little from more"
    )
    args = parser.parse_args()
    start = time.monotonic()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = timm.create_model(args.model, num_classes=len(SPECIES), patch_drop_rate=0.5)
    config = resolve_model_data_config(model)
    side = math.floor(config["input_size"][1] / config["crop_pct"])
    jobs = [(species, 0, args.count, side) for species in range(len(SPECIES))]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        images = np.concatenate(list(pool.map(draw_training_images, jobs)))
    labels = np.repeat(np.arange(len(SPECIES)), args.count)
    print(f"{len(images)} training images drawn, {time.monotonic() - start:.0f} s", file=sys.stderr)
    train(model, torch.from_numpy(images), torch.from_numpy(labels), args.steps, args.batch, args.lr)
    unfinished = args.out.with_name(f".{args.out.name}.unfinished")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, unfinished)
    unfinished.replace(args.out)
    print(f"{args.out}: {args.model}, {time.monotonic() - start:.0f} s in all")
    for name, split in (("train", True), ("test", False)):
        print(f"accuracy on the example's {name} images: {accuracy(model, args.example, split):.3f}")


if __name__ == "__main__":
    main()
