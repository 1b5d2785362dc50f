"""Waits while a folder is full, for a reader that deletes what it has used."""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

from dump_acts.plan import folder_bytes
from saetools.cli.quantities import format_bytes
from saetools.log import logger

SECONDS_BETWEEN_LOOKS = 0.1


def wait_for_room(folder: Path, needed: int, max_disk: int) -> None:
    """Return as soon as `needed` more bytes keep the folder within `max_disk`.

    Leaves with exit code 0, as a closed pipe does, where the reader of stdout has gone: nobody would ever
    make room.
    """
    said = False
    while (present := folder_bytes(folder)) + needed > max_disk:
        if not said:
            logger.info(
                "pausing: %s holds %s of --max-disk %s; it goes on when shards are deleted",
                folder,
                format_bytes(present),
                format_bytes(max_disk),
            )
            said = True
        if _reader_is_gone():
            raise SystemExit(0)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        descriptor = sys.stdout.fileno()
        poll = select.poll()
    except (OSError, AttributeError):  # stdout is no file, or the system has no poll
        return False
    poll.register(descriptor, select.POLLERR)
    return any(event & select.POLLERR for _, event in poll.poll(0))
