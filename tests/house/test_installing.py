"""`make setup` says what it installs and, on a terminal, how far it is. The containers are made by it alone."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from processes import BIN

ROOT = Path(__file__).resolve().parents[2]
# Downloads something, and ends when the test says so.
PIP = """#!/bin/sh
head -c 3000000 /dev/zero >"$TMPDIR/torch.whl"
dirname "$TMPDIR" >.venv/downloads
echo $$ >.venv/pip.pid
until [ -e go ]; do sleep 0.05; done
exit $(cat go)
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new checkout whose pip does nothing."""
    monkeypatch.delenv("TMPDIR", raising=False)
    for name in ("Makefile", "pyproject.toml", "setup.py", "shared", "tools", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    (tmp_path / ".venv/bin/pip").write_text(PIP)
    (tmp_path / ".venv/bin/pip").chmod(0o755)
    return tmp_path


def on_terminal(checkout: Path, seen: str, then: str | bytes) -> tuple[int, str]:
    """`make setup` on a terminal: code, output. Once it shows `seen`, `then` goes to the file `go`; bytes, to it."""
    controller, terminal = pty.openpty()
    run = subprocess.Popen(
        ["make", "setup"],
        cwd=checkout,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that typing Ctrl-C interrupts it
    )
    os.close(terminal)
    printed, told = "", False
    while True:
        try:
            got = os.read(controller, 4096)
        except OSError:  # EIO: no process has the terminal any more
            break
        if not got:
            break
        printed += got.decode()
        if seen in printed and not told:
            told = True
            if isinstance(then, bytes):
                os.write(controller, then)
            else:
                (checkout / "go").write_text(then)
    os.close(controller)
    return run.wait(60), printed


def test_downloads_go_where_there_is_room(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below .venv, which has to hold all of it anyway, or where TMPDIR says; nothing is left there."""
    (checkout / "go").write_text("0")
    for folder in (checkout / ".venv", checkout / "scratch"):
        if folder.name == "scratch":
            monkeypatch.setenv("TMPDIR", str(folder))
            (checkout / ".venv/.installed").unlink()
        subprocess.run(["make", "setup"], cwd=checkout, capture_output=True, check=True)
        assert (checkout / ".venv/downloads").read_text().strip() == str(folder)
        assert not list(folder.glob("setup-*"))


def test_without_a_terminal_there_is_one_line_for_each_phase(checkout: Path) -> None:
    (checkout / "go").write_text("0")
    done = subprocess.run(["make", "setup"], cwd=checkout, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"Installing the tools and what they need, up to 6 GB .* README\.md\)", line)
    (checkout / ".venv/.installed").unlink()
    index = "https://download.pytorch.org/whl/cpu"
    done = subprocess.run(
        ["make", "setup", f"TORCH_INDEX={index}"], cwd=checkout, capture_output=True, text=True, check=True
    )
    first, second = done.stderr.splitlines()
    assert first.startswith(f"Installing PyTorch from {index}: without CUDA up to 1 GB")
    assert second.startswith("Installing the tools and what they need, up to 1 GB")


def test_a_terminal_shows_how_far_it_is(checkout: Path) -> None:
    code, printed = on_terminal(checkout, "packages installed", then="0")
    assert code == 0
    assert re.search(r"\d+ s: (2\.9|3\.0)M downloaded, \d+ packages installed", printed)
    assert (checkout / ".venv/.installed").exists()
    assert not list(checkout.glob(".venv/setup-*"))


