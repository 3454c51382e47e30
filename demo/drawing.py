"""Draws a scene with Pillow. Knows how a cat looks, and nothing of questions or models."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from demo.scenes import Scene, Thing

RGB = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: dict[str, RGB] = {
    "red": (214, 38, 40),
    "green": (44, 150, 60),
    "blue": (36, 84, 214),
    "yellow": (248, 216, 36),
    "purple": (142, 52, 176),
    "black": (34, 32, 36),
    "white": (250, 249, 245),
    "orange": (238, 134, 36),
    "gray": (128, 130, 136),
}
INK: RGB = (26, 24, 28)
PINK: RGB = (236, 142, 150)
SUPERSAMPLING = 2


def draw_scene(scene: Scene, noise_seed: int) -> Image.Image:
    """An RGB picture of `scene.width` x `scene.height` pixels; with JPEG artefacts where the scene asks for them."""
    canvas = _background(scene)
    draw = ImageDraw.Draw(canvas)
    for thing in scene.things:
        _draw_thing(draw, thing)
    picture = canvas.reduce(SUPERSAMPLING)
    if scene.background.noise:
        picture = _add_noise(picture, scene.background.noise, noise_seed)
    if scene.jpeg_quality:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=scene.jpeg_quality)
        picture = Image.open(buffer).convert("RGB")
    return picture


def draw_random_scene(scene: Scene, stream: random.Random) -> Image.Image:
    return draw_scene(scene, noise_seed=stream.getrandbits(32))


def _background(scene: Scene) -> Image.Image:
    size = (scene.width * SUPERSAMPLING, scene.height * SUPERSAMPLING)
    top, bottom = scene.background.top, scene.background.bottom
    if top == bottom:
        return Image.new("RGB", size, top)
    column = np.linspace(top, bottom, size[1]).round().astype(np.uint8)
    return Image.fromarray(column[:, None, :], "RGB").resize(size, Image.Resampling.NEAREST)


def _add_noise(picture: Image.Image, strength: int, seed: int) -> Image.Image:
    pixels = np.asarray(picture).astype(np.int16)
    noise = np.random.default_rng(seed).integers(-strength, strength + 1, pixels.shape, dtype=np.int16)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8), "RGB")


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    pen = _Pen(draw, thing)
    {"circle": _circle, "square": _square, "triangle": _triangle, "cat": _cat, "dog": _dog}[thing.kind](pen)


class _Pen:
    """Draws in a thing's own coordinates: -1 to 1 from left to right and from top to bottom of its box."""

    def __init__(self, draw: ImageDraw.ImageDraw, thing: Thing) -> None:
        self.fill = PALETTE[thing.colour]
        self.dark = sum(self.fill) < 200
        self.shade = _mix(self.fill, (255, 255, 255) if self.dark else INK, 0.22)
        self.ink = _mix(self.fill, INK, 0.75)
        self._draw = draw
        self._x, self._y = thing.x * SUPERSAMPLING, thing.y * SUPERSAMPLING
        self._scale = thing.size * SUPERSAMPLING / 2
        angle = math.radians(thing.angle)
        self._cos, self._sin = math.cos(angle), math.sin(angle)
        self._mirror = -1.0 if thing.mirrored else 1.0
        self._stroke = max(2, round(self._scale * 0.06))

    def polygon(self, points: Iterable[Point], fill: RGB, outline: bool = True) -> None:
        corners = [self._at(point) for point in points]
        self._draw.polygon(corners, fill=fill)
        if outline:
            self._draw.line([*corners, corners[0], corners[1]], fill=self.ink, width=self._stroke, joint="curve")

    def ellipse(
        self, centre: Point, radii: Point, fill: RGB, tilt: float = 0.0, outline: bool = True, steps: int = 28
    ) -> None:
        cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        turns = [2 * math.pi * step / steps for step in range(steps)]
        self.polygon(
            [
                (
                    centre[0] + radii[0] * math.cos(turn) * cos - radii[1] * math.sin(turn) * sin,
                    centre[1] + radii[0] * math.cos(turn) * sin + radii[1] * math.sin(turn) * cos,
                )
                for turn in turns
            ],
            fill,
            outline,
        )

    def line(self, points: Iterable[Point], colour: RGB, width: float) -> None:
        corners = [self._at(point) for point in points]
        thickness = max(1, round(width * self._scale))
        self._draw.line(corners, fill=colour, width=thickness, joint="curve")
        for x, y in (corners[0], corners[-1]):
            radius = thickness / 2
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def tail(self, points: list[Point], width: float) -> None:
        self.line(points, self.ink, width + 2 * self._stroke / self._scale)
        self.line(points, self.fill, width)

    def _at(self, point: Point) -> Point:
        x, y = point[0] * self._mirror, point[1]
        return (
            self._x + self._scale * (x * self._cos - y * self._sin),
            self._y + self._scale * (x * self._sin + y * self._cos),
        )


