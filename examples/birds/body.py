"""Torso, neck, wings, tail and legs, in units of the torso's length: x forwards, y down, the torso's middle at 0."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from canvas import Canvas, Colour, Points, band, disc, smooth
from PIL import Image
from species import COLOURS, Bird, Genus

Map = Callable[[Points], Points]


def at(*points: tuple[float, float]) -> Points:
    return np.array(points, np.float64)


@dataclass
class Painter:
    """A canvas, the bird on it, this bird's own shade of each colour, and the radius of spots on a part."""

    canvas: Canvas
    bird: Bird
    spot_radius: Callable[[str], float]
    cast: Colour

    def ink(self, part: str, colour: str, shade: float = 1.0) -> int:
        rgb = COLOURS[colour]
        return self.canvas.ink(
            (rgb[0] * self.cast[0] * shade, rgb[1] * self.cast[1] * shade, rgb[2] * self.cast[2] * shade),
            part,
        )

    def pattern(
        self, kind: str, part: str, mark: str, spots: Points, stripes: list[Points], on: Image.Image
    ) -> None:
        """Spots or stripes over what the mask `on` covers; a solid pattern paints nothing."""
        if kind == "spotted":
            radius = self.spot_radius(part)
            self.canvas.fill_many([disc(x, y, radius, n=12) for x, y in spots], self.ink(part, mark), on)
        elif kind in ("striped", "multi-colored"):
            self.canvas.fill_many(stripes, self.ink(part, mark), on)


@dataclass(frozen=True)
class Skeleton:
    """Where the parts of one bird in its pose are."""

    torso: Map
    head: tuple[float, float]
    head_turn: float  # radians, positive looks up
    neck: Points  # from the torso to the head
    tail_from: tuple[float, float]
    tail_to: tuple[float, float]
    feet: Points  # {2, 2}; no feet in flight and on water
    wing_tips: Points

    def bill_tip(self, genus: Genus) -> Points:
        reach = (0.95 * genus.head + genus.bill) * np.array([np.cos(self.head_turn), -np.sin(self.head_turn)])
        return np.array(self.head) + reach


def tilted(angle: float) -> Map:
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return lambda points: points @ turn


def pose(bird: Bird, rng: np.random.Generator) -> Skeleton:
    """Choose the angles of torso, neck, head and tail."""
    g = bird.genus
    sway, lift, nod = rng.normal(0, 1, 3).clip(-2, 2)
    if bird.view in ("side", "flying"):
        tilt = g.tilt + 6 * sway if bird.view == "side" else 8 + 8 * sway
        if bird.view == "flying" and bird.scene == "flower":
            tilt = 46 + 6 * sway  # hovering
        torso = tilted(np.deg2rad(tilt))
        start = torso(at((0.34, -0.25 * g.girth)))[0]
        lean = 0.45 + 0.25 * lift if g.neck > 0.1 else 0.6
        if bird.view == "flying":
            lean = 1.6
        direction = np.array([lean, -1.0]) / np.hypot(lean, 1)
        head = start + direction * (g.neck + 0.55 * g.head) + at((0.04, -0.12))[0]
        bend = start + (0.28 * g.neck * at((0.9, -0.2))[0] if g.neck > 0.1 else 0)
        tail_from = torso(at((-0.42, -0.02)))[0]
        tail_tilt = np.deg2rad(tilt * 0.85 + 8 * lift if bird.view == "side" else tilt * 0.4)
        tail_to = tail_from + g.tail * tilted(tail_tilt)(at((-1.0, 0.06)))[0]
        hip = torso(at((-0.06, 0.72 * g.girth)))[0]
        feet = hip + at((0.02, 0.30 * g.girth + g.leg), (0.16, 0.30 * g.girth + g.leg - 0.01))
        if bird.scene == "trunk":
            feet = hip + at((g.girth + 0.12, -0.02), (g.girth + 0.13, 0.16))
        tips = torso(at((-0.62 - 0.16 * (g.name == "Marinaria"), 0.03)))
        if bird.view == "flying":
            tips = torso(at((-0.30 + 0.1 * lift, -0.98), (0.22, -0.86)))
        turn = np.deg2rad(7 * nod + (16 if bird.scene == "trunk" else 0))
    else:
        torso = tilted(np.deg2rad(3 * sway))
        head = at((0.03 * lift, -0.40 - 0.45 * g.head - 0.8 * g.neck))[0]
        bend = at((0.0, -0.45))[0]
        start = at((0.0, -0.25))[0]
        tail_from, tail_to = at((0, 0.30))[0], at((0.05 * lift, 0.40 + 0.72 * g.tail))[0]
        feet = at((-0.11, 0.40 + g.leg), (0.13, 0.40 + g.leg))
        if bird.scene == "trunk":
            feet = at((-0.20, 0.10), (0.20, 0.12))
        tips = at((-0.2, 0.4), (0.2, 0.4))
        turn = np.deg2rad(5 * nod)
    t = np.linspace(0, 1, 25)[:, None]
    neck = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * head
    if bird.view == "flying" or bird.scene == "swim":
        feet = feet[:0]
    tail = (float(tail_to[0]), float(tail_to[1]))
    return Skeleton(torso, (float(head[0]), float(head[1])), turn, neck, tuple(tail_from), tail, feet, tips)


