"""Draws the pictures that ship in demo/pictures/ and writes the right answers beside them: `python -m demo.pictures`.

`pictures.json` maps each file's name to a list of {"type", "question", "answer"}. The answers come from the scenes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from demo.drawing import draw_scene
from demo.questions import COUNT_WORDINGS, NUMBERS, caption, plural, with_article
from demo.scenes import ANIMALS, KINDS, Background, Scene, place_in_cell

FOLDER = Path(__file__).parent / "pictures"
TRUTH = "pictures.json"

SKY = Background(top=(176, 206, 236), bottom=(206, 228, 196), noise=3)
SAND = Background(top=(226, 212, 186), bottom=(214, 190, 176), noise=0)
MINT = Background(top=(190, 222, 208), bottom=(190, 222, 208), noise=0)
LILAC = Background(top=(214, 200, 226), bottom=(190, 196, 222), noise=0)
STONE = Background(top=(208, 206, 200), bottom=(186, 192, 200), noise=0)

Rows = list[list[str]]
LAYOUTS: dict[str, tuple[int, int, Background, Rows]] = {
    "two-cats.jpg": (
        480,
        400,
        SKY,
        [["orange cat", "", "red circle"], ["", "blue square", ""], ["green triangle", "", "black cat"]],
    ),
    "three-dogs.png": (
        400,
        400,
        SAND,
        [["white dog", "yellow circle", ""], ["", "black dog", ""], ["yellow circle", "", "gray dog"]],
    ),
    "cats-and-dogs.jpg": (
        500,
        440,
        MINT,
        [
            ["gray cat", "black dog", "white cat"],
            ["", "purple triangle", ""],
            ["orange cat", "orange dog", "red square"],
        ],
    ),
    "shapes.png": (
        440,
        420,
        LILAC,
        [
            ["red circle", "blue square", "red triangle"],
            ["green circle", "", "yellow circle"],
            ["blue square", "red circle", "purple triangle"],
        ],
    ),
    "one-dog.jpg": (320, 320, STONE, [["orange dog", "blue circle"], ["", "green square"]]),
}


def shipped_scene(name: str) -> Scene:
    """The scene behind a shipped picture. Raises KeyError for an unknown name."""
    width, height, background, rows = LAYOUTS[name]
    stream = random.Random(name)
    cell_width, cell_height = width / len(rows[0]), height / len(rows)
    things = []
    for row, labels in enumerate(rows):
        for column, label in enumerate(labels):
            if not label:
                continue
            colour, kind = label.split()
            tilt = 5 if kind in ANIMALS else 10
            things.append(place_in_cell(stream, kind, colour, row, column, cell_width, cell_height, (0.8, 0.94), tilt))
    jpeg_quality = 0  # saving as JPEG adds the artefacts once
    return Scene(width, height, background, jpeg_quality, tuple(things))


def right_answers(scene: Scene) -> list[dict[str, str]]:
    """Questions without a template that this scene answers unambiguously."""
    truths = []

    def add(kind_of_question: str, question: str, answer: str) -> None:
        truths.append({"type": kind_of_question, "question": question, "answer": answer})

    for kind in KINDS:
        count = scene.count(kind)
        colours = {thing.colour for thing in scene.things if thing.kind == kind}
        add("count", COUNT_WORDINGS[0].format(plural(kind)), NUMBERS[count])
        add("existence", f"is there {with_article(kind)}?", "yes" if count else "no")
        if count == 1:
            add("colour", f"what colour is the {kind}?", colours.pop())
        elif len(colours) == 1:
            add("colour", f"what colour are the {plural(kind)}?", colours.pop())
    for colour in ("red", "blue", "black"):
        add("count", f"how many {colour} objects are there?", NUMBERS[scene.count(colour=colour)])
    for colour, kind in (("red", "circle"), ("blue", "square"), ("orange", "cat")):
        add("existence", f"is there {with_article(colour)} {kind}?", "yes" if scene.count(kind, colour) else "no")
    add("caption", "a photo of", caption(scene))
    return truths


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    truths = {}
    for name in LAYOUTS:
        scene = shipped_scene(name)
        picture = draw_scene(scene, noise_seed=0)
        options = {"quality": 85} if name.endswith(".jpg") else {"optimize": True}
        picture.save(FOLDER / name, **options)
        truths[name] = right_answers(scene)
        print(f"{FOLDER / name}: {caption(scene)}")
    (FOLDER / TRUTH).write_text(json.dumps(truths, indent=1) + "\n")


if __name__ == "__main__":
    main()
