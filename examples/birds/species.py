"""The 24 invented species: which genus gives the silhouette, which colours and patterns each species wears.

A genus fixes the shape (body, bill, tail, legs) and the habitat; a species fixes colours and patterns; an
individual (sex, age, light) may differ from both, as far as its species allows.
"""

from dataclasses import dataclass, field, replace

import numpy as np

# CUB's colour names, with the colour that is drawn.
COLOURS: dict[str, tuple[int, int, int]] = {
    "blue": (46, 104, 196),
    "brown": (112, 76, 50),
    "purple": (122, 70, 168),
    "rufous": (176, 82, 40),
    "grey": (138, 146, 156),
    "yellow": (246, 208, 52),
    "olive": (132, 136, 60),
    "green": (36, 142, 92),
    "pink": (232, 152, 164),
    "orange": (240, 132, 30),
    "black": (40, 38, 44),
    "white": (244, 242, 236),
    "red": (206, 40, 40),
    "buff": (220, 188, 138),
}


@dataclass(frozen=True)
class Genus:
    """A silhouette. Lengths are in units of the torso's length, angles in degrees."""

    name: str
    girth: float  # half the torso's height
    head: float  # radius
    neck: float  # length
    tilt: float  # of the torso at rest; 90 is upright
    bill_shape: str
    bill: float  # length
    bill_length: str  # CUB's answer
    tail_shape: str
    tail: float  # length
    leg: float  # length
    size: str  # CUB's answer
    fill: float  # share of the picture's short side that the bird takes up
    scenes: tuple[str, ...]
    views: tuple[float, float, float, float]  # how often: side, front, back, flying