def draw_tail(p: Painter, s: Skeleton) -> None:
    start, end = np.array(s.tail_from), np.array(s.tail_to)
    along = end - start
    across = np.array([-along[1], along[0]]) / np.hypot(*along)
    w = {"fan-shaped_tail": 0.17, "rounded_tail": 0.10}.get(p.bird.genus.tail_shape, 0.09)
    if p.bird.view == "flying":
        w *= 1.5
    ends = {  # (share of the length, share of the width) from one corner to the other
        "forked_tail": [(1.0, 1.25), (0.82, 0.75), (0.55, 0.0), (0.82, -0.75), (1.0, -1.25)],
        "notched_tail": [(1.0, 1.1), (1.0, 0.6), (0.86, 0.0), (1.0, -0.6), (1.0, -1.1)],
        "rounded_tail": [(0.82, 1.0), (0.95, 0.7), (1.0, 0.0), (0.95, -0.7), (0.82, -1.0)],
        "fan-shaped_tail": [(0.84, 1.15), (0.96, 0.6), (1.0, 0.0), (0.96, -0.6), (0.84, -1.15)],
        "pointed_tail": [(0.45, 0.9), (0.7, 0.6), (1.0, 0.0), (0.7, -0.6), (0.45, -0.9)],
        "squared_tail": [(1.0, 1.0), (1.0, 0.5), (1.0, 0.0), (1.0, -0.5), (1.0, -1.0)],
    }[p.bird.genus.tail_shape]
    root = [(-0.15, -0.9), (-0.15, 0.9)]
    outline = np.array([start + u * along + v * w * across for u, v in root + ends])
    base = p.ink("tail", p.bird.plumage.tail)
    p.canvas.fill(outline, base)
    quills = [
        band(np.array([start, start + 0.97 * u * along + 0.75 * v * w * across]), 0.006) for u, v in ends[1:4]
    ]
    p.canvas.fill_many(quills, p.ink("tail", p.bird.plumage.tail, 0.72), p.canvas.where(base))


def draw_legs(p: Painter, s: Skeleton) -> None:
    side = p.bird.view == "side"
    for i, foot in enumerate(s.feet):
        ink = p.ink("leg", p.bird.plumage.leg, 0.85 if i else 1.0)
        hip = (
            s.torso(at((-0.06 + 0.06 * i, 0.6 * p.bird.genus.girth)))[0] if side else foot * at((0.8, 0.0))[0]
        )
        if p.bird.scene == "trunk":
            hip, knee = foot * 0.3 + hip * 0.7, (foot + hip) / 2
        else:
            hip = hip if side else np.array([foot[0] * 0.8, 0.30])
            knee = (hip + foot) / 2 + at((-0.05 if side else 0.0, 0.02))[0]
        p.canvas.fill(band(np.array([hip, knee, foot]), np.array([0.026, 0.019, 0.017])), ink)
        for toe in at((0.11, 0.015), (0.06, 0.035), (-0.07, 0.02)) * (1 if side else 0.8):
            if p.bird.scene == "trunk":
                toe = toe[::-1] * at((1.0, -1.0))[0]
            p.canvas.fill(band(np.array([foot, foot + toe]), np.array([0.018, 0.010])), ink)


