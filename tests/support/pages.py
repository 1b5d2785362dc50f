"""A page made by the tools from images to index.html, and a browser that opens it from disk."""

from __future__ import annotations

import importlib.resources
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictured_latents import CROPPED, write_images

from saetools.files.formats import SCORERS, SHARDS
from saetools.files.provenance import Provenance
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.header import Examples, ShardHeader, shard_name
from saetools.shards.writer import new_shard

N_IMAGES, N_PATCHES, D, S, K = 30, 16, 12, 96, 4
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Chain:
    """Where images, shards and scorer of a small data set are."""

    root: Path
    acts: Path
    scorer: Path


def write_chain(folder: Path) -> Chain:
    """30 images in 3 folders, random activations and patch labels of theirs, and a random TopK SAE."""
    paths = write_images(folder / "root", [(44 + 2 * i, 40) for i in range(N_IMAGES)], classes=3)
    rng = np.random.default_rng(1)
    acts_npd = rng.normal(size=(N_IMAGES, N_PATCHES, D)).astype(np.float32)
    preprocess = CROPPED.to_settings()
    acts = folder / "acts"
    acts.mkdir()
    for index, rows in enumerate(np.array_split(np.arange(N_IMAGES), 2)):
        header = ShardHeader("timm/test", "0" * 64, [3], "test", preprocess, N_IMAGES, index, 2)
        grid = np.tile([4, 4], (len(rows), 1))
        examples = Examples(np.array([paths[row] for row in rows], object), rows, rows % 3, grid)
        target = acts / shard_name(index)
        provenance = Provenance.of(SHARDS, "dump-acts", {})
        shape = {"n_patches": N_PATCHES, "d_model": D, "has_labels": True}
        labels = {3: np.tile(np.arange(N_PATCHES) % 3, (len(rows), 1)).astype(np.uint16)}
        with new_shard(target, header, provenance, examples, dtype="float32", **shape) as shard:
            shard.append({3: torch.from_numpy(acts_npd[rows])}, labels=labels)
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(D, S, generator=g)
    sae = SAE(SAEConfig(D, S, "topk", K), weights, torch.zeros(S), weights.T.contiguous(), torch.zeros(D))
    source = {"model": "timm/test", "weights": "0" * 64, "hook": "test", "preprocess": preprocess}
    contents = TrainedScorer("sae", sae, Provenance.of(SCORERS, "test", {}), {**source, "layer": 3})
    save_scorer(folder / "sae.h5", contents)
    return Chain(folder / "root", acts, folder / "sae.h5")


@contextmanager
def browser(
    downloads: Path, width: int = 1400, height: int = 900, *, requests: bool = False
) -> Iterator[Any]:
    """Chromium by selenium; the test is skipped where one of them is absent. requests: log them, as "performance"."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    logs = {"browser": "ALL"} | ({"performance": "ALL"} if requests else {})
    options.set_capability("goog:loggingPrefs", logs)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]:
            options.add_argument(flag)
        opened = webdriver.Chrome(options=options, service=Service(driver))
        try:
            opened.set_page_load_timeout(60)
            opened.set_script_timeout(60)
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
            opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            yield opened
        finally:
            opened.quit()


def wait(holds: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.03)
    return found


def go(page: Any, where: str) -> None:
    """Open an address of the page, and wait until it is shown."""
    page.execute_script("delete document.body.dataset.shown; location.hash = arguments[0]", where)
    wait(lambda: page.execute_script("return document.body.dataset.shown") == f"#{where}")


def click(page: Any, css: str) -> None:
    from selenium.webdriver.common.by import By

    page.find_element(By.CSS_SELECTOR, css).click()


def load_axe(driver: Any) -> None:
    """Make axe-core, which finds what people with disabilities cannot use, known to the page that is open."""
    axe = importlib.resources.files("axe_core_python") / "axe.min.js"
    driver.execute_script(axe.read_text(encoding="utf-8"))


def serious(driver: Any) -> list[str]:
    """The serious and critical findings of axe-core on what is shown: rule, element, why."""
    found = driver.execute_async_script(
        "const done = arguments[0];"
        "axe.run(document, {resultTypes: ['violations']}).then(({violations}) => done("
        " violations.filter((v) => ['serious', 'critical'].includes(v.impact)).flatMap((v) => v.nodes.map((node) =>"
        "  `${v.id}: ${node.target.join(' ')}: ${node.failureSummary}`))))"
    )
    return list(found)