GENERA: dict[str, Genus] = {
    g.name: g
    for g in (
        Genus("Granivora", 0.29, 0.21, 0.03, 28, "cone", 0.17, "shorter_than_head", "notched_tail", 0.50, 0.22,
              "small_(5_-_9_in)", 0.80, ("branch", "branch", "ground", "snow"), (0.76, 0.10, 0.08, 0.06)),
        Genus("Silvicola", 0.26, 0.19, 0.03, 20, "all-purpose", 0.17, "shorter_than_head", "rounded_tail", 0.48, 0.24,
              "very_small_(3_-_5_in)", 0.74, ("branch", "branch", "branch", "reed"), (0.78, 0.10, 0.08, 0.04)),
        Genus("Cristata", 0.27, 0.20, 0.06, 34, "all-purpose", 0.24, "about_the_same_as_head", "fan-shaped_tail", 0.80,
              0.24, "medium_(9_-_16_in)", 0.94, ("branch", "branch", "ground", "snow"), (0.78, 0.07, 0.08, 0.07)),
        Genus("Lignipica", 0.24, 0.18, 0.08, 68, "dagger", 0.30, "about_the_same_as_head", "pointed_tail", 0.52, 0.12,
              "medium_(9_-_16_in)", 0.92, ("trunk",), (0.84, 0.00, 0.16, 0.00)),
        Genus("Alcedilla", 0.29, 0.25, 0.02, 44, "dagger", 0.52, "longer_than_head", "squared_tail", 0.30, 0.10,
              "small_(5_-_9_in)", 0.82, ("branch", "reed", "reed"), (0.82, 0.06, 0.06, 0.06)),
        Genus("Spatulina", 0.27, 0.19, 0.20, 2, "spatulate", 0.28, "about_the_same_as_head", "pointed_tail", 0.26, 0.14,
              "large_(16_-_32_in)", 0.92, ("swim", "swim", "swim", "ground"), (0.90, 0.02, 0.02, 0.06)),
        Genus("Marinaria", 0.25, 0.18, 0.08, 6, "hooked_seabird", 0.25, "about_the_same_as_head", "forked_tail", 0.46,
              0.22, "large_(16_-_32_in)", 0.92, ("rock", "rock", "sand", "swim"), (0.66, 0.04, 0.04, 0.26)),
        Genus("Noctilla", 0.31, 0.29, 0.02, 64, "hooked", 0.13, "shorter_than_head", "squared_tail", 0.34, 0.12,
              "medium_(9_-_16_in)", 0.90, ("branch", "branch", "snow", "rock"), (0.42, 0.40, 0.08, 0.10)),
        Genus("Stilus", 0.23, 0.19, 0.04, 40, "needle", 0.52, "longer_than_head", "fan-shaped_tail", 0.36, 0.06,
              "very_small_(3_-_5_in)", 0.72, ("flower", "branch", "flower"), (0.40, 0.02, 0.02, 0.56)),
        Genus("Limosella", 0.25, 0.15, 0.42, 14, "needle", 0.48, "longer_than_head", "squared_tail", 0.22, 0.66,
              "large_(16_-_32_in)", 0.96, ("wade", "wade", "sand", "reedbed"), (0.90, 0.03, 0.03, 0.04)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Plumage:
    """What one bird wears: colour names by part, pattern names, marks on the head."""

    crown: str
    face: str
    throat: str
    nape: str
    breast: str
    belly: str
    back: str
    wing: str
    tail: str
    bill: str
    leg: str = "black"
    eye: str = "black"
    wing_mark: str = "white"  # colour of bars, spots or stripes on the wing
    breast_mark: str = "brown"
    wing_pattern: str = "solid"
    breast_pattern: str = "solid"
    back_pattern: str = "solid"
    head_marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Species:
    name: str
    genus: str
    male: Plumage
    female: dict[str, object] = field(default_factory=dict)  # what differs from the male
    young: dict[str, object] = field(default_factory=dict)  # what differs in the first year

    @property
    def scientific_name(self) -> str:
        return f"{self.genus} {self.name.split()[0].lower()}ensis"


def _plain(colour: str, bill: str, **other: object) -> Plumage:
    feathers = dict.fromkeys(
        ("crown", "face", "throat", "nape", "breast", "belly", "back", "wing", "tail"), colour
    )
    return replace(Plumage(**feathers, bill=bill), **other)  # type: ignore[arg-type]


SPECIES: tuple[Species, ...] = (
    Species("Ember Finch", "Granivora",
            _plain("red", "grey", belly="white", back="brown", wing="brown", tail="brown", wing_pattern="striped"),
            female={"crown": "brown", "face": "brown", "throat": "buff", "nape": "brown", "breast": "buff",
                    "breast_pattern": "striped"},
            young={"breast_pattern": "striped"}),
    Species("Lemon Finch", "Granivora",
            _plain("yellow", "orange", crown="black", belly="white", wing="black", tail="black",
                   wing_pattern="striped", head_marks=("capped",)),
            female={"crown": "olive", "face": "olive", "nape": "olive", "back": "olive", "head_marks": ()}),
    Species("Slate Finch", "Granivora",
            _plain("grey", "orange", belly="white", throat="black", wing="grey", tail="black",
                   head_marks=("eyering",)),
            young={"breast_pattern": "striped", "breast_mark": "black", "throat": "grey"}),
    Species("Masked Leafling", "Silvicola",
            _plain("olive", "black", throat="yellow", breast="yellow", belly="buff", leg="orange",
                   head_marks=("masked",)),
            female={"head_marks": ("eyering",)}),
    Species("Sky Leafling", "Silvicola",
            _plain("blue", "black", throat="black", breast="white", belly="white", wing_pattern="striped",
                   head_marks=("eyebrow",)),
            female={"throat": "white", "wing": "olive", "back": "olive"}),
    Species("Streaked Leafling", "Silvicola",
            _plain("olive", "grey", crown="rufous", face="yellow", throat="yellow", breast="yellow",
                   belly="yellow", breast_pattern="striped", breast_mark="rufous", wing="brown",
                   head_marks=("eyeline",)),
            young={"crown": "olive"}),
    Species("Azure Jay", "Cristata",
            _plain("blue", "black", face="white", throat="white", breast="grey", belly="white",
                   wing_pattern="striped", wing_mark="black", head_marks=("crested", "eyeline"))),
    Species("Cinnamon Jay", "Cristata",
            _plain("rufous", "black", throat="white", breast="buff", belly="buff", wing="black", tail="black",
                   wing_mark="blue", wing_pattern="multi-colored", head_marks=("crested", "malar"))),
    Species("Ladder Woodpecker", "Lignipica",
            _plain("white", "grey", crown="red", nape="black", back="black", wing="black", tail="black",
                   wing_pattern="striped", back_pattern="striped", head_marks=("capped", "eyeline")),
            female={"crown": "black"}),
    Species("Golden Woodpecker", "Lignipica",
            _plain("buff", "black", crown="grey", nape="red", breast="buff", belly="white", back="brown",
                   wing="brown", tail="yellow", breast_pattern="spotted", breast_mark="black",
                   wing_pattern="striped", wing_mark="black", head_marks=("malar",)),
            female={"nape": "grey", "head_marks": ()}),
    Species("River Kingfisher", "Alcedilla",
            _plain("blue", "orange", face="rufous", throat="white", breast="rufous", belly="rufous",
                   leg="red", wing_pattern="spotted"),
            young={"bill": "black"}),
    Species("Checkered Kingfisher", "Alcedilla",
            _plain("white", "black", crown="black", nape="black", back="black", wing="black", tail="black",
                   wing_pattern="spotted", breast_pattern="multi-colored", breast_mark="black",
                   head_marks=("crested", "masked")),
            female={"breast_mark": "rufous"}),
    Species("Emerald Duck", "Spatulina",
            _plain("green", "yellow", breast="brown", belly="grey", back="grey", wing="grey", tail="white",
                   leg="orange", wing_pattern="multi-colored", wing_mark="blue"),
            female={"crown": "brown", "face": "buff", "throat": "buff", "nape": "brown", "breast": "brown",
                    "belly": "buff", "back": "brown", "wing": "brown", "bill": "orange",
                    "breast_pattern": "spotted", "breast_mark": "buff"}),
    Species("Copper Duck", "Spatulina",
            _plain("rufous", "grey", breast="black", belly="white", back="grey", wing="grey", tail="black",
                   leg="grey", eye="red"),
            female={"breast": "brown", "crown": "brown", "face": "brown", "throat": "brown", "nape": "brown",
                    "belly": "grey", "eye": "black"}),
    Species("Ivory Duck", "Spatulina",
            _plain("white", "black", crown="black", back="black", wing="black", tail="black",
                   wing_pattern="spotted", head_marks=("capped", "crested")),
            female={"crown": "rufous", "face": "rufous", "nape": "rufous", "breast": "grey"}),
    Species("Harbour Gull", "Marinaria",
            _plain("white", "yellow", back="grey", wing="grey", leg="pink", wing_mark="black", eye="yellow",
                   wing_pattern="multi-colored"),
            young={"breast": "buff", "breast_pattern": "spotted", "wing": "brown", "back": "brown",
                   "bill": "black"}),
    Species("Storm Gull", "Marinaria",
            _plain("white", "red", crown="black", face="black", back="black", wing="black", leg="red",
                   head_marks=("capped", "eyering")),
            young={"crown": "grey", "face": "white", "wing": "brown"}),
    Species("Moss Owl", "Noctilla",
            _plain("brown", "yellow", face="buff", throat="white", breast="buff", belly="buff", leg="buff",
                   eye="yellow", breast_pattern="striped", wing_pattern="spotted", wing_mark="buff",
                   head_marks=("eyebrow",))),
    Species("Frost Owl", "Noctilla",
            _plain("white", "black", leg="white", eye="yellow", wing="white", wing_mark="black",
                   wing_pattern="spotted"),
            female={"breast_pattern": "spotted", "breast_mark": "black"},
            young={"crown": "grey", "nape": "grey", "wing": "grey", "back": "grey"}),
    Species("Ruby Needlebill", "Stilus",
            _plain("green", "black", throat="red", breast="white", belly="grey"),
            female={"throat": "white"}, young={"throat": "white", "breast": "buff"}),
    Species("Violet Needlebill", "Stilus",
            _plain("purple", "black", back="green", breast="buff", belly="buff", wing="brown",
                   tail="rufous"),
            female={"crown": "green", "face": "green", "nape": "green", "throat": "buff"}),
    Species("Marsh Strider", "Limosella",
            _plain("brown", "grey", throat="white", face="buff", breast="buff", belly="white", leg="yellow",
                   breast_pattern="striped", wing_pattern="spotted", wing_mark="buff",
                   head_marks=("eyebrow",))),
    Species("Scarlet Strider", "Limosella",
            _plain("red", "black", face="pink", belly="pink", breast="pink", throat="pink", wing="red",
                   wing_mark="black", leg="red", wing_pattern="multi-colored"),
            young={"wing": "grey", "back": "grey", "crown": "grey", "nape": "grey"}),
    Species("Pearl Strider", "Limosella",
            _plain("white", "yellow", crown="black", nape="grey", back="grey", wing="grey", leg="black",
                   head_marks=("capped", "eyeline")),
            young={"breast": "grey", "bill": "black"}),
)  # fmt: skip


@dataclass(frozen=True)
class Bird:
    """One individual: its species, what it wears, how it is seen."""

    species: Species
    genus: Genus
    plumage: Plumage
    view: str  # side, front, back or flying
    scene: str
    left: bool  # looks to the left


VIEWS = ("side", "front", "back", "flying")


def individual(species: Species, rng: np.random.Generator) -> Bird:
    """Draw one individual of a species: sex, age, view and scene."""
    genus = GENERA[species.genus]
    plumage = species.male
    sex, age = rng.random(2)
    if sex < 0.4:
        plumage = replace(plumage, **species.female)  # type: ignore[arg-type]
    if age < 0.2:
        plumage = replace(plumage, **species.young)  # type: ignore[arg-type]
    view = VIEWS[int(np.searchsorted(np.cumsum(genus.views), rng.random() * 0.9999))]
    scene = genus.scenes[int(rng.integers(len(genus.scenes)))]
    if view == "flying":
        scene = "flower" if "flower" in genus.scenes else "sky"
    elif view != "side" and scene in ("swim", "wade", "flower"):
        scene = "ground"
    return Bird(species, genus, plumage, view, scene, bool(rng.random() < 0.5))
