from __future__ import annotations

from pathlib import Path

import pytest
from birds_page import write_birds_page


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a page of drawn birds."""
    return write_birds_page(tmp_path_factory.mktemp("birds"))
