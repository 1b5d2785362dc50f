"""The head: crown, face, throat, the marks around the eye, the crest and the bill."""

from collections.abc import Callable

import numpy as np
from body import Painter, Skeleton, at
from canvas import Points, band, disc, smooth

# Outlines of bills in units of the head's radius, for a bill of length `n`; the base is at x = 0.8.
BILLS: dict[str, Callable[[float], Points]] = {
    "cone": lambda n: at((0.75, -0.34), (0.95 + 0.45 * n, -0.14), (0.95 + n, 0.16), (0.9 + 0.3 * n, 0.42),
                         (0.75, 0.52)),
    "all-purpose": lambda n: at((0.8, -0.14), (0.95 + 0.6 * n, -0.03), (0.95 + n, 0.12), (0.9 + 0.4 * n, 0.24),
                                (0.8, 0.3)),
    "dagger": lambda n: at((0.75, -0.22), (0.95 + n, 0.08), (0.95 + 0.95 * n, 0.13), (0.75, 0.38)),
    "needle": lambda n: at((0.8, -0.05), (0.95 + 0.6 * n, 0.0), (0.95 + n, 0.16), (0.95 + 0.6 * n, 0.16), (0.8, 0.2)),
    "hooked": lambda n: at((0.7, -0.25), (0.95 + 0.5 * n, -0.22), (0.95 + n, 0.10), (0.92 + 0.9 * n, 0.62),
                           (0.85 + 0.45 * n, 0.34), (0.7, 0.42)),
    "hooked_seabird": lambda n: at((0.75, -0.18), (0.9 + 0.75 * n, -0.14), (0.96 + n, 0.06), (0.94 + n, 0.40),
                                   (0.85 + 0.78 * n, 0.22), (0.75, 0.30)),
    "spatulate": lambda n: at((0.7, -0.26), (0.9 + 0.45 * n, 0.06), (0.95 + 0.85 * n, 0.02), (1.0 + n, 0.20),
                              (0.9 + 0.8 * n, 0.40), (0.9 + 0.3 * n, 0.42), (0.7, 0.42)),
}  # fmt: skip


def draw_head(p: Painter, s: Skeleton) -> None:
    r, front = p.bird.genus.head, p.bird.view == "front"
    cos, sin = np.cos(s.head_turn), np.sin(s.head_turn)
    turn = np.array([[cos, -sin], [sin, cos]])

    def place(points: Points) -> Points:
        return np.array(s.head) + r * points @ turn

    c, plumage = p.canvas, p.bird.plumage
    marks = plumage.head_marks
    if "crested" in marks:
        crest = at((0.55, -0.75), (0.1, -1.35), (-0.75, -1.85), (-0.62, -1.25), (-1.35, -1.35), (-0.95, -0.8),
                   (-1.4, -0.62), (-0.8, -0.2), (0.0, -0.3))  # fmt: skip
        if front:
            crest = at(
                (-0.6, -0.7),
                (-0.35, -1.5),
                (-0.12, -1.2),
                (0.05, -1.75),
                (0.2, -1.2),
                (0.42, -1.5),
                (0.6, -0.7),
            )
        c.fill(place(crest), p.ink("crown", plumage.crown))
    if not front:
        draw_bill(p, place)
    skull = disc(0, 0, 1.04, 0.98)
    c.fill(place(skull), p.ink("face", plumage.face))
    on = c.stencil([place(skull)])

    def paint(points: Points, part: str, colour: str, shade: float = 1.0) -> None:
        c.fill_many([place(points)], p.ink(part, colour, shade), on)

    cap = -0.02 if "capped" in marks else -0.34
    if front:
        paint(smooth(at((-1.3, 0.75), (0, 0.45), (1.3, 0.75), (0, 1.5))), "throat", plumage.throat)
        paint(
            smooth(at((-1.4, cap), (0, cap - 0.15), (1.4, cap), (1.0, -1.5), (-1.0, -1.5))),
            "crown",
            plumage.crown,
        )
    else:
        if p.bird.view != "back":
            paint(
                smooth(at((1.2, 0.35), (0.1, 0.45), (-0.6, 0.95), (0.3, 1.5), (1.2, 1.2))),
                "throat",
                plumage.throat,
            )
        paint(
            smooth(at((-0.45, -0.6), (-0.35, 0.4), (-0.7, 1.2), (-1.5, 0.8), (-1.3, -0.6))),
            "nape",
            plumage.nape,
        )
        cap_edge = at((1.3, cap - 0.12), (0.3, cap - 0.10), (-0.4, cap + 0.10), (-1.3, cap + 0.25))
        paint(np.concatenate([cap_edge, at((-1.3, -1.4), (1.3, -1.4))]), "crown", plumage.crown)
    if p.bird.genus.name == "Noctilla":
        for x in (-0.42, 0.42) if front else (0.30,):
            c.fill(place(disc(x, 0.02, 0.50)), p.ink("face", plumage.face, 0.80))
            c.fill(place(disc(x, 0.02, 0.45)), p.ink("face", plumage.face, 0.95))
    draw_marks(p, paint, front)
    draw_eyes(p, place, front)
    if front:
        draw_bill(p, place)


