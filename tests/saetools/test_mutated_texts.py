"""Sweeps and tables with random mistakes: each is read, or refused by a UserError; none fails otherwise or hangs."""

from __future__ import annotations

import random
import signal
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from expand_sweep.context import RunContext
from expand_sweep.makefile import render_makefile
from expand_sweep.slurm.arrays import plan_arrays
from expand_sweep.slurm.scripts import render_script
from expand_sweep.sweep import read_sweep
from expand_sweep.tasks import expand
from render_visuals.page.annotations import read_tables
from saetools.errors import UserError
from saetools.labels.splits import _read_pairs
from saetools.labels.tables import read_trait_table
from saetools.latents.header import LatentsHeader
from saetools.vision.image_sets import list_images
from train_sae.grids import read_sweep as read_grid

SECONDS = 20  # a limit for what never ends, far above what a loaded machine needs
SWEEP = b"""\
name: x
values: {b: x, a: [1, 2, "{b}"]}
slurm: {exclusive: "true", nice: 5, time: "1:00", signal: 300}
sbatch: ["--no-kill", "--tres-per-task=cpu:4"]
steps:
  s: {grid: {l: "{a}"}, zip: {q: [1, 2], r: [3, 4]}, outputs: {o: "o/{l}-{q}-{r}"}, command: "touch {o}", stdout: o}
  t: {inputs: {i: {outputs: s.o, same: [l]}}, grid: {l: "{a}"}, outputs: {o: "t/{l}"}, command: [c, "{i}"], stage: [i]}
"""
TRAITS = b'path,red,blue\nimages/0.jpg,1,0\nimages/1.jpg,,1\n"images/2.jpg",0,0.25\n'
BITS = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b",", b'"', b"'", b"{", b"}", b"[", b"]", b":", b"- "),
    *(b"&a ", b"*a", b"<<", b"\t", b"9" * 30, b"9" * 5000, b"nan", b"inf", b"-1", b"1e400", b"\xe2\x80\xa8"),
    *(b"\xed\xa0\x80", b"|\n", b"!!null", b"#", b"%", b"? ", b"---\n", b" ", b"{a}", b"\x1b", b"\xc2\x85", b"1.5"),
]  # fmt: skip
HEADER = LatentsHeader("5" * 32, "sae", 12, 16, 3, {"model": "m"}, 0.0, None, 6, 0, 1)


def read_and_write_sweep(path: Path) -> None:
    sweep = read_sweep(path)
    tasks = expand(sweep, 16)
    programs: Any = defaultdict(lambda: Path("/bin/true"))
    context = RunContext(path.parent, path.parent / sweep.state, programs)
    list(render_makefile(sweep, tasks, context))
    wanted = {name: {task.index for task in found} for name, found in tasks.items()}
    for array in plan_arrays(tasks, wanted, 1000):
        head = render_script(sweep, array, context).partition("\n# The step ")[0]
        assert all(line.startswith("#SBATCH --") or not line for line in head.split("\n")[1:]), head


READERS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "sweep": (SWEEP, read_and_write_sweep),
    "sweep of train-sae": (b"runs: [{lr: 1e-3, k: 8}, {lr: 3e-3, k: 16}]\n", read_grid),
    "traits": (TRAITS.replace(b"0.25", b"1"), read_trait_table),
    "soft traits": (TRAITS, lambda path: read_trait_table(path, soft=True)),
    "pairs": (b"owl,hen\nhen,cat\n\nowl,cat\n", _read_pairs),
    "images": (
        b"path,target,mask\nimages/0.jpg,1,images/1.jpg\nimages/1.jpg,,images/2.jpg\n",
        lambda path: list_images(path, "csv", None),
    ),
    "own table": (b"latent,name,score\n3,a,0.5\n4,b,\n5,c,1e-3\n", lambda path: read_tables([path], HEADER, None, [])),
    "own classes": (b"class,latent,ap,r\n0,3,0.5,0.1\n1,4,0.6,\n", lambda path: read_tables([path], HEADER, None, [])),
}  # fmt: skip


def mutate(text: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 4])):
        low, high = sorted(rng.choices(range(len(text) + 1), k=2))
        how = rng.random()
        if how < 0.4:
            text = text[:low] + rng.choice(BITS) + text[low:]
        elif how < 0.55:
            text = text[:low] + text[low + rng.choice([1, 2, 9]) :]
        elif how < 0.7:
            text = text[:low] + bytes([rng.randrange(256)]) + text[low + 1 :]
        elif how < 0.85:
            text = text[:high] + text[low:high] + text[high:]
        elif how < 0.95:
            lines = text.split(b"\n")
            rng.shuffle(lines)
            text = b"\n".join(lines)
        else:
            text = text[:low]
    return text


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    def late(_number: int, _frame: types.FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_mutated_texts_are_read_or_refused(tmp_path: Path, name: str) -> None:
    text, reader = READERS[name]
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / f"images/{number}.jpg").touch()
    rng = random.Random(15)
    path = tmp_path / "mutated"
    n_refused = 0
    for _ in range(120):
        mutated = mutate(text, rng)
        path.write_bytes(mutated)
        try:
            with limit(SECONDS):
                reader(path)
        except UserError as error:
            assert str(error).count("\n") <= 2
            n_refused += 1
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__} for {mutated!r}") from error
    assert 20 < n_refused < 120


def test_numbers_of_own_tables_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    for text, said in (
        ("latent,x\n1.5,1\n", "'latent' holds '1.5', expected numbers of latents"),
        ("latent,x\n-1,1\n", "'latent' holds '-1'"),
        ("latent,x\n,1\n", "'latent' holds 'nan'"),
        ("latent,x\n" + "9" * 400 + ",1\n", "'latent' holds '999"),
        ("class,latent,ap,r\na,1,high,0\n", "'ap' holds 'high', expected finite numbers"),
        ("class,latent,ap,r\na,1,0.5,inf\n", "'r' holds 'inf', expected finite numbers"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=f"own.csv: the column {said}"):
            read_tables([path], HEADER, None, None)


def test_plain_values_that_yaml_cannot_convert_are_texts(tmp_path: Path) -> None:
    (tmp_path / "s.yml").write_text(f"runs: [{{seed: 2026-13-01}}, {{seed: {'9' * 5000}}}]")
    assert [run["seed"] for run in read_grid(tmp_path / "s.yml")] == ["2026-13-01", "9" * 5000]
