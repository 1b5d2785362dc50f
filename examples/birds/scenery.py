"""Where the bird is: a blurred backdrop, what it stands on, and now and then something in front of it."""

from dataclasses import dataclass, replace

import numpy as np
from body import at
from canvas import Canvas, Colour, Points, band, disc, smooth
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

GREENS: tuple[Colour, ...] = ((86, 130, 66), (112, 150, 78), (70, 108, 66), (146, 172, 96), (58, 92, 58))
AUTUMN: tuple[Colour, ...] = ((186, 132, 62), (150, 98, 56), (204, 164, 86), (128, 108, 62), (164, 84, 48))
SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((120, 172, 222), (206, 226, 240)), ((168, 188, 206), (222, 228, 232)), ((232, 196, 168), (248, 228, 196)),
    ((96, 150, 208), (176, 208, 236)), ((150, 160, 196), (236, 206, 196)),
)  # fmt: skip
WATERS: tuple[tuple[Colour, Colour], ...] = (
    ((92, 140, 168), (66, 112, 142)), ((116, 150, 138), (82, 120, 112)), ((150, 178, 196), (104, 142, 170)),
)  # fmt: skip
LAND: dict[str, tuple[Colour, ...]] = {
    "ground": ((122, 152, 74), (148, 140, 84), (104, 132, 66)),
    "snow": ((238, 242, 248), (226, 234, 244), (246, 244, 242)),
    "sand": ((222, 202, 158), (206, 186, 146), (230, 214, 178)),
    "rock": ((128, 124, 122), (110, 106, 108), (146, 138, 130)),
    "reedbed": ((140, 138, 84), (118, 124, 76), (156, 150, 96)),
}


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2]))


def _round(colour: Colour) -> tuple[int, int, int]:
    return (round(colour[0]), round(colour[1]), round(colour[2]))


