"""The repository as one distribution: what its own pyproject files say, and a wheel that works on its own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from lower_bounds import ROOT, lower_bounds, requirements

PARTS = [ROOT / "shared/pyproject.toml", *sorted(ROOT.glob("tools/*/pyproject.toml"))]


def projects() -> list[dict]:
    return [tomllib.loads(part.read_text())["project"] for part in PARTS]


def scripts() -> dict[str, str]:
    return {name: target for project in projects() for name, target in project.get("scripts", {}).items()}


def test_the_distribution_has_every_command_and_dependency_of_its_parts() -> None:
    found = distribution("saetools")
    assert {entry.name: entry.value for entry in found.entry_points} == scripts()
    assert len(scripts()) == len(PARTS) == 14  # one for each tool, and saetools
    needed = {one for one in found.requires or [] if "extra ==" not in one}
    extras = projects()[0]["optional-dependencies"]
    checks = {one for name in ("test", "docs", "dev") for one in extras[name]}
    assert {name_of(one) for one in needed} == {name_of(one) for one in requirements() if one not in checks}
    for name in ("torch", "timm", "simple-slurm", "h5py"):
        assert f"{name}>={lower_bounds()[name]}" in needed


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0]


def test_all_parts_agree_on_python_and_licence() -> None:
    one, *others = (
        (each["version"], each["requires-python"], each["license"], each["classifiers"])
        for each in projects()
    )
    assert all(other == one for other in others)
    assert [name.rsplit(" ", 1)[1] for name in one[3]] == ["3.11", "3.12", "3.13"]


def test_the_citation_is_of_this_version() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= found.keys()  # what the format requires
    assert found["version"] == projects()[0]["version"]
    assert (found["title"], found["license"]) == ("saetools", projects()[0]["license"])


def test_pytorch_comes_first_from_the_index_that_is_asked_for(tmp_path: Path) -> None:
    """`-B`: as in a new checkout. Without TORCH_INDEX there is one installation, from pip's own index."""
    for name in ("Makefile", "pyproject.toml", "setup.py", "shared", "tools", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)

    def lines(*more: str) -> list[str]:
        done = subprocess.run(
            ["make", "-n", "-B", "setup", *more], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return [line for line in done.stdout.splitlines() if "pip install" in line]

    index = "https://download.pytorch.org/whl/cpu"
    first, second = lines(f"TORCH_INDEX={index}")
    assert shlex.split(first)[-4:] == ["--index-url", index, "torch", "torchvision"]
    assert shlex.split(second)[-2:] == ["-e", "."]
    assert "--index-url" not in second
    assert lines() == [second]
    assert f"make setup TORCH_INDEX={index}" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_a_wheel_works_on_its_own(tmp_path: Path) -> None:
    """Installed into an environment that has the dependencies and nothing of the checkout."""
    run = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(list(map(str, run)), check=True, timeout=300)
    (wheel,) = tmp_path.glob("saetools-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [
        *ROOT.glob("shared/saetools"),
        *(part.parent / part.parent.name.replace("-", "_") for part in PARTS[1:]),
    ]
    for package in sources:
        for file in package.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert file.relative_to(package.parent).as_posix() in names
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, timeout=120)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    # The paths of the dependencies alone: `addsitedir` would bring the editable installation too.
    (packages / "dependencies.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("-packages")) or sysconfig.get_path("purelib")
    )
    for command in scripts():
        done = subprocess.run(
            [tmp_path / "venv/bin" / command, "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [command, distribution("saetools").version]
    code = "import saetools as st; print(st.__file__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert Path(done.stdout.strip()).is_relative_to(packages)
