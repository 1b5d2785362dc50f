"""Heat on an image: colours that colour-blind people tell apart, the same in pictures and on the page."""

from __future__ import annotations

import colorsys

import numpy as np

# Plasma from a quarter of its way up (van der Walt and Smith, 2015): its lightness rises all along, so that it needs
# no colour vision, and neither foliage, sky nor plumage has its colours. Its dark end would hide in shadows.
STOPS = (
    "8808a6",
    "9e199d",
    "b12a90",
    "c13b82",
    "d04d73",
    "dd5e66",
    "e87059",
    "f2844b",
    "f9983e",
    "fdae32",
    "fdc627",
    "f8df25",
    "f0f921",
)
MIN_ALPHA, MAX_ALPHA = 0.35, 0.75


def colours(strength: np.ndarray) -> np.ndarray:
    """strength in [0, 1], any shape -> RGB in [0, 255], shape + (3,)."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in STOPS], np.float64)
    place = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(strength, place, stops[:, channel]) for channel in range(3)], axis=-1)


def patch_of_pixel(n_pixels: int, n_patches: int) -> np.ndarray:
    """Which of n_patches equal parts each of n_pixels along an edge is in, {n_pixels}."""
    return np.arange(n_pixels) * n_patches // n_pixels


def with_heat(pixels: np.ndarray, heat_rc: np.ndarray, largest: float) -> np.ndarray:
    """Pixels uint8 {H, W, 3} with heat {rows, columns} over them: pixels of patches with heat 0 stay as they are."""
    height, width, _ = pixels.shape
    rows, columns = heat_rc.shape
    of_pixel = np.ix_(patch_of_pixel(height, rows), patch_of_pixel(width, columns))
    strength_rc = np.clip(heat_rc / largest, 0, 1) if largest > 0 else np.zeros_like(heat_rc)
    alpha_rc = np.where(heat_rc > 0, MIN_ALPHA + (MAX_ALPHA - MIN_ALPHA) * strength_rc, 0)
    alpha = alpha_rc[of_pixel][..., None]
    mixed = pixels * (1 - alpha) + colours(strength_rc)[of_pixel] * alpha
    return np.rint(mixed).astype(np.uint8)


# Okabe and Ito's colours, which colour-blind people tell apart.
FIRST_LABELS = ("56b4e9", "e69f00", "009e73", "cc79a7", "0072b2", "d55e00", "f0e442", "7f7f7f")


def label_colours(n: int) -> np.ndarray:
    """n colours RGB uint8 {n, 3} that differ: FIRST_LABELS, then hues by the golden angle in three lightnesses."""
    first = [[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in FIRST_LABELS[:n]]
    turns = (np.arange(n - len(first)) * 0.6180339887) % 1
    more = [colorsys.hls_to_rgb(turn, (0.4, 0.7, 0.25)[i % 3], 0.6) for i, turn in enumerate(turns)]
    return (
        np.rint(np.array(first + [[255 * part for part in colour] for colour in more]))
        .astype(np.uint8)
        .reshape(n, 3)
    )