def backdrop(scene: str, width: int, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Colours {height, width, 3}, out of focus: drawn small, blurred, enlarged."""
    w, h = width // 4 + 2, height // 4 + 2
    watery = scene in ("swim", "wade")
    top, bottom = WATERS[rng.integers(len(WATERS))] if watery else SKIES[rng.integers(len(SKIES))]
    t_h = np.linspace(0, 1, h)[:, None, None]
    gradient_hw3 = np.array(top) * (1 - t_h) + np.array(bottom) * t_h + np.zeros((h, w, 3))
    picture = Image.fromarray(np.round(gradient_hw3).astype(np.uint8))
    draw = ImageDraw.Draw(picture)

    def blob(x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=_round(colour))

    leaves = AUTUMN if rng.random() < 0.22 else GREENS
    leafy = scene in ("branch", "trunk", "flower", "reed", "reedbed") and rng.random() < 0.75
    if leafy:
        for x, y, size, pick, dim in rng.random((46, 5)):
            blob(
                x * w,
                y * h,
                3 + 8 * size,
                3 + 7 * size,
                _mix(leaves[int(pick * 5)], (236, 240, 214), 0.35 * dim),
            )
    elif watery:
        for x, y, size, pick in rng.random((16, 4)):
            blob(x * w, y * h, 4 + 12 * size, 0.5 + 0.8 * size, _mix(top, (255, 255, 255), 0.25 * pick))
    elif rng.random() < 0.7:  # clouds
        for x, y, size, pick in rng.random((9, 4)):
            blob(
                x * w, y * h * 0.8, 4 + 9 * size, 2 + 3 * size, _mix(top, (255, 255, 255), 0.45 + 0.4 * pick)
            )
    if scene in LAND:  # something far away
        far = _mix(leaves[rng.integers(5)], (200, 212, 220), 0.45)
        for x, y, size in rng.random((12, 3)):
            blob(
                x * w, (0.52 + 0.12 * y) * h, 3 + 7 * size, 2 + 6 * size, _mix(far, (120, 140, 130), 0.4 * y)
            )
        draw.rectangle((0, int(0.6 * h), w, h), fill=_round(LAND[scene][0]))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 2.2)))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _leaf(x: float, y: float, angle: float, size: float) -> Points:
    shape = smooth(at((-0.5, 0), (-0.1, -0.26), (0.5, 0), (-0.1, 0.26)))
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([x, y]) + size * shape @ np.array([[cos, sin], [-sin, cos]])


def _leaves(c: Canvas, spots: Points, size: float, rng: np.random.Generator) -> None:
    palette = AUTUMN if rng.random() < 0.2 else GREENS
    inks = [(c.ink(_mix(p, (255, 255, 230), 0.12)), c.ink(_mix(p, (0, 0, 0), 0.22))) for p in palette[:3]]
    for x, y in spots:
        ink, vein = inks[rng.integers(3)]
        angle, length = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.7, 1.2)
        c.fill(_leaf(x, y, angle, length), ink)
        tip = length * 0.45 * at((np.cos(angle), np.sin(angle)))
        c.fill(band(np.array([x, y]) + np.concatenate([-tip, tip]), 0.03 * length), vein)


@dataclass(frozen=True)
class Spot:
    """The scene, and where in it the bird is, in pixels."""

    scene: str
    unit: float  # the torso's length
    middle: Points  # {2}, the torso's
    feet: Points  # {0 or 2, 2}
    bill_tip: Points  # {2}
    facing: float  # 1 to the right, -1 to the left


def draw_perch(c: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """What the bird stands on, drawn before it."""
    w, h, unit, scene = c.width, c.height, spot.unit, spot.scene
    x, y = spot.feet.mean(axis=0) if len(spot.feet) else (w / 2, 0.8 * h)
    if scene in ("branch", "reed"):
        steep = (
            rng.uniform(-0.22, 0.22) if scene == "branch" else rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.2)
        )
        xs = np.linspace(-20, w + 20, 9)
        wobble = unit * 0.03 * rng.normal(0, 1, 9).cumsum() if scene == "branch" else np.zeros(9)
        path = np.stack([xs, y + unit * 0.06 + steep * (xs - x) + wobble - np.interp(x, xs, wobble)], axis=1)
        bark: Colour = (104, 80, 62) if scene == "branch" else (158, 148, 84)
        bark = _mix(bark, (150, 140, 128), rng.random() * 0.6)
        thick = unit * (rng.uniform(0.05, 0.085) if scene == "branch" else 0.04)
        c.fill(band(path, np.linspace(1.25, 0.7, 9) * thick), c.ink(bark))
        c.fill(
            band(path + at((0, 0.45 * thick)), np.linspace(0.6, 0.3, 9) * thick),
            c.ink(_mix(bark, (0, 0, 0), 0.28)),
        )
        if scene == "branch" and rng.random() < 0.75:
            along = rng.integers(0, 9, 7)
            _leaves(c, path[along] + rng.normal(0, unit * 0.14, (7, 2)), unit * 0.30, rng)
    elif scene == "trunk":
        if np.ptp(spot.feet[:, 0]) > 0.2 * unit:  # seen from behind
            edge, away = x - 0.5 * unit, x + 0.5 * unit
        else:
            edge, away = x, x + spot.facing * rng.uniform(0.8, 1.6) * unit
        ys = np.linspace(-10, h + 10, 12)
        rough = edge + unit * 0.015 * rng.normal(0, 1, 12)
        bark = _mix((112, 92, 76), (168, 160, 150), rng.random())
        c.fill(
            np.concatenate([np.stack([rough, ys], 1), np.stack([0 * ys + away, ys[::-1]], 1)]), c.ink(bark)
        )
        dark = c.ink(_mix(bark, (0, 0, 0), 0.25))
        for a, b, length in rng.random((26, 3)):
            gx, gy = edge + (away - edge) * (0.04 + 0.96 * a), b * h
            c.fill(band(at((gx, gy), (gx + 1.5, gy + unit * (0.1 + 0.25 * length))), unit * 0.012), dark)
    elif scene in LAND:
        _land(c, scene, y + unit * 0.02, unit, rng)
    elif scene == "flower":
        _flower(c, spot, rng)
        if len(spot.feet):
            draw_perch(c, replace(spot, scene="branch"), rng)


def _land(c: Canvas, scene: str, y: float, unit: float, rng: np.random.Generator) -> None:
    w, h = c.width, c.height
    base = LAND[scene][rng.integers(3)]
    xs = np.linspace(-10, w + 10, 8)
    rise = -0.10 if scene == "rock" else -0.02
    hill = (
        y + unit * (rise + 0.05 * rng.normal(0, 1, 8).clip(-1.5, 1.5)) + 0.12 * unit * ((xs - w / 2) / w) ** 2
    )
    c.fill(np.concatenate([np.stack([xs, hill], 1), at((w + 10, h + 10), (-10, h + 10))]), c.ink(base))
    dark, pale = c.ink(_mix(base, (0, 0, 0), 0.16)), c.ink(_mix(base, (255, 255, 255), 0.25))
    if scene in ("ground", "reedbed"):
        for a, b, lean in rng.random((46, 3)):
            gx, gy = a * w, y + (h - y) * b
            tall = unit * (0.12 if scene == "ground" else 0.5)
            c.fill(band(at((gx, gy), (gx + tall * (lean - 0.5), gy - tall)), at((0.012, 0.002))[0] * unit),
                   dark if b < 0.5 else pale)  # fmt: skip
    else:
        for a, b, size in rng.random((22, 3)):
            wide = unit * (0.02 + 0.05 * size)
            c.fill(
                disc(a * w, y + 0.04 * unit + (h - y) * b, wide, wide * 0.45, 12),
                dark if size < 0.6 else pale,
            )


def _flower(c: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """A bell flower at the tip of the bill of a hovering bird."""
    reach, unit, inward = spot.bill_tip, spot.unit, spot.facing
    petal: Colour = ((232, 84, 96), (240, 160, 60), (214, 100, 190), (250, 226, 120))[rng.integers(4)]
    stem = at((reach[0] + inward * 0.25 * unit, c.height + 5), (reach[0] + inward * 0.34 * unit, reach[1] + 0.5 * unit),
              (reach[0] + inward * 0.18 * unit, reach[1]))  # fmt: skip
    c.fill(band(stem, 0.018 * unit), c.ink((82, 122, 62)))
    _leaves(c, stem[1:2] + rng.normal(0, 0.12 * unit, (3, 2)), 0.26 * unit, rng)
    bell = at((0.26, -0.05), (0.08, -0.14), (-0.08, -0.17), (-0.04, -0.06), (-0.10, 0.02), (-0.02, 0.08), (-0.05, 0.18),
              (0.10, 0.14), (0.26, 0.06))  # fmt: skip
    c.fill(reach + bell * unit * at((inward, 1.0)), c.ink(petal))
    c.fill(
        reach + (bell * 0.5 + at((0.08, 0))) * unit * at((inward, 1.0)), c.ink(_mix(petal, (0, 0, 0), 0.15))
    )


def draw_foreground(c: Canvas, spot: Spot, rng: np.random.Generator) -> None:
    """What is in front of the bird: water, and sometimes leaves or grass."""
    w, h, unit, scene, feet = c.width, c.height, spot.unit, spot.scene, spot.feet
    if scene in ("swim", "wade"):
        line = (
            spot.middle[1] + 0.17 * unit
            if scene == "swim"
            else feet[:, 1].mean() - rng.uniform(0.10, 0.5) * unit
        )
        tone = _mix(*WATERS[rng.integers(len(WATERS))], 0.5)
        xs = np.linspace(-5, w + 5, 30)
        wave = line + unit * 0.012 * np.sin(xs / unit * rng.uniform(9, 14) + rng.uniform(0, 6))
        c.fill(np.concatenate([np.stack([xs, wave], 1), at((w + 5, h + 5), (-5, h + 5))]), c.ink(tone))
        pale, dark = c.ink(_mix(tone, (255, 255, 255), 0.3)), c.ink(_mix(tone, (0, 0, 0), 0.12))
        for a, b, size in rng.random((20, 3)):
            y = line + (h - line) * (0.06 + 0.94 * b)
            c.fill(
                disc(a * w, y, unit * (0.06 + 0.16 * size), unit * 0.010 * (1 + b), 14),
                pale if size < 0.5 else dark,
            )
    elif scene in ("ground", "reedbed") and rng.random() < 0.5 and len(feet):
        ink = c.ink(_mix(LAND[scene][0], (0, 0, 0), 0.1))
        for a, lean in rng.random((30, 2)):
            tall = unit * (0.22 if scene == "ground" else 0.7)
            root = feet[:, 1].mean() + 0.12 * unit
            c.fill(
                band(
                    at((a * w, root), (a * w + tall * (lean - 0.5) * 0.6, root - tall)),
                    at((0.02, 0.003))[0] * unit,
                ),
                ink,
            )
    elif scene in ("branch", "flower") and rng.random() < 0.16:
        _leaves(c, spot.middle + rng.normal(0, 0.5 * unit, (4, 2)), 0.42 * unit, rng)
