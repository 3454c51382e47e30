"""Questions about a scene and their answers. Knows the scene, never its pixels.

Answers are words: counts `zero` to `six`, `yes` and `no`, a colour's name, or a caption that lists the things kind by
kind in one fixed order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from demo.scenes import COLOURS, KINDS, Scene, colours_of

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
TYPES = ("count", "colour", "existence", "caption")
TEMPLATES = ("Question: {} Answer:", "Question: {} Short answer:")

COUNT_WORDINGS = (
    "how many {} are there?",
    "how many {} are in the picture?",
    "how many {} are in this picture?",
    "how many {} are in the image?",
    "how many {} are there in the picture?",
    "how many {} can you see?",
    "how many {} do you see?",
    "how many {} are shown?",
    "what is the number of {}?",
)
COLOUR_WORDINGS = (
    "what colour is the {}?",
    "what color is the {}?",
    "which colour is the {}?",
    "which color is the {}?",
    "what is the colour of the {}?",
    "what is the color of the {}?",
    "what color is the {} in the picture?",
    "what colour does the {} have?",
)
COLOURS_WORDINGS = (
    "what colour are the {}?",
    "what color are the {}?",
    "what is the colour of the {}?",
    "what is the color of the {}?",
)
EXISTENCE_WORDINGS = (
    "is there {one}?",
    "is there {one} in the picture?",
    "is there {one} in the image?",
    "can you see {one}?",
    "do you see {one}?",
    "are there any {many}?",
    "are there any {many} in the picture?",
)
CAPTION_PROMPTS = (
    "a photo of",
    "a picture of",
    "an image of",
    "describe the picture.",
    "describe the image.",
    "what is in the picture?",
    "what can you see?",
    "what do you see?",
    "what is shown in the picture?",
)


@dataclass(frozen=True)
class Question:
    """`type` is one of TYPES; `prompt` is what the model reads, `answer` what it must say."""

    type: str
    prompt: str
    answer: str


def plural(kind: str) -> str:
    return kind + "s"


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def caption(scene: Scene) -> str:
    """Such as `two cats, a dog and three circles`, in the order of KINDS; `nothing` for an empty picture."""
    parts = []
    for kind in KINDS:
        count = scene.count(kind)
        if count:
            parts.append(with_article(kind) if count == 1 else f"{NUMBERS[count]} {plural(kind)}")
    if not parts:
        return "nothing"
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def ask(scene: Scene, kind_of_question: str, stream: random.Random, dialogue_share: float = 0.05) -> Question | None:
    """A random question of this type in a prompt of random form; None where the scene has no unambiguous one.

    `dialogue_share` of the prompts hold an earlier question and its answer.
    """
    plain = plain_question(scene, kind_of_question, stream)
    if plain is None:
        return None
    question, answer = plain
    if question.endswith("?"):
        return Question(kind_of_question, _prompt(scene, question, stream, dialogue_share), answer)
    return Question(kind_of_question, question, answer)


def plain_question(scene: Scene, kind_of_question: str, stream: random.Random) -> tuple[str, str] | None:
    """A question outside any template, and its answer; None where the scene has no unambiguous one."""
    makers: dict[str, Callable[[Scene, random.Random], tuple[str, str] | None]] = {
        "count": _count,
        "colour": _colour,
        "existence": _existence,
        "caption": _caption,
    }
    return makers[kind_of_question](scene, stream)


def _prompt(scene: Scene, question: str, stream: random.Random, dialogue_share: float) -> str:
    if stream.random() < dialogue_share:
        earlier = plain_question(scene, stream.choice(("count", "existence")), stream)
        if earlier is not None:
            return f"Question: {earlier[0]} Answer: {earlier[1]}. Question: {question} Answer:"
    form = stream.random()
    if form < 0.06:
        return question
    return TEMPLATES[form > 0.7].format(question)


def _count(scene: Scene, stream: random.Random) -> tuple[str, str]:
    if stream.random() < 0.6:
        kind = _mostly_present(stream, KINDS, [thing.kind for thing in scene.things])
        named, count = plural(kind), scene.count(kind)
    else:
        colour = _mostly_present(stream, COLOURS, [thing.colour for thing in scene.things])
        named, count = f"{colour} {stream.choice(('objects', 'things'))}", scene.count(colour=colour)
    return stream.choice(COUNT_WORDINGS).format(named), NUMBERS[count]


def _mostly_present(stream: random.Random, names: tuple[str, ...], present: list[str]) -> str:
    if present and stream.random() < 0.85:
        return stream.choice(sorted(set(present)))
    return stream.choice(names)


def _colour(scene: Scene, stream: random.Random) -> tuple[str, str] | None:
    colours = {kind: {thing.colour for thing in scene.things if thing.kind == kind} for kind in KINDS}
    clear = [kind for kind in KINDS if len(colours[kind]) == 1]
    if not clear:
        return None
    kind = stream.choice(clear)
    if scene.count(kind) == 1:
        question = stream.choice(COLOUR_WORDINGS).format(kind)
    else:
        question = stream.choice(COLOURS_WORDINGS).format(plural(kind))
    return question, next(iter(colours[kind]))


def _existence(scene: Scene, stream: random.Random) -> tuple[str, str]:
    nouns_there: list[str] = []
    nouns_missing: list[str] = []
    subject = stream.choice(("kind", "colour", "both", "both"))
    if subject == "kind":
        for kind in KINDS:
            (nouns_there if scene.count(kind) else nouns_missing).append(kind)
    elif subject == "colour":
        for colour in COLOURS:
            (nouns_there if scene.count(colour=colour) else nouns_missing).append(f"{colour} object")
    else:
        for kind in KINDS:
            for colour in colours_of(kind):
                if scene.count(kind, colour):
                    nouns_there.append(f"{colour} {kind}")
                elif scene.count(kind) or scene.count(colour=colour) or stream.random() < 0.2:
                    nouns_missing.append(f"{colour} {kind}")
    there = bool(nouns_there) and (not nouns_missing or stream.random() < 0.5)
    noun = stream.choice(nouns_there if there else nouns_missing or list(KINDS))
    wording = stream.choice(EXISTENCE_WORDINGS)
    return wording.format(one=with_article(noun), many=plural(noun)), "yes" if there else "no"


def _caption(scene: Scene, stream: random.Random) -> tuple[str, str]:
    return stream.choice(CAPTION_PROMPTS), caption(scene)