def draw_marks(p: Painter, paint: Callable[..., None], front: bool) -> None:
    plumage = p.bird.plumage
    dark = "white" if plumage.face == "black" else "black"
    pale = "buff" if plumage.face == "white" else "white"
    lines = {  # points, half-width, colour
        "eyebrow": (at((0.95, -0.28), (0.3, -0.46), (-0.4, -0.38), (-0.85, -0.15)), 0.10, pale),
        "eyeline": (at((1.0, 0.02), (0.35, -0.12), (-0.3, -0.08), (-0.9, 0.10)), 0.09, dark),
        "masked": (at((1.0, 0.05), (0.35, -0.10), (-0.2, -0.05), (-0.75, 0.15)), 0.29, dark),
        "malar": (at((0.85, 0.36), (0.45, 0.55), (-0.05, 0.70)), 0.13, dark),
    }
    if front:
        lines = {
            "eyebrow": (at((0.1, -0.25), (0.5, -0.50), (0.9, -0.28)), 0.11, pale),
            "eyeline": (at((0.15, 0.0), (0.5, -0.08), (1.0, 0.0)), 0.09, dark),
            "masked": (at((-0.05, 0.0), (0.5, -0.08), (1.0, 0.02)), 0.26, dark),
            "malar": (at((0.22, 0.36), (0.45, 0.55), (0.6, 0.72)), 0.12, dark),
        }
    for mark in plumage.head_marks:
        if mark in lines:
            points, width, colour = lines[mark]
            paint(band(points, width), "face", colour)
            if front:
                paint(band(points * at((-1.0, 1.0)), width), "face", colour)


def draw_eyes(p: Painter, place: Callable[[Points], Points], front: bool) -> None:
    c, plumage = p.canvas, p.bird.plumage
    size = 0.31 if p.bird.genus.name == "Noctilla" else 0.19
    dark = (
        plumage.face in ("black", "brown") or "masked" in plumage.head_marks or "capped" in plumage.head_marks
    )
    for x in (-0.42, 0.42) if front else (0.34,):
        y = 0.0 if p.bird.genus.name == "Noctilla" else -0.10
        if "eyering" in plumage.head_marks:
            c.fill(place(disc(x, y, 0.32)), p.ink("face", "white"))
        elif dark and plumage.eye == "black":
            c.fill(place(disc(x, y, size + 0.045)), p.ink("eye", "grey", 0.9))
        if plumage.eye != "black":
            c.fill(place(disc(x, y, size)), p.ink("eye", plumage.eye))
        c.fill(place(disc(x, y, size * (1 if plumage.eye == "black" else 0.62))), p.ink("eye", "black", 0.6))
        c.fill(place(disc(x - 0.06, y - 0.07, 0.062)), p.ink("eye", "white", 1.04))


def draw_bill(p: Painter, place: Callable[[Points], Points]) -> None:
    c, plumage, g = p.canvas, p.bird.plumage, p.bird.genus
    upper, lower = p.ink("bill", plumage.bill), p.ink("bill", plumage.bill, 0.72)
    if p.bird.view == "front":  # foreshortened
        depth = 0.62 if g.bill_shape in ("needle", "dagger") else 0.5
        width = {"spatulate": 0.34, "needle": 0.10, "cone": 0.30}.get(g.bill_shape, 0.2)
        c.fill(place(smooth(at((-width, 0.12), (0, -0.02), (width, 0.12), (0, 0.12 + depth)))), upper)
        c.fill(place(at((-width * 0.5, 0.2), (width * 0.5, 0.2), (0, 0.10 + depth))), lower)
        return
    n = g.bill / g.head
    outline = BILLS[g.bill_shape](n)
    c.fill(
        place(outline if g.bill_shape in ("dagger", "needle", "all-purpose", "cone") else smooth(outline)),
        upper,
    )
    half = at((0.6, 0.13), (0.95 + 0.93 * n, 0.14), (0.95 + n, 0.6), (0.6, 0.6))
    if not g.bill_shape.startswith("hooked"):
        c.fill_many([place(half)], lower, c.where(upper))
