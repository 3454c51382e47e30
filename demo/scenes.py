"""Random scenes: what a picture shows and where, before anything is drawn.

Every scene follows from a split's name, a seed and an index alone. The split's name is part of the random stream's
key, so no training picture can appear in an evaluation, whatever seeds are chosen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle")
ANIMALS = ("cat", "dog")
KINDS = ANIMALS + SHAPES

SHAPE_COLOURS = ("red", "green", "blue", "yellow", "purple")
ANIMAL_COLOURS = ("black", "white", "orange", "gray")
COLOURS = SHAPE_COLOURS + ANIMAL_COLOURS

SPLITS = ("train", "evaluate")
MAX_PER_KIND = 6
MAX_PER_COLOUR = 6
MIN_SIDE, MAX_SIDE = 128, 640


@dataclass(frozen=True)
class Thing:
    """One drawn object. `x`, `y` (centre) and `size` (its box's side) are in pixels."""

    kind: str
    colour: str
    x: float
    y: float
    size: float
    angle: float
    mirrored: bool


@dataclass(frozen=True)
class Background:
    """A vertical gradient between two RGB colours, with uniform noise of `noise` grey levels at most."""

    top: tuple[int, int, int]
    bottom: tuple[int, int, int]
    noise: int


@dataclass(frozen=True)
class Scene:
    """A picture to be drawn: `width` and `height` in pixels; `jpeg_quality` 0 stands for a lossless picture."""

    width: int
    height: int
    background: Background
    jpeg_quality: int
    things: tuple[Thing, ...]

    def count(self, kind: str | None = None, colour: str | None = None) -> int:
        """How many things have this kind and this colour; None stands for any."""
        return sum(kind in (None, thing.kind) and colour in (None, thing.colour) for thing in self.things)


def colours_of(kind: str) -> tuple[str, ...]:
    return ANIMAL_COLOURS if kind in ANIMALS else SHAPE_COLOURS


def random_stream(split: str, seed: int, index: int) -> random.Random:
    """The random numbers of one picture and its questions.

    Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    return random.Random(f"{split}/{seed}/{index}")


def random_scene(stream: random.Random) -> Scene:
    """Zero to nine things on a jittered grid that keeps them apart, at most six of a kind and of a colour."""
    labels = _random_labels(stream)
    longer = MIN_SIDE * (MAX_SIDE / MIN_SIDE) ** stream.random()
    ratio = stream.uniform(0.8, 1.25)
    width = max(MIN_SIDE, round(longer * min(1.0, ratio)))
    height = max(MIN_SIDE, round(longer * min(1.0, 1.0 / ratio)))
    return Scene(
        width=width,
        height=height,
        background=_random_background(stream),
        jpeg_quality=stream.choice((0, stream.randint(40, 95))),
        things=_place(stream, labels, width, height),
    )


def _random_labels(stream: random.Random) -> list[tuple[str, str]]:
    if stream.random() < 0.02:
        return []
    room = stream.choice((4, 6, 8, 9, 9))
    labels: list[tuple[str, str]] = []
    for position, kind in enumerate(stream.sample(KINDS, len(KINDS))):
        if position == 0:
            count = min(room, stream.randint(1, MAX_PER_KIND))
        elif stream.random() < 0.5:
            count = min(room, stream.choice((1, 1, 2, 2, 3, 4, 5, 6)))
        else:
            count = 0
        room -= count
        labels += [(kind, colour) for colour in _random_colours(stream, kind, count, labels)]
    return labels


def _random_colours(stream: random.Random, kind: str, count: int, labels: list[tuple[str, str]]) -> list[str]:
    one_colour = stream.choice(colours_of(kind)) if stream.random() < 0.4 else None
    chosen: list[str] = []
    for _ in range(count):
        used = [colour for _, colour in labels] + chosen
        free = [colour for colour in colours_of(kind) if used.count(colour) < MAX_PER_COLOUR]
        chosen.append(one_colour if one_colour in free else stream.choice(free))
    return chosen


def _place(stream: random.Random, labels: list[tuple[str, str]], width: int, height: int) -> tuple[Thing, ...]:
    cells = 2 if len(labels) <= 4 and stream.random() < 0.5 else 3
    cell_width, cell_height = width / cells, height / cells
    places = stream.sample(range(cells * cells), len(labels))
    cells_of_things = (divmod(place, cells) for place in places)
    return tuple(
        place_in_cell(stream, kind, colour, row, column, cell_width, cell_height, (0.62, 0.96), tilt=12)
        for (kind, colour), (row, column) in zip(labels, cells_of_things, strict=True)
    )


def place_in_cell(
    stream: random.Random,
    kind: str,
    colour: str,
    row: int,
    column: int,
    cell_width: float,
    cell_height: float,
    fill: tuple[float, float],
    tilt: float,
) -> Thing:
    """A thing somewhere in its cell of a grid.

    Args:
        cell_width, cell_height: in pixels.
        fill: least and most share of the cell's shorter side that the thing is wide.
        tilt: most degrees that it is turned.
    """
    size = min(cell_width, cell_height) * stream.uniform(*fill)
    slack_x, slack_y = (cell_width - size) / 2, (cell_height - size) / 2
    return Thing(
        kind=kind,
        colour=colour,
        x=(column + 0.5) * cell_width + stream.uniform(-slack_x, slack_x),
        y=(row + 0.5) * cell_height + stream.uniform(-slack_y, slack_y),
        size=size,
        angle=stream.uniform(-tilt, tilt),
        mirrored=stream.random() < 0.5,
    )


def _random_background(stream: random.Random) -> Background:
    def pastel() -> tuple[int, int, int]:
        grey = stream.uniform(185, 215)
        red, green, blue = (round(grey + stream.uniform(-28, 28)) for _ in range(3))
        return red, green, blue

    top = pastel()
    return Background(
        top=top, bottom=pastel() if stream.random() < 0.6 else top, noise=stream.choice((0, 0, stream.randint(2, 14)))
    )
