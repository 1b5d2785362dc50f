"""One bird from its seed: picture, part mask, landmarks. And the same bird again with something changed."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from body import Painter, Skeleton, at, draw_legs, draw_tail, draw_torso, draw_wing, pose
from canvas import PART_ID, Canvas, Points, untouched
from head import draw_head
from numpy.typing import NDArray
from scenery import Spot, backdrop, draw_foreground, draw_perch
from species import SPECIES, Bird, individual

LANDMARKS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    bird: Bird
    rgb_hw3: NDArray[np.uint8]
    mask_hw: NDArray[np.uint8]  # part ids, see canvas.PARTS
    landmarks: dict[str, tuple[float, float]]  # pixels; what cannot be seen is absent


def _wings(p: Painter, s: Skeleton, behind: bool) -> None:
    g, view = p.bird.genus, p.bird.view
    if view == "flying":
        tip = s.wing_tips[1] if behind else s.wing_tips[0]
        root = s.torso(at((0.10, -0.25 * g.girth) if not behind else (0.16, -0.4 * g.girth)))[0]
        draw_wing(p, root, tip, 0.22 if g.name != "Stilus" else 0.16, 0.78 if behind else 1.0, 0.10)
    elif view == "side" and not behind:
        root = s.torso(at((0.27, -0.22 * g.girth)))[0]
        draw_wing(p, root, s.wing_tips[0], -0.66 * g.girth)
    elif view == "front" and not behind:
        for x in (-1, 1):
            draw_wing(
                p,
                s.torso(at((x * 0.92 * g.girth, -0.26)))[0],
                s.torso(at((x * 0.72 * g.girth, 0.42)))[0],
                0.075,
            )
    elif view == "back" and not behind:
        for x in (-1, 1):
            root, tip = (
                s.torso(at((x * 0.62 * g.girth, -0.36)))[0],
                s.torso(at((x * 0.20 * g.girth, 0.56)))[0],
            )
            draw_wing(p, root, tip, -x * 0.56 * g.girth)


def _frame(
    bird: Bird, s: Skeleton, width: int, height: int, rng: np.random.Generator
) -> tuple[float, Points]:
    """Pixels per torso length, and where the torso's middle goes, so that the bird fills its share."""
    g = bird.genus
    bill = np.array(s.head) + at((g.head + g.bill, 0.0), (-g.head, 0.0), (0.0, -1.2 * g.head))
    ends = np.concatenate(
        [bill, s.wing_tips, [s.tail_to], s.feet, s.torso(at((0.5, 0), (-0.5, 0), (0, g.girth)))]
    )
    low, high = ends.min(0), ends.max(0)
    short = min(width, height)
    unit = (
        bird.genus.fill
        * short
        * min(1.02 / (high[0] - low[0]), 0.94 / (high[1] - low[1]))
        * rng.uniform(0.88, 1.04)
    )
    room = np.maximum(short * 0.94 - unit * (high - low), 0) / 2
    shift = rng.uniform(-0.8, 0.8, 2) * room
    middle = at((width / 2, height / 2))[0] + shift - unit * (low + high) / 2
    return unit, middle


def _landmarks(
    bird: Bird, s: Skeleton, mask_hw: NDArray[np.uint8], canvas: Canvas
) -> dict[str, tuple[float, float]]:
    g, side = bird.genus, bird.view in ("side", "flying")
    head = np.array(s.head)
    near, far = ("right", "left") if not bird.left else ("left", "right")
    spots = {
        "back": (s.torso(at((0.05, -0.93 * g.girth) if side else (0, -0.2)))[0], "back"),
        "belly": (s.torso(at((-0.05, 0.75 * g.girth) if side else (0, 0.26)))[0], "belly"),
        "breast": (s.torso(at((0.34, 0.25 * g.girth) if side else (0, -0.1)))[0], "breast"),
        "beak": (head + g.head * (at((1.15, 0.1))[0] if bird.view != "front" else at((0, 0.3))[0]), "bill"),
        "crown": (head + g.head * at((0, -0.8))[0], "crown"),
        "forehead": (
            head + g.head * (at((0.6, -0.62))[0] if bird.view != "front" else at((0, -0.6))[0]),
            "crown",
        ),
        "nape": (head + g.head * at((-0.85, 0.3))[0], "nape"),
        "throat": (
            head + g.head * (at((0.45, 0.8))[0] if bird.view != "front" else at((0, 0.85))[0]),
            "throat",
        ),
        "tail": (0.4 * np.array(s.tail_from) + 0.6 * np.array(s.tail_to), "tail"),
        f"{near} eye": (
            head + g.head * (at((0.34, -0.1))[0] if bird.view != "front" else at((-0.42, -0.1))[0]),
            "eye",
        ),
        f"{near} wing": (s.torso(at((-0.15, 0.0) if side else (-0.8 * g.girth, 0.1)))[0], "wing"),
    }
    if bird.view == "front":
        spots[f"{far} eye"] = (head + g.head * at((0.42, -0.1))[0], "eye")
    if not side:
        spots[f"{far} wing"] = (s.torso(at((0.8 * g.girth, 0.1)))[0], "wing")
    for name, foot in zip((f"{near} leg", f"{far} leg"), s.feet, strict=False):
        spots[name] = (foot + at((0.0, -0.04))[0], "leg")
    seen = {}
    for name, (point, part) in spots.items():
        x, y = canvas.place(point[None])[0]
        left, top = int(x) - 3, int(y) - 3
        window = mask_hw[max(top, 0) : max(top + 7, 0), max(left, 0) : max(left + 7, 0)]
        if (window == PART_ID[part]).any():
            seen[name] = (float(x), float(y))
    return seen


