"""How often a dtype, a size of batch and a level of `compile` give the very answers of transformers in float32.

    python -m benchmarks.agreement [--pictures 200] [--quantization none int8 int4]

The demo checkpoint, on pictures and questions that it was never trained on, greedy and with 5 beams. The reference is
transformers' own `generate` in float32 on the CPU, one question at a time; ours are batches of 1 and of 16. In float32
every answer must be equal. In half precision they need not be: the last bits of a sum depend on the size of the batch;
and quantised layers are another model. How many answers are true to the picture is shown too. The last line is JSON.
"""

import argparse
import io
import itertools
import json
from typing import Any

from PIL import Image
from tqdm import tqdm

from benchmarks.engine import machine
from demo.evaluate import CHECKPOINT, evaluation_samples, load_checkpoint
from executor.checkpoints import loading
from executor.model.blip2 import Blip2Model
from executor.model.engine import Engine, Question
from executor.model.warmup import warm_up
from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits
from executor.questions.options import GenerationOptions

BATCH = 16
WAYS = {"greedy": GenerationOptions(), "5 beams": GenerationOptions(num_beams=5, length_penalty=-1.0)}


def main() -> None:
    """Measures, prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--quantization", nargs="+", default=["none"], choices=["none", "int8", "int4"], help="needs bitsandbytes"
    )
    parser.add_argument("--compile", nargs="+", default=["off", "graphs"], choices=["off", "graphs", "max"])
    options = parser.parse_args()
    device = loading.resolve_device(options.device)
    samples = [
        (sample.picture, sample.questions[place % len(sample.questions)])
        for place, sample in enumerate(evaluation_samples(4, options.pictures))
    ]
    asked = [(picture, question.prompt) for picture, question in samples]
    truths = [question.answer for _, question in samples]
    expected = {way: _reference(asked, way) for way in WAYS}
    report: dict[str, Any] = machine(device) | {"pictures": options.pictures, "rows": []}
    print(f"of {len(asked)}: equal to transformers in float32, and right")
    levels = options.compile if device.type == "cuda" else ["off"]
    for dtype, quantization, level in itertools.product(loading.DTYPES, options.quantization, levels):
        loaded = loading.load(str(CHECKPOINT), device=options.device, dtype=dtype, quantization=quantization)
        model = Blip2Model(loaded, 512)
        warm_up(model, level, BATCH, GenerationOptions(), print)
        for way, batch in itertools.product(WAYS, (1, BATCH)):
            answers = _answers(model, asked, WAYS[way], batch)
            equal = sum(one == other for one, other in zip(answers, expected[way], strict=True))
            right = sum(one == truth for one, truth in zip(answers, truths, strict=True))
            row = {"dtype": dtype, "quantization": quantization, "compile": level, "answers": way, "batch": batch}
            row |= {"equal": equal, "right": right}
            report["rows"].append(row)
            print(
                f"{dtype:9} {quantization:9} {level:8} {way:8} {batch:5}   {equal} of {len(asked)}, {right} right",
                flush=True,
            )
    print(json.dumps(report))


def _reference(asked: list[Any], way: str) -> list[str]:
    model, processor = load_checkpoint(CHECKPOINT)
    answers = []
    for picture, prompt in tqdm(asked, desc=f"reference, {way}"):
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        tokens = model.generate(**inputs, **WAYS[way].generate_kwargs())
        answers.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
    return answers


def _answers(model: Blip2Model, asked: list[Any], way: GenerationOptions, batch: int) -> list[str]:
    engine, decoder = Engine(model, 0), Decoder(model.image_size, model.resample, ImageLimits())
    answers: list[str] = []
    for start in range(0, len(asked), batch):
        questions = [
            Question(decoder(_encoded(picture)), model.tokenize(prompt), way.canonical())
            for picture, prompt in asked[start : start + batch]
        ]
        answers += engine.run(engine.collate(questions))
    return answers


def _encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    main()
