"""Time of expand-sweep for 10,000 runs (command lines, a Makefile, job arrays) and for --help.

    python benchmarks/expand_sweep.py

Wall time and processor time in seconds, minimum of five.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """
values: {out: out, ten: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}
steps:
  train:
    grid:
      layer: "{ten}"
      lr: [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 7e-4, 8e-4, 9e-4, 1e-3]
      k: "{ten}"
      seed: "{ten}"
    inputs: {acts: acts}
    outputs: {sae: "{out}/layer{layer}-lr{lr}-k{k}-seed{seed}.h5"}
    command: train-sae {acts} --layer={layer} --lr {lr} --k {k} --seed {seed} --d-sae 512 --tokens 1M --out {sae}
"""


def least(command: list[str], folder: Path) -> tuple[float, float]:
    clock, processor = [], []
    for _ in range(5):
        before, start = os.times(), time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        clock.append(time.perf_counter() - start)
        after = os.times()
        used = after.children_user + after.children_system
        processor.append(used - before.children_user - before.children_system)
    return min(clock), min(processor)


def main() -> None:
    program = str(Path(sys.executable).with_name("expand-sweep"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "acts").mkdir()
        (folder / "sweep.yml").write_text(SWEEP)
        for arguments in (["--help"], [], ["--make"], ["--sbatch", "jobs"], ["--status"]):
            words = arguments if "--help" in arguments else ["sweep.yml", *arguments]
            clock, processor = least([program, *words], folder)
            print(f"{' '.join(arguments) or 'lines':14} {clock:.2f} s   {processor:.2f} s of the processor")


if __name__ == "__main__":
    main()