def _circle(pen: _Pen) -> None:
    pen.ellipse((0, 0), (0.88, 0.88), pen.fill, steps=48)


def _square(pen: _Pen) -> None:
    pen.polygon([(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)], pen.fill)


def _triangle(pen: _Pen) -> None:
    pen.polygon([(0, -0.86), (0.9, 0.74), (-0.9, 0.74)], pen.fill)


def _cat(pen: _Pen) -> None:
    """Sits and looks at us: pointed ears, whiskers, a curled tail."""
    eye = (172, 210, 70) if pen.dark else (70, 150, 60)
    whiskers = (240, 240, 240) if pen.dark else INK
    pen.tail([(0.3, 0.82), (0.62, 0.84), (0.82, 0.66), (0.84, 0.36), (0.7, 0.16), (0.78, 0.02)], 0.13)
    pen.ellipse((0, 0.5), (0.46, 0.46), pen.fill)
    pen.ellipse((-0.2, 0.88), (0.17, 0.1), pen.fill)
    pen.ellipse((0.2, 0.88), (0.17, 0.1), pen.fill)
    for side in (-1, 1):
        pen.polygon([(side * 0.58, -0.28), (side * 0.56, -0.98), (side * 0.06, -0.62)], pen.fill)
        pen.polygon([(side * 0.48, -0.5), (side * 0.48, -0.82), (side * 0.24, -0.64)], PINK, outline=False)
    pen.ellipse((0, -0.26), (0.6, 0.5), pen.fill)
    for side in (-1, 1):
        pen.ellipse((side * 0.25, -0.34), (0.13, 0.14), eye)
        pen.ellipse((side * 0.25, -0.34), (0.045, 0.12), INK, outline=False)
        for drop in (-0.07, 0.02, 0.11):
            pen.line([(side * 0.22, -0.03 + drop / 2), (side * 0.86, -0.06 + drop * 1.6)], whiskers, 0.03)
    pen.polygon([(-0.09, -0.14), (0.09, -0.14), (0, -0.03)], PINK, outline=False)
    pen.line([(-0.14, 0.06), (-0.06, 0.09), (0, 0.0), (0.06, 0.09), (0.14, 0.06)], whiskers, 0.035)


def _dog(pen: _Pen) -> None:
    """Stands, seen from the side: four legs, a long snout with a dark nose, a hanging ear."""
    eye = (240, 240, 240) if pen.dark else INK
    collar = (60, 130, 200)
    pen.tail([(-0.66, 0.02), (-0.84, -0.18), (-0.9, -0.46)], 0.12)
    for x in (-0.42, 0.3):
        pen.polygon([(x - 0.1, 0.2), (x + 0.1, 0.2), (x + 0.1, 0.86), (x - 0.1, 0.86)], pen.shade)
    for x in (-0.62, 0.1):
        pen.polygon([(x - 0.1, 0.2), (x + 0.12, 0.2), (x + 0.12, 0.9), (x - 0.1, 0.9)], pen.fill)
    pen.ellipse((-0.16, 0.16), (0.62, 0.31), pen.fill)
    pen.polygon([(0.1, 0.1), (0.42, 0.24), (0.62, -0.28), (0.24, -0.44)], pen.fill)
    pen.ellipse((0.42, -0.5), (0.34, 0.3), pen.fill)
    pen.ellipse((0.7, -0.4), (0.28, 0.16), pen.fill, tilt=8)
    pen.ellipse((0.92, -0.45), (0.08, 0.07), INK)
    pen.line([(0.66, -0.3), (0.9, -0.31)], pen.ink, 0.035)
    pen.ellipse((0.5, -0.58), (0.055, 0.06), eye, outline=False)
    pen.ellipse((0.2, -0.38), (0.13, 0.34), pen.shade, tilt=12)
    pen.line([(0.2, 0.02), (0.5, 0.1)], collar, 0.09)


def _mix(colour: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue
