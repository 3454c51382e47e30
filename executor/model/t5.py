"""T5 for answering: the encoder once per batch, the decoder one token at a time, as functions of fixed tensors.

Knows T5's weights as transformers holds them. It must not know searches, graphs, or who made a batch. Nothing here
waits for the device or makes a tensor whose shape depends on values, so each function can be captured as a CUDA graph.

transformers' own decoder is right and slow: one step of Flan-T5-XL is some 1,500 kernels and 9 ms of Python. Here
projections of the same input are one matrix product, norms are one kernel, keys and values live in preallocated
tensors, and all beams of a document attend to one copy of its encoded prompt.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class T5:
    """Runs the encoder and the decoder of a `T5ForConditionalGeneration`, whose weights it shares.

    Args:
        model: the `T5ForConditionalGeneration`, on one device, in inference mode.
        max_new_tokens: longest answer, in tokens.

    Attributes:
        device: where it is.
        dtype: of keys, values and features.
        start_token_id, pad_token_id: the decoder's.
        end_token_ids: each of them ends an answer.
    """

    def __init__(self, model: Any, max_new_tokens: int) -> None:
        self._model = model
        config, generation = model.config, model.generation_config
        self.device = model.shared.weight.device
        self.dtype = model.shared.weight.dtype
        self.start_token_id = int(generation.decoder_start_token_id)
        self.pad_token_id = int(generation.pad_token_id)
        ends = generation.eos_token_id
        self.end_token_ids = [int(end) for end in (ends if isinstance(ends, list) else [ends])]
        self._heads, self._head_dim, self._layers = config.num_heads, config.d_kv, config.num_decoder_layers
        self._scale = config.d_model**-0.5 if config.scale_decoder_outputs else None
        # In float16 transformers keeps these in float32, and with them what is added up from layer to layer.
        wo = model.decoder.block[0].layer[-1].DenseReluDense.wo.weight
        self._residual_dtype = wo.dtype if wo.is_floating_point() else self.dtype
        self._blocks = [_DecoderBlock(block, self._residual_dtype) for block in model.decoder.block]
        self._norm = _Norm(model.decoder.final_layer_norm, self._residual_dtype)
        self._bias = self._causal_bias(max_new_tokens)

    def _causal_bias(self, length: int) -> Tensor:
        """Relative position bias of each position to all before it, and minus infinity: (length, heads, 1, length)."""
        attention = self._model.decoder.block[0].layer[0].SelfAttention
        with torch.inference_mode():
            bias = attention.compute_bias(length, length, device=self.device)[0].transpose(0, 1)
            future = torch.ones(length, length, dtype=torch.bool, device=self.device).triu(1)
            masked: Tensor = bias.masked_fill(future.unsqueeze(1), -torch.inf).unsqueeze(2).contiguous()
        return masked

    def new_self_cache(self, rows: int, max_new_tokens: int) -> Tensor:
        """Makes room for keys and values of generated tokens: (layers, 2, rows, heads, max_new_tokens, head_dim)."""
        shape = (self._layers, 2, rows, self._heads, max_new_tokens, self._head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def new_cross_cache(self, batch: int, length: int, device: torch.device | str | None = None) -> Tensor:
        """Makes room for keys and values of encoded prompts: (layers, 2, batch, heads, length, head_dim)."""
        shape = (self._layers, 2, batch, self._heads, length, self._head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=device or self.device)

    def new_cross_bias(self, batch: int, length: int, device: torch.device | str | None = None) -> Tensor:
        """Makes room for what attention adds to the score of each token of a prompt: (batch, 1, 1, length)."""
        return torch.zeros((batch, 1, 1, length), dtype=self.dtype, device=device or self.device)

    def encode(
        self, features: Tensor, input_ids: Tensor, attention_mask: Tensor, cross_cache: Tensor, cross_bias: Tensor
    ) -> None:
        """Encodes pictures and prompts into `cross_cache` and `cross_bias`.

        Args:
            features: tensor of shape (batch, num_query_tokens, hidden); they take the place of the first tokens.
            input_ids: int64 of shape (batch, length).
            attention_mask: int64 of shape (batch, length), 0 at padding.
            cross_cache, cross_bias: written, as `new_cross_cache` and `new_cross_bias` made them.
        """
        embeddings = self._model.shared(input_ids[:, features.shape[1] :])
        embeddings = torch.cat((features.to(embeddings.dtype), embeddings), dim=1)
        cross_bias.zero_().masked_fill_(attention_mask[:, None, None].eq(0), torch.finfo(self.dtype).min)
        encoded = self._model.encoder(inputs_embeds=embeddings, attention_mask=cross_bias).last_hidden_state
        for layer, block in enumerate(self._blocks):
            keys_values = block.cross_keys_values(encoded).unflatten(-1, (2, self._heads, self._head_dim))
            cross_cache[layer].copy_(keys_values.permute(2, 0, 3, 1, 4))

    def step(
        self, token_ids: Tensor, position: Tensor, self_cache: Tensor, cross_cache: Tensor, cross_bias: Tensor
    ) -> Tensor:
        """Scores the next token of each row.

        Args:
            token_ids: int64 of shape (rows,): the last token of each row. Rows are batch x beams, beams of one document
                side by side.
            position: int64 of shape (1,): of this token; 0 for the start token.
            self_cache: read up to `position`, and written there.
            cross_cache, cross_bias: from `encode`.

        Returns:
            Logits of shape (rows, vocabulary).
        """
        hidden = self._model.decoder.embed_tokens(token_ids).unsqueeze(1).to(self._residual_dtype)
        bias = self._bias[: self_cache.shape[4], :, :, : self_cache.shape[4]].index_select(0, position)
        for block, (keys, values), (cross_keys, cross_values) in zip(
            self._blocks, self_cache.unbind(), cross_cache.unbind(), strict=True
        ):
            hidden = block.attend_to_answer(hidden, keys, values, position, bias)
            hidden = block.attend_to_prompt(hidden, cross_keys, cross_values, cross_bias)
            hidden = block.transform(hidden)
        hidden = self._norm(hidden).squeeze(1)
        if self._scale is not None:
            hidden = hidden * self._scale
        logits: Tensor = self._model.lm_head(hidden)
        return logits


class _DecoderBlock:
    """One layer of the decoder. Hidden states are (rows, 1, d_model), heads (rows, heads, 1, head_dim)."""

    def __init__(self, block: Any, residual_dtype: torch.dtype) -> None:
        own, cross, feed = block.layer
        self._own_norm, self._cross_norm, self._feed_norm = (
            _Norm(layer.layer_norm, residual_dtype) for layer in (own, cross, feed)
        )
        self._attention, self._cross_attention = own.SelfAttention, cross.EncDecAttention
        self._dense = feed.DenseReluDense
        self._is_gated = hasattr(self._dense, "wi_0")
        self._head_dim = self._attention.key_value_proj_dim
        self._queries_keys_values = _joined(self._attention, "q", "k", "v")
        self.cross_keys_values = _joined(self._cross_attention, "k", "v")
        self._inner = _joined(self._dense, "wi_0", "wi_1") if self._is_gated else self._dense.wi

    def attend_to_answer(self, hidden: Tensor, keys: Tensor, values: Tensor, position: Tensor, bias: Tensor) -> Tensor:
        joined = self._queries_keys_values(self._own_norm(hidden))
        query, key, value = joined.unflatten(-1, (3, -1, self._head_dim)).permute(2, 0, 3, 1, 4).unbind()
        keys.index_copy_(2, position, key)
        values.index_copy_(2, position, value)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        return _finite(hidden + self._attention.o(attended.transpose(1, 2).flatten(2)))

    def attend_to_prompt(self, hidden: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        batch, heads = keys.shape[:2]
        query = self._cross_attention.q(self._cross_norm(hidden))
        # The beams of a document are to its prompt what several positions would be.
        query = query.view(batch, -1, heads, self._head_dim).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        return _finite(hidden + self._cross_attention.o(attended.transpose(1, 2).reshape(len(hidden), 1, -1)))

    def transform(self, hidden: Tensor) -> Tensor:
        inner = self._inner(self._feed_norm(hidden))
        if self._is_gated:
            gate, linear = inner.chunk(2, dim=-1)
            inner = self._dense.act(gate) * linear
        else:
            inner = self._dense.act(inner)
        wo = self._dense.wo
        if wo.weight.is_floating_point():
            inner = inner.to(wo.weight.dtype)
        return _finite(hidden + wo(inner))


def _joined(parent: Any, *names: str) -> Any:
    """One projection for several of the same input. The modules keep working: their weights become views of its own."""
    parts = [getattr(parent, name) for name in names]
    if any(type(part) is not torch.nn.Linear or part.bias is not None for part in parts):  # quantised ones, say
        return lambda hidden: torch.cat([part(hidden) for part in parts], dim=-1)
    weight = torch.cat([part.weight.data for part in parts])
    for part, rows in zip(parts, weight.split([part.out_features for part in parts]), strict=True):
        part.weight.data = rows
    return lambda hidden: F.linear(hidden, weight)


class _Norm:
    """A T5 layer's norm as one kernel: adds in the dtype of the hidden states, gives that of the layer."""

    def __init__(self, layer_norm: Any, residual_dtype: torch.dtype) -> None:
        self._weight = layer_norm.weight.detach().to(residual_dtype)
        self._epsilon, self._dtype = layer_norm.variance_epsilon, layer_norm.weight.dtype

    def __call__(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, self._weight.shape, self._weight, self._epsilon).to(self._dtype)


def _finite(hidden: Tensor) -> Tensor:
    """As in transformers: infinities of float16 become its largest numbers."""
    if hidden.dtype != torch.float16:
        return hidden
    limit = torch.finfo(torch.float16).max
    return hidden.clamp(-limit, limit)