_PROFILE = ([0, 0.06, 0.25, 0.5, 0.7, 0.87, 1], [0.35, 0.78, 1, 0.93, 0.68, 0.36, 0.03])


def draw_wing(
    p: Painter, root: Points, tip: Points, half: float, shade: float = 1.0, fingers: float = 0.0
) -> None:
    """A wing along root-tip; (u, v) run along it from 0 to 1 and across it from -1 to 1."""
    along = tip - root
    across = np.array([-along[1], along[0]]) / np.hypot(*along) * half

    def wing(u: Points | float, v: Points | float) -> Points:
        u, v = np.broadcast_arrays(np.asarray(u, np.float64), np.asarray(v, np.float64))
        width = np.interp(u, *_PROFILE)
        sweep = 0.10 * np.sin(np.pi * u)
        return root + u[..., None] * along + (v * width + sweep)[..., None] * across

    plumage = p.bird.plumage
    u = np.linspace(0, 1, 40)
    edge = 1 + fingers * np.abs(np.sin(9 * np.pi * u)) * (u > 0.25)
    outline = np.concatenate([wing(u, -1.0), wing(u[::-1], edge[::-1])])
    base, dark = p.ink("wing", plumage.wing, shade), p.ink("wing", plumage.wing, 0.74 * shade)
    p.canvas.fill(outline, base)
    on = p.canvas.stencil([outline])
    grid = at(*[(0.12 + 0.135 * i, v) for i in range(7) for v in (-0.72, -0.24, 0.24, 0.72)])
    grid[:, 0] += 0.05 * (np.arange(len(grid)) % 2)
    spots = wing(grid[:, 0], grid[:, 1])
    bars = [band(wing(np.full(7, c) + 0.10 * np.linspace(1, 0, 7) ** 2, np.linspace(-1.2, 1.3, 7)), 0.021)
            for c in (0.20, 0.34, 0.48, 0.62)]  # fmt: skip
    feathers = [band(wing(np.linspace(0.40, 0.97, 9), np.linspace(v, 0.5 * v, 9)), 0.0065)
                for v in (-0.55, -0.15, 0.25, 0.62)]  # fmt: skip
    coverts = band(wing(0.40 - 0.12 * np.linspace(-1, 1, 9) ** 2, np.linspace(-1.1, 1.1, 9)), 0.009)
    p.canvas.fill_many([*feathers, coverts], dark, on)
    p.canvas.fill_many([band(outline[40:72], 0.012)], dark, on)
    if plumage.wing_pattern == "multi-colored":
        v = np.linspace(-1.2, 1.4, 9)
        patch = [np.concatenate([wing(0.70 + 0 * v, v), wing(1.05 + 0 * v, v[::-1])])]
        mirror = [
            np.concatenate([wing(0.40 + 0 * v, v * 0.3 + 0.75), wing(0.60 + 0 * v, v[::-1] * 0.3 + 0.75)])
        ]
        frame = [
            np.concatenate([wing(0.36 + 0 * v, v * 0.34 + 0.75), wing(0.63 + 0 * v, v[::-1] * 0.34 + 0.75)])
        ]
        p.canvas.fill_many(frame, p.ink("wing", "white", shade), on)
        p.canvas.fill_many(patch + mirror, p.ink("wing", plumage.wing_mark, shade), on)
    else:
        p.pattern(plumage.wing_pattern, "wing", plumage.wing_mark, spots, bars, on)