def test_a_failure_and_an_interrupt_end_it(checkout: Path) -> None:
    code, printed = on_terminal(checkout, "Installing", then="3")
    assert code == 2 and "Error 3" in printed  # as make says it
    (checkout / "go").unlink()
    code, _ = on_terminal(checkout, "packages installed", then=b"\x03")
    assert code != 0
    pid = int((checkout / ".venv/pip.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not (checkout / ".venv/.installed").exists()
    assert not list(checkout.glob(".venv/setup-*"))


# --- containers ----------------------------------------------------------------------------------------

SETUP = 'chmod -R a+rX . && PIP_NO_CACHE_DIR=1 make setup TORCH_INDEX="$TORCH_INDEX"'


def docker() -> list[tuple[str, str]]:
    """Instructions and arguments of the Dockerfile."""
    text = (ROOT / "containers/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, argument.strip()) for name, _, argument in (line.partition(" ") for line in lines)]


def apptainer() -> dict[str, list[str]]:
    """Section -> lines of the definition file; the header is the section without a name."""
    sections: dict[str, list[str]] = {"": []}
    for line in (ROOT / "containers/saetools.def").read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            sections[line[1:].strip()] = []
        elif line.strip() and not line.startswith("#"):
            list(sections.values())[-1].append(line.strip())
    return sections


def all_of(instruction: str) -> list[str]:
    return [argument for name, argument in docker() if name == instruction]


def copied() -> list[str]:
    """What the images take from a checkout."""
    return [name for line in all_of("COPY") for name in line.split()[:-1]]


def test_both_recipes_make_the_same_image_by_make_setup() -> None:
    found = apptainer()
    base = dict(line.split(": ", 1) for line in found[""])
    assert base == {"Bootstrap": "docker", "From": all_of("FROM")[0]}
    assert found["arguments"] == all_of("ARG") == ["TORCH_INDEX=https://download.pytorch.org/whl/cpu"]
    runs = all_of("RUN")
    assert found["post"] == ['TORCH_INDEX="{{ TORCH_INDEX }}"', "cd /opt/saetools", *runs]
    assert SETUP in runs
    assert not [line for line in runs if "pip install" in line]  # make setup does that, for everybody
    assert dict(line.split() for line in found["files"]) == {
        name: f"/opt/saetools/{name}" for name in copied()
    }
    for line in all_of("COPY"):  # of a folder, COPY takes what is in it
        *names, target = line.split()
        assert [(ROOT / name).is_dir() for name in names] in ([True], [False] * len(names))
        assert target == (f"/opt/saetools/{names[0]}" if (ROOT / names[0]).is_dir() else "/opt/saetools/")
    assert all_of("ENV") == ["PATH=/opt/saetools/.venv/bin:$PATH"]
    assert found["environment"] == ["export PATH=/opt/saetools/.venv/bin:$PATH"]
    assert all_of("ENTRYPOINT") == ['["saetools"]']
    assert found["runscript"] == ['exec saetools "$@"']
    assert all_of("WORKDIR")[-1] == "/data" and "USER" not in dict(docker())


def test_their_python_is_one_that_is_tested() -> None:
    (image,) = all_of("FROM")
    version = re.search(r"python:(3\.\d+)-slim", image)
    assert version is not None
    assert f"Python :: {version[1]}" in (ROOT / "shared/pyproject.toml").read_text()


@pytest.fixture
def in_image(tmp_path: Path) -> Path:
    """The folder of the image, with what it takes from a checkout."""
    for name in copied():
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_the_lines_of_the_recipes_install_the_tools(in_image: Path) -> None:
    """All but those of the base image (apt-get), without the dependencies, which are taken from here."""
    for line in all_of("RUN"):
        if not line.startswith("apt-get"):
            environment = os.environ | {"PIP_NO_DEPS": "1", "TORCH_INDEX": ""}
            subprocess.run(["sh", "-ec", line], cwd=in_image, env=environment, check=True, timeout=400)
    (packages,) = in_image.glob(".venv/lib/*/site-packages")
    here = [path for path in sys.path if path.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here))
    environment = {"PATH": f"{in_image}/.venv/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(["saetools"], env=environment, cwd="/", capture_output=True, text=True, check=True)
    tools = {path.parent.name for path in ROOT.glob("tools/*/pyproject.toml")}
    assert tools <= set(done.stdout.split())
    code = "import saetools, dump_acts; print(saetools.__file__, dump_acts.__file__)"
    done = subprocess.run(
        ["python", "-c", code], env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    assert all(Path(found).is_relative_to(in_image) for found in done.stdout.split())
    assert list(in_image.glob("tools/dump-acts/dump_acts/__pycache__/*.pyc"))


def test_a_task_of_an_array_runs_its_line_of_the_sweep(in_image: Path) -> None:
    """The last script of docs/containers.md, with a program in place of apptainer that runs what it is given."""
    page = (ROOT / "docs/containers.md").read_text(encoding="utf-8")
    script = re.findall(r"```bash\n(.*?)```", page, flags=re.S)[-1]
    tools = in_image / "bin"
    tools.mkdir()
    fake = (
        "#!/bin/sh\n"
        "while [ $1 != saetools.sif ]; do shift; done; shift\n"
        'if [ "$1" = expand-sweep ]; then exec "$@"; fi\n'
        'printf "%s\\n" "$@"\n'
    )
    (tools / "apptainer").write_text(fake)
    (tools / "apptainer").chmod(0o755)
    shown = []
    for task in ("1", "3"):
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=in_image,
            env=os.environ | {"PATH": f"{tools}:{BIN}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": task},
            capture_output=True,
            text=True,
            check=True,
        )
        shown.append(done.stdout.splitlines())
    assert shown[0][:2] == shown[1][:2] == ["train-sae", "out/sweeps/birds/acts/train"]
    assert "--layer=3" in shown[0] and "--layer=7" in shown[1]
