"""What the service's engine answers without a service: no socket, no queue, no documents.

    python -m benchmarks.engine_alone --model demo/checkpoint --workload cases.json

Batches of 16 decoded pictures through `Engine.prepare` and `Engine.run`, one after the other: the most that a service
around this engine could give. And, as a lone request would need them, one question at a time with the decoding of its
picture. Features are not cached. The last line is JSON.
"""

import argparse
import base64
import json
import statistics
import time
from pathlib import Path

from executor.checkpoints import loading
from executor.model.blip2 import Blip2Model
from executor.model.engine import Engine, Question
from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits
from executor.questions.options import GenerationOptions

BATCH = 16
_LONE_QUESTIONS = 128


def measure(model: Path, rows: list[list[str]], seconds: float) -> dict[str, float | int]:
    """answers_per_s in batches, lone_ms (median) with decoding and decode_ms (median) of it, and wrong answers."""
    loaded = Blip2Model(loading.load(str(model)), 512)
    engine = Engine(loaded, 0)
    decode = Decoder(loaded.image_size, loaded.resample, ImageLimits())
    options = GenerationOptions().canonical()
    pictures = [base64.b64decode(picture) for picture, _, _ in rows]
    answers = [answer for _, _, answer in rows]

    def question(place: int) -> Question:
        return Question(decode(pictures[place]), loaded.tokenize(rows[place][1]), options)

    questions = [question(place) for place in range(len(rows))]
    batches = [range(first, first + BATCH) for first in range(0, len(rows) - BATCH + 1, BATCH)]
    for batch in batches[:4]:
        engine.run(engine.collate([questions[place] for place in batch]))
    answered = wrong = 0
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        for batch in batches:
            got = engine.run(engine.collate([questions[place] for place in batch]))
            answered += len(got)
            wrong += sum(answer != answers[place] for answer, place in zip(got, batch, strict=True))
    rate = answered / (time.perf_counter() - start)
    decoding, lone = [], []
    for place in range(min(_LONE_QUESTIONS, len(rows))):
        begun = time.perf_counter()
        asked = question(place)
        decoding.append((time.perf_counter() - begun) * 1000)
        engine.run(engine.collate([asked]))
        lone.append((time.perf_counter() - begun) * 1000)
    return {
        "answers_per_s": rate,
        "lone_ms": statistics.median(lone),
        "decode_ms": statistics.median(decoding),
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_alone", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--workload", type=Path, required=True, help="from benchmarks.workload.save")
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    print(json.dumps(measure(options.model, json.loads(options.workload.read_text()), options.seconds)))


if __name__ == "__main__":
    main()
