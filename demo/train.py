"""Trains the small BLIP-2 on drawn pictures: `python -m demo.train`.

A run is reproducible from its seed (on one machine, with the same number of threads), saves its state every minute and
continues from there when it is started again with the same work directory.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Blip2Processor

from demo.architecture import build_model, build_processor
from demo.batches import Batch, TrainingBatches
from demo.export import export_checkpoint
from demo.objective import Objective

HERE = Path(__file__).parent
WARM_UP_STEPS = 150
AVERAGE_DECAY = 0.995


@dataclass(frozen=True)
class Settings:
    """`steps` is the length of the whole run: the learning rate falls along a half cosine until there."""

    seed: int = 0
    steps: int = 6000
    pictures_per_step: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    gradient_norm: float = 1.0


class Run:
    """The state of a training run: weights, their running average, the optimiser's state and the step reached."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processor: Blip2Processor = build_processor()
        model = build_model(self.processor, settings.seed)
        image_processor = self.processor.image_processor
        self.objective = Objective(model, list(image_processor.image_mean), list(image_processor.image_std))
        self.optimizer = torch.optim.AdamW(
            self.objective.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.average = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self.step = 0

    def batches(self, workers: int) -> DataLoader[Batch]:
        """The batches from the present step to the end."""
        dataset = TrainingBatches(self.processor.tokenizer, self.settings.seed, self.settings.pictures_per_step)
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=range(self.step, self.settings.steps),
            num_workers=workers,
            prefetch_factor=8 if workers else None,
        )

    def advance(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        losses = self.objective(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.settings.gradient_norm)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return {name: loss.item() for name, loss in losses.items()}

    def learning_rate(self) -> float:
        settings = self.settings
        if self.step < WARM_UP_STEPS:
            return settings.learning_rate * (self.step + 1) / WARM_UP_STEPS
        progress = (self.step - WARM_UP_STEPS) / max(1, settings.steps - WARM_UP_STEPS)
        return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(AVERAGE_DECAY, self.step / (self.step + 10))
        weights = self.objective.model.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [weights[name] for name in self.average], 1 - decay)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "seed": self.settings.seed,
            "pictures_per_step": self.settings.pictures_per_step,
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }
        unfinished = path.with_suffix(".tmp")
        torch.save(state, unfinished)
        os.replace(unfinished, path)

    def load(self, path: Path) -> None:
        """Raises ValueError where the saved run saw other pictures than these settings would draw."""
        state = torch.load(path, weights_only=True)
        for name in ("seed", "pictures_per_step"):
            if state[name] != getattr(self.settings, name):
                raise ValueError(f"{path} was trained with {name}={state[name]}; pass that or another --work folder")
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step = state["step"]

    def export(self, target: Path) -> None:
        export_checkpoint(self.average, self.objective.model, self.processor, target)


def train(settings: Settings, work: Path, workers: int, stop_after: int | None = None, save_every_s: float = 60) -> Run:
    """Trains from where `work/state.pt` stands, or afresh, to `settings.steps` or to step `stop_after`."""
    state = work / "state.pt"
    run = Run(settings)
    if state.exists():
        run.load(state)
    last = settings.steps if stop_after is None else min(stop_after, settings.steps)
    saved_at = time.monotonic()
    with tqdm(total=settings.steps, initial=run.step, unit="step", mininterval=1) as bar:
        for batch in run.batches(workers) if run.step < last else ():
            losses = run.advance(batch)
            bar.update()
            bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()}, refresh=False)
            if time.monotonic() - saved_at > save_every_s:
                run.save(state)
                saved_at = time.monotonic()
            if run.step >= last:
                break
    run.save(state)
    return run


def main() -> None:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=defaults.seed, help="decides weights and pictures")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="length of the whole run")
    parser.add_argument("--stop-after", type=int, help="stop at this step; a later start continues")
    parser.add_argument("--pictures-per-step", type=int, default=defaults.pictures_per_step)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    parser.add_argument("--work", type=Path, default=HERE / "run", help="where the run's state is kept")
    parser.add_argument("--output", type=Path, default=HERE / "checkpoint", help="where the checkpoint goes")
    parser.add_argument("--export-only", action="store_true", help="export the state reached so far and stop")
    parser.add_argument("--fresh", action="store_true", help="forget the state in the work directory")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    settings = Settings(
        seed=options.seed,
        steps=options.steps,
        pictures_per_step=options.pictures_per_step,
        learning_rate=options.learning_rate,
    )
    if options.fresh:
        (options.work / "state.pt").unlink(missing_ok=True)
    stop_after = 0 if options.export_only else options.stop_after
    run = train(settings, options.work, options.workers, stop_after)
    run.export(options.output)
    print(f"step {run.step} of {settings.steps}; checkpoint written to {options.output}")


if __name__ == "__main__":
    main()