def draw_bird(seed: int, species: int, number: int) -> Picture:
    """Draw individual `number` of a species (counted from 0). The same three integers give the same pixels."""
    return draw_again(seed, species, number, [])[0]


def draw_again(
    seed: int, species: int, number: int, changes: Sequence[Callable[[Bird], Bird]]
) -> list[Picture]:
    """The picture of `draw_bird`, and one for each change of what the bird wears or of the shape of a part.

    Pose, place, light, surroundings and grain are decided once, from the bird as it is. Pixels that a change does not
    paint otherwise are equal, although a shape that grows would throw a softer shade on those around it.
    """
    rng = np.random.default_rng([seed, species, number])
    bird = individual(SPECIES[species], rng)
    short, ratio = int(rng.integers(168, 201)), rng.uniform(1.08, 1.42)
    width, height = (round(short * ratio), short) if rng.random() < 0.75 else (short, round(short * ratio))
    cast = 1 + rng.normal(0, 0.02, 3).clip(-0.04, 0.04) + rng.normal(0, 0.05)
    s = pose(bird, rng)
    scene = Canvas(width, height)
    unit, middle = _frame(bird, s, width, height, rng)
    facing = -1.0 if bird.left else 1.0
    middle[0] = width - middle[0] if bird.left else middle[0]

    def place(points: Points) -> Points:
        return middle + unit * points * np.array([facing, 1.0])

    spot = Spot(bird.scene, unit, middle, place(s.feet), place(s.bill_tip(bird.genus)), facing)
    tint_3 = np.array([1, 1, 1], np.float32) * np.float32(rng.uniform(0.86, 1.06))
    tint_3 += np.array([1, 0, -1], np.float32) * np.float32(rng.normal(0, 0.03))
    background_hw3 = backdrop(bird.scene, width, height, rng) * tint_3
    draw_perch(scene, spot, rng)
    birds = [bird, *(change(bird) for change in changes)]
    canvases = [scene.copy() for _ in birds]
    radii = _SpotRadii(rng, [seed, species, number])
    for one, canvas in zip(birds, canvases, strict=True):
        canvas.place = place
        _draw_body(Painter(canvas, one, radii, (float(cast[0]), float(cast[1]), float(cast[2]))), s)
        canvas.place = untouched
        radii.again()
    for canvas in canvases:
        after = deepcopy(rng)
        draw_foreground(canvas, spot, after)
    rng = after
    light = float(rng.uniform(0.12, 0.34))
    grain_hw1 = rng.normal(0, 2.0, (height, width, 1))
    pictures, first_hw3 = [], canvases[0].composite(background_hw3, light, tint_3)
    for one, canvas in zip(birds, canvases, strict=True):
        rgb_hw3 = first_hw3
        if canvas is not canvases[0]:
            changed_hw1 = canvas.differs(canvases[0])[..., None]
            rgb_hw3 = np.where(changed_hw1, canvas.composite(background_hw3, light, tint_3), first_hw3)
        mask_hw = canvas.mask()
        canvas.place = place
        picture_hw3 = np.clip(np.round(rgb_hw3 + grain_hw1), 0, 255).astype(np.uint8)
        pictures.append(Picture(one, picture_hw3, mask_hw, _landmarks(one, s, mask_hw, canvas)))
    return pictures


class _SpotRadii:
    """The radius of spots on a part: the first drawing decides it, later ones take the same in the same order.

    Spots that the first one lacks get theirs from numbers of their own, so that nothing else is decided otherwise.
    """

    def __init__(self, rng: np.random.Generator, seed: Sequence[int]) -> None:
        self._draw, self._seed = rng, seed
        self._first: dict[str, list[float]] = {}
        self._left: dict[str, list[float]] | None = None

    def again(self) -> None:
        self._left = {part: [*radii] for part, radii in self._first.items()}
        self._draw = np.random.default_rng([*self._seed, 1])

    def __call__(self, part: str) -> float:
        if self._left is not None and self._left.get(part):
            return self._left[part].pop(0)
        radius = float(self._draw.uniform(0.026, 0.032))
        if self._left is None:
            self._first.setdefault(part, []).append(radius)
        return radius


def _draw_body(p: Painter, s: Skeleton) -> None:
    _wings(p, s, behind=True)
    draw_tail(p, s)
    draw_legs(p, s)
    draw_torso(p, s)
    _wings(p, s, behind=False)
    draw_head(p, s)
