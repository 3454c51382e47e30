"""What training minimises: the answers' loss, and auxiliary losses that tell the vision part what is where.

The auxiliary heads decide whether such a small model learns to count in an hour. They are dropped from the checkpoint.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import Blip2ForConditionalGeneration

from demo.architecture import QFORMER_WIDTH, QUERY_TOKENS, VISION_WIDTH
from demo.batches import LABELLED_PAIRS, Batch
from demo.scenes import COLOURS, KINDS, MAX_PER_COLOUR, MAX_PER_KIND

# The mean over pairs that are mostly absent is small beside the other terms.
PAIR_WEIGHT = 5.0


class Objective(nn.Module):
    """The model and its auxiliary linear heads on patch tokens and on queries."""

    image_mean: torch.Tensor
    image_std: torch.Tensor

    def __init__(self, model: Blip2ForConditionalGeneration, image_mean: list[float], image_std: list[float]) -> None:
        super().__init__()
        self.model = model
        self.pad_token_id = model.config.get_text_config(decoder=True).pad_token_id
        self.patch_sizes = (1 + len(KINDS), 1 + len(KINDS), 1 + len(COLOURS))
        self.count_sizes = (len(KINDS) * (1 + MAX_PER_KIND), len(COLOURS) * (1 + MAX_PER_COLOUR), len(LABELLED_PAIRS))
        self.patch_head = nn.Linear(VISION_WIDTH, sum(self.patch_sizes))
        self.query_head = nn.Linear(QUERY_TOKENS * QFORMER_WIDTH, sum(self.count_sizes))
        self.register_buffer("image_mean", 255 * torch.tensor(image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", 255 * torch.tensor(image_std).view(3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Scalar float32 losses: `answers`, `patches` and `queries`."""
        model = self.model
        pixel_values = (batch.pixels - self.image_mean) / self.image_std
        patches = model.vision_model(pixel_values=pixel_values).last_hidden_state
        queries = model.qformer(
            query_embeds=model.query_tokens.expand(len(pixel_values), -1, -1), encoder_hidden_states=patches
        ).last_hidden_state
        return {
            "answers": self._answer_loss(model.language_projection(queries), batch),
            "patches": self._patch_loss(patches[:, 1:], batch),
            "queries": self._query_loss(queries, batch),
        }

    def _answer_loss(self, projected: torch.Tensor, batch: Batch) -> torch.Tensor:
        text = self.model.language_model.get_input_embeddings()(batch.input_ids)
        pictures = projected.repeat_interleave(len(text) // len(projected), dim=0)
        is_text = batch.input_ids != self.pad_token_id
        mask = torch.cat([is_text.new_ones(len(text), QUERY_TOKENS), is_text], dim=1).long()
        loss: torch.Tensor = self.model.language_model(
            inputs_embeds=torch.cat([pictures, text], dim=1), attention_mask=mask, labels=batch.labels
        ).loss
        return loss

    def _patch_loss(self, patches: torch.Tensor, batch: Batch) -> torch.Tensor:
        logits = self.patch_head(patches).split(self.patch_sizes, dim=-1)
        targets = (batch.centre_kinds, batch.cover_kinds, batch.cover_colours)
        losses = [
            cross_entropy(scores.flatten(0, 1), target.flatten())
            for scores, target in zip(logits, targets, strict=True)
        ]
        return torch.stack(losses).sum()

    def _query_loss(self, queries: torch.Tensor, batch: Batch) -> torch.Tensor:
        kinds, colours, pairs = self.query_head(queries.flatten(1)).split(self.count_sizes, dim=-1)
        return (
            cross_entropy(kinds.unflatten(-1, (-1, 1 + MAX_PER_KIND)).flatten(0, 1), batch.kind_counts.flatten())
            + cross_entropy(
                colours.unflatten(-1, (-1, 1 + MAX_PER_COLOUR)).flatten(0, 1), batch.colour_counts.flatten()
            )
            + PAIR_WEIGHT * binary_cross_entropy_with_logits(pairs, batch.pairs)
        )
