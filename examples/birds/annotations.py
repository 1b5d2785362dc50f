"""What annotators would answer about a picture, in CUB's groups, names and certainties.

Each group has one question ("has_wing_color") and is answered at once: the answers of one picture in one group
share a certainty. A part that the picture does not show is "not visible"; who is guessing is often wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from canvas import PART_ID
from drawing import Picture

NOT_VISIBLE, GUESSING, PROBABLY, DEFINITELY = 1, 2, 3, 4
CERTAINTIES = {
    NOT_VISIBLE: "not visible",
    GUESSING: "guessing",
    PROBABLY: "probably",
    DEFINITELY: "definitely",
}
# How often an answer is taken from another value of the group.
ERROR = {NOT_VISIBLE: 1.0, GUESSING: 0.35, PROBABLY: 0.05, DEFINITELY: 0.01}


def _painted(picture: Picture, part: str) -> list[str]:
    """Colours of a part that take up a good share of it: its own, and that of a coarse mark on it."""
    plumage = picture.bird.plumage
    if part == "wing":
        return [plumage.wing] if plumage.wing_pattern == "solid" else [plumage.wing, plumage.wing_mark]
    if part == "breast":
        return (
            [plumage.breast] if plumage.breast_pattern == "solid" else [plumage.breast, plumage.breast_mark]
        )
    return [str(getattr(plumage, part))]


def _primary(picture: Picture) -> list[str]:
    """The colour that covers most of the bird in this picture."""
    plumage = picture.bird.plumage
    area = np.bincount(picture.mask_hw.ravel(), minlength=len(PART_ID))
    colours: dict[str, int] = {}
    for part in ("crown", "face", "throat", "nape", "breast", "belly", "back", "wing", "tail"):
        colour = str(getattr(plumage, part))
        colours[colour] = colours.get(colour, 0) + int(area[PART_ID[part]])
    return [max(colours, key=lambda colour: colours[colour])]


@dataclass(frozen=True)
class Group:
    """One question: its possible answers, the true ones for a picture, the part that must be seen."""

    name: str
    values: tuple[str, ...]
    truth: Callable[[Picture], list[str]]
    part: str | None = None

    def visible(self, picture: Picture) -> bool:
        if self.part is None:
            return True
        return int((picture.mask_hw == PART_ID[self.part]).sum()) >= (
            12 if self.part in ("bill", "leg") else 40
        )


GROUPS: tuple[Group, ...] = (
    Group(
        "has_bill_shape",
        ("dagger", "hooked", "needle", "hooked_seabird", "spatulate", "all-purpose", "cone"),
        lambda p: [p.bird.genus.bill_shape],
        "bill",
    ),
    Group(
        "has_wing_color",
        ("blue", "brown", "red", "grey", "olive", "green", "black", "white", "buff"),
        lambda p: _painted(p, "wing"),
        "wing",
    ),
    Group(
        "has_breast_pattern",
        ("solid", "spotted", "striped", "multi-colored"),
        lambda p: [p.bird.plumage.breast_pattern],
        "breast",
    ),
    Group(
        "has_tail_shape",
        ("forked_tail", "rounded_tail", "notched_tail", "fan-shaped_tail", "pointed_tail", "squared_tail"),
        lambda p: [p.bird.genus.tail_shape],
        "tail",
    ),
    Group(
        "has_head_pattern",
        ("malar", "crested", "masked", "eyebrow", "eyering", "plain", "eyeline", "capped"),
        lambda p: list(p.bird.plumage.head_marks) or ["plain"],
        "face",
    ),
    Group(
        "has_breast_color",
        ("brown", "rufous", "grey", "yellow", "pink", "black", "white", "red", "buff"),
        lambda p: _painted(p, "breast"),
        "breast",
    ),
    Group(
        "has_bill_length",
        ("about_the_same_as_head", "longer_than_head", "shorter_than_head"),
        lambda p: [p.bird.genus.bill_length],
        "bill",
    ),
    Group("has_size", ("large_(16_-_32_in)", "small_(5_-_9_in)", "medium_(9_-_16_in)", "very_small_(3_-_5_in)"),
          lambda p: [p.bird.genus.size]),
    Group(
        "has_primary_color",
        ("blue", "brown", "grey", "yellow", "green", "black", "white", "red"),
        _primary,
    ),
    Group("has_leg_color", ("yellow", "orange", "black", "red"), lambda p: _painted(p, "leg"), "leg"),
    Group("has_bill_color", ("grey", "yellow", "orange", "black", "red"), lambda p: _painted(p, "bill"), "bill"),
    Group(
        "has_crown_color",
        ("blue", "brown", "purple", "rufous", "grey", "green", "black", "white", "red"),
        lambda p: _painted(p, "crown"),
        "crown",
    ),
    Group(
        "has_wing_pattern",
        ("solid", "spotted", "striped", "multi-colored"),
        lambda p: [p.bird.plumage.wing_pattern],
        "wing",
    ),
)  # fmt: skip

ATTRIBUTES = tuple(f"{group.name}::{value}" for group in GROUPS for value in group.values)


@dataclass(frozen=True)
class Answers:
    """One picture's answers, one per attribute; `seconds` is how long the annotator took for the group."""

    present_t: list[int]
    certainty_t: list[int]
    seconds_t: list[float]


def annotate(picture: Picture, rng: np.random.Generator) -> Answers:
    present: list[int] = []
    certainty: list[int] = []
    seconds: list[float] = []
    for group in GROUPS:
        mood, slip, where, pace = rng.random(4)
        if not group.visible(picture):
            level = NOT_VISIBLE
        else:
            level = DEFINITELY if mood < 0.60 else PROBABLY if mood < 0.89 else GUESSING
        chosen = [value for value in group.truth(picture) if value in group.values]
        if slip < ERROR[level]:
            chosen = [group.values[int(where * len(group.values))]]
        if level == NOT_VISIBLE and mood > 0.06:
            chosen = []
        present += [int(value in chosen) for value in group.values]
        certainty += [level] * len(group.values)
        seconds += [round(1.0 + 11.0 * pace**3, 3)] * len(group.values)
    return Answers(present, certainty, seconds)
