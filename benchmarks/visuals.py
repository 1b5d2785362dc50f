"""The page of 4,096 latents and 1,000 images: time, memory, size on disk, first paint, scrolling, opening a latent.

    python benchmarks/visuals.py [--latents 4096] [--images 1000] [--edits 32] [--workers 2] [--keep FOLDER]

Images are coloured noise of 500 x 375 pixels as JPEG. Latents have power-law frequencies; each of the 196 patches has
16 active ones, drawn from 200 per image, since those of a TopK SAE cluster too. The second part needs Chromium and
chromedriver. --edits: of so many latents too, on 40 images, for 150 classes of patches, with 5 amounts and 3 controls.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from saetools.files.formats import LATENTS, SCORERS
from saetools.files.provenance import Provenance
from saetools.latents.header import LatentsHeader, latents_name
from saetools.latents.writer import new_latents
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.header import Examples

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))
from edit_files import EditedSet, write_edits  # type: ignore[import-not-found]
from pages import browser  # type: ignore[import-not-found]

N_PATCHES, PER_PATCH, D = 196, 16, 384
PREPROCESS = {
    "size": [224, 224],
    "resize": [248, 248],
    "resize_mode": "shortest",
    "interpolation": "bicubic",
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "fill": [0, 0, 0],
    "native": None,
}


def write_images(root: Path, n: int) -> list[str]:
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        path = Path("images") / f"{i % 200:03d}.Kind_{i % 200}" / f"{i:05d}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(root / path, quality=85)
        paths.append(path.as_posix())
    return paths


def write_latents(folder: Path, paths: list[str], n_latents: int, scorer: str) -> int:
    """Each image has 200 latents of its own, drawn by a power law; its patches fire 16 of them. Returns
    the number of active latents over all patches."""
    rng = np.random.default_rng(1)
    weight_k = rng.permutation(1 / np.arange(1, n_latents + 1) ** 0.7)
    weight_k /= weight_k.sum()
    folder.mkdir(parents=True)
    n_shards, n_active = max(1, len(paths) // 500), 0
    for index, rows in enumerate(np.array_split(np.arange(len(paths)), n_shards)):
        source = {"model": "timm/benchmark", "preprocess": PREPROCESS}
        header = LatentsHeader(
            scorer, "sae", n_latents, N_PATCHES, 11, source, 0.0, None, len(paths), index, n_shards
        )
        grid = np.tile([14, 14], (len(rows), 1))
        examples = Examples(np.array([paths[row] for row in rows], object), rows, rows % 200, grid)
        provenance = Provenance.of(LATENTS, "encode-acts", {})
        with new_latents(folder / latents_name(index), header, provenance, examples) as writer:
            for _ in rows:
                mine = rng.choice(n_latents, 200, replace=False, p=weight_k)
                order = rng.random((N_PATCHES, 200)).argsort(1)[:, :PER_PATCH]
                latent_e = np.sort(mine[order], axis=1).ravel().astype(np.int32)
                value_e = rng.lognormal(-1, 0.5, len(latent_e)).astype(np.float32)
                writer.append(np.full(N_PATCHES, PER_PATCH), latent_e, value_e)
                n_active += len(latent_e)
    return n_active


def write_sae(path: Path, n_latents: int) -> str:
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(D, n_latents, generator=g)
    zeros = torch.zeros
    sae = SAE(
        SAEConfig(D, n_latents, "topk", PER_PATCH),
        weights,
        zeros(n_latents),
        weights.T.contiguous(),
        zeros(D),
    )
    provenance = Provenance.of(SCORERS, "train-sae", {})
    save_scorer(path, TrainedScorer("sae", sae, provenance, {}))
    return provenance.uid


def write_edited(folder: Path, paths: list[str], n: int, scorer: str) -> list[str]:
    """Edits of n latents; returns LATENT:TARGET of each."""
    rng = np.random.default_rng(2)
    names = [f"class {c}" for c in range(150)]
    some = paths[:: max(1, len(paths) // 40)][:40]
    value_npk = rng.random((len(some), N_PATCHES, n)) * (rng.random((len(some), N_PATCHES, n)) < 0.1)
    label = np.repeat(rng.integers(0, 150, (len(some), N_PATCHES // 4)), 4, axis=1)
    of = EditedSet(some, np.full((len(some), 2), 14), value_npk, label, names, scorer, PREPROCESS,
                   model="timm/benchmark", layer=11)  # fmt: skip
    write_edits(folder, [(k, names[k]) for k in range(n)], of)
    return [f"{k}:{names[k].replace(' ', '%20')}" for k in range(n)]


def timed(command: list[str]) -> tuple[float, float, float]:
    """(seconds, CPU seconds, largest memory of the process and its children together in GB)."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if code:
        raise SystemExit(f"{command[0]} ended with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, peak / 1e9


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and all below it; pages that they share count in each."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * 4096 + sum(tree_memory(child) for child in children)


# Milliseconds between 120 frames, in each of which the table is scrolled by 10 rows.
SCROLL = """
const done = arguments[0], table = document.getElementById("table"), frames = [];
let last = null;
requestAnimationFrame(function step(now) {
  if (last !== null) frames.push(now - last);
  last = now;
  table.scrollTop += 400;
  if (frames.length < 120) requestAnimationFrame(step); else done(frames);
});
"""


def measure_browser(site: Path, n_latents: int, n_images: int, edits: list[str]) -> None:
    paint, table, frames, latents, images, edited = [], [], [], [], [], []
    rng = np.random.default_rng(0)
    for attempt in range(5):
        with tempfile.TemporaryDirectory() as downloads, browser(Path(downloads), 1440, 900) as page:
            page.get((site / "index.html").as_uri())
            page.execute_async_script(
                "const done = arguments[0]; (function look() {"
                " document.querySelectorAll('.row').length ? setTimeout(done, 300) : setTimeout(look, 20) })()"
            )
            paint.append(
                page.execute_script(
                    "return performance.getEntriesByType('paint')"
                    ".find((e) => e.name === 'first-contentful-paint').startTime"
                )
            )
            table.append(
                page.execute_script("return performance.getEntriesByName('table shown')[0].startTime")
            )
            if attempt == 4:
                frames = page.execute_async_script(SCROLL)
                latents = [opening(page, f"latent={k}") for k in rng.choice(n_latents, 60, replace=False)]
                images = [opening(page, f"image={n}") for n in rng.choice(n_images, 40, replace=False)]
                edited = [opening(page, f"edit={name}") for name in edits]
    say("first paint", paint)
    say("table shown", table)
    say("a frame of scrolling the table", frames)
    say("opening a latent", latents)
    say("opening an image", images)
    if edited:
        say("opening an edit", edited)


def opening(page: object, where: str) -> float:
    """Milliseconds from the change of the address until two frames after the view has been made."""
    ms = page.execute_async_script(  # type: ignore[attr-defined]
        "const [where, done] = arguments; delete document.body.dataset.shownMs; location.hash = where;"
        "(function look() { document.body.dataset.shownMs ? done(+document.body.dataset.shownMs)"
        " : setTimeout(look, 5) })()",
        where,
    )
    return float(ms)


def say(what: str, values: list[float]) -> None:
    ordered = sorted(values)
    print(
        f"{what}: median {statistics.median(ordered):.0f} ms, 95% {ordered[int(0.95 * (len(ordered) - 1))]:.0f} ms,"
        f" least {ordered[0]:.0f} ms, of {len(ordered)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--edits", type=int, default=0, help="Edits of so many latents too.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="Use this folder, and leave it.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = write_images(folder / "root", asked.images)
        uid = write_sae(folder / "sae.h5", asked.latents)
        n_active = write_latents(folder / "latents", paths, asked.latents, uid)
        print(f"{asked.latents:,} latents, {asked.images:,} images, {n_active:,} active latents")
        command = [str(Path(sys.executable).parent / "render-visuals"), "page", str(folder / "latents")]
        command += ["--images", str(folder / "root"), "--scorer", str(folder / "sae.h5")]
        edits = []
        if asked.edits:
            edits = write_edited(folder / "edits", paths, asked.edits, uid)
            command += ["--edits", str(folder / "edits")]
        command += ["--out", str(folder / "site"), "--workers", str(asked.workers)]
        for what in ("the page", "the same again"):
            seconds, cpu, memory = timed(command)
            print(f"{what}: {seconds:.1f} s, {cpu:.1f} s of CPU, {memory:.2f} GB")
        files = [path for path in (folder / "site").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        pictures = sum(path.stat().st_size for path in files if path.suffix == ".jpg")
        tops = (folder / "site/data/tops.js").stat().st_size
        print(
            f"on disk: {size / 1e6:.1f} MB in {len(files):,} files, of which images {pictures / 1e6:.1f} MB;"
            f" for thumbnails and the wall {tops / 1e6:.2f} MB ({tops / size:.1%})"
        )
        of_edits = [path for path in files if "edits" in path.relative_to(folder / "site").as_posix()]
        if of_edits:
            print(
                f"of edits: {sum(path.stat().st_size for path in of_edits) / 1e6:.1f} MB in {len(of_edits)} files"
            )
        measure_browser(folder / "site", asked.latents, asked.images, edits)


if __name__ == "__main__":
    main()