def draw_torso(p: Painter, s: Skeleton) -> None:
    """Back, breast and belly with their patterns, then the neck."""
    g, plumage, c = p.bird.genus, p.bird.plumage, p.canvas
    side, rear = p.bird.view in ("side", "flying"), p.bird.view == "back"
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if side:
        outline = s.torso(
            np.stack([0.5 * np.cos(angle), g.girth * np.sin(angle) * (1 + 0.2 * np.cos(angle))], 1)
        )
        belly = smooth(
            at((-0.60, 0.02), (-0.2, 0.20 * g.girth), (0.20, 0.30 * g.girth), (0.45, 0.6), (-0.6, 0.6))
        )
        breast = smooth(
            at((0.24, -0.6 * g.girth), (0.10, 0.4 * g.girth), (0.14, 0.55), (0.7, 0.5), (0.7, -0.3))
        )
    else:
        outline = s.torso(np.stack([1.08 * g.girth * np.cos(angle), 0.45 * np.sin(angle)], 1))
        belly = smooth(at((-0.6, 0.08), (0.0, 0.13), (0.6, 0.08), (0.6, 0.6), (-0.6, 0.6)))
        breast = smooth(at((-0.6, 0.08), (0.0, 0.15), (0.6, 0.08), (0.5, -0.6), (-0.5, -0.6)))
    back_ink = p.ink("back", plumage.back)
    c.fill(outline, back_ink)
    on = c.stencil([outline])
    if not rear:
        c.fill_many([s.torso(belly)], p.ink("belly", plumage.belly), on)
        breast_ink = p.ink("breast", plumage.breast)
        c.fill_many([s.torso(breast)], breast_ink, on)
        mesh = at(
            *[(0.04 + 0.085 * i, -0.30 + 0.085 * j + 0.04 * (i % 2)) for i in range(7) for j in range(8)]
        )
        streaks = [band(at((0.60, y), (0.0, y + 0.05)), 0.0135) for y in np.arange(-0.30, 0.45, 0.075)]
        if not side:
            mesh = mesh - at((0.30, 0.12))
            streaks = [band(at((x, -0.5), (x * 1.1, 0.14)), 0.0135) for x in np.arange(-0.3, 0.31, 0.075)]
        if plumage.breast_pattern == "multi-colored":  # a band across
            streaks = [
                band(
                    at((0.40, -0.5), (0.27, 0.0), (0.24, 0.5)) if side else at((-0.5, -0.10), (0.5, -0.10)),
                    0.06,
                )
            ]
        where = c.where(breast_ink)
        p.pattern(
            plumage.breast_pattern,
            "breast",
            plumage.breast_mark,
            s.torso(mesh),
            [s.torso(b) for b in streaks],
            where,
        )
    if plumage.back_pattern == "striped":
        bars = [band(at((x, -0.6), (x - 0.05, 0.6)), 0.022) for x in np.arange(-0.4, 0.4, 0.12)]
        p.pattern("striped", "back", "white", at(), [s.torso(b) for b in bars], c.where(back_ink))
    draw_neck(p, s)


def draw_neck(p: Painter, s: Skeleton) -> None:
    g, plumage, c = p.bird.genus, p.bird.plumage, p.canvas
    thin = 0.45 if g.neck > 0.3 else 0.9
    widths = np.linspace(min(0.72 * g.girth, 1.3 * g.head), thin * g.head, len(s.neck))
    if g.neck > 0.3:
        widths = np.interp(np.linspace(0, 1, len(s.neck)), [0, 0.2, 0.45, 1], [0.17, 0.13, 0.08, 0.068])
    nape, throat = p.ink("nape", plumage.nape), p.ink("throat", plumage.throat)
    discs = [disc(x, y, w) for (x, y), w in zip(s.neck, widths, strict=True)]
    for shape in discs[5:]:
        c.fill(shape, nape)
    if p.bird.view != "back":
        shift = at((0.55, 0.25))[0] if p.bird.view != "front" else at((0.0, 0.1))[0]
        fronts = [shape + shift * w for shape, w in zip(discs, widths, strict=True)]
        c.fill_many(fronts[8:], throat, c.where(nape))
