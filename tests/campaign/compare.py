"""What the folder of a run holds, beside what an undisturbed run left there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from written_files import digests

PARTIAL = ".partial"


class Undisturbed:
    """The digests of each part of each file that a run leaves when nothing disturbs it, and how long it takes."""

    def __init__(
        self, folder: Path, places: Iterable[tuple[bytes, bytes]], seconds: float, stdout: str
    ) -> None:
        self._places = list(places)
        self.seconds, self._stdout = seconds, stdout.replace(str(folder), "FOLDER")
        self.parts = self._digests(folder)
        self.files = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
        sizes = [(folder / name).stat().st_size for name in self.files]
        self.n_bytes, self.largest = sum(sizes), max(sizes, default=0)

    def _digests(self, folder: Path) -> dict[str, str]:
        return digests(folder, [(str(folder).encode(), b"FOLDER"), *self._places])

    def printed(self, folder: Path, stdout: str) -> bool:
        """Whether a run printed what an undisturbed one prints."""
        return stdout.replace(str(folder), "FOLDER") == self._stdout

    def half(self, folder: Path) -> str | None:
        """A file under a final name that is not as an undisturbed run leaves it; None where there is none.

        Hidden files are not final.
        """
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_dir() or name not in self.files or any(part.startswith(".") for part in name.parts):
                continue
            if found := self._first_difference(self._of(path, folder), name.as_posix()):
                return found
        return None

    def difference(self, folder: Path) -> str | None:
        """The first part that is missing or other than in an undisturbed run; None where there is none."""
        files = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
        if gone := sorted(self.files - files):
            return f"{gone[0]} is missing"
        for name in sorted(self.files):
            if found := self._first_difference(self._of(folder / name, folder), name.as_posix()):
                return found
        return None

    def left_over(self, folder: Path, given: Sequence[str]) -> str | None:
        """A file that an undisturbed run does not leave; given: the inputs in this folder."""
        files = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
        more = sorted(
            name for name in files - self.files if not any(name.is_relative_to(each) for each in given)
        )
        return f"{more[0]} is left over" if more else None

    def _of(self, path: Path, folder: Path) -> dict[str, str] | str:
        try:
            return digests(folder, [(str(folder).encode(), b"FOLDER"), *self._places], [path])
        except Exception as error:  # whatever its reader raises: it is not whole
            return f"{path.relative_to(folder)} cannot be read: {error!r}"

    def _first_difference(self, found: Mapping[str, str] | str, name: str) -> str | None:
        if isinstance(found, str):
            return found
        wanted = {part: d for part, d in self.parts.items() if part == name or part.startswith(f"{name}:")}
        different = sorted(p for p in {*wanted, *found} if wanted.get(p) != found.get(p))
        return f"{different[0]} is not as undisturbed" if different else None


def partial_files(folder: Path) -> str | None:
    """A temporary file of a writer; None where there is none."""
    found = sorted(path for path in folder.rglob("*") if PARTIAL in path.name)
    return f"{found[0].relative_to(folder)} is left over" if found else None


def temporary_files(logs: Path) -> str | None:
    """What a run left in TMPDIR; None where that is empty, but for the folder that torch keeps for its compiler."""
    found = sorted(p for p in (logs / "tmp").glob("*") if not p.name.startswith("torchinductor_"))
    return f"TMPDIR/{found[0].name} is left over" if found else None
