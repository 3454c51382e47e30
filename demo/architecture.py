"""The small BLIP-2: its sizes, its tokenizer and a freshly initialised model. Knows nothing of pictures or training.

The classes are those of the large checkpoints (ViT, Q-Former, T5); only the numbers are small.
"""

from __future__ import annotations

import string

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from demo import questions
from demo.scenes import COLOURS, KINDS

IMAGE_SIZE = 96
PATCH_SIZE = 12
PATCHES_PER_SIDE = IMAGE_SIZE // PATCH_SIZE
QUERY_TOKENS = 12
VISION_WIDTH = 128
QFORMER_WIDTH = 128
TEXT_WIDTH = 96
MAX_NEW_TOKENS = 20
INITIALIZER_STD = 0.02

PAD, END, UNKNOWN, IMAGE = "<pad>", "</s>", "<unk>", "<image>"


def vocabulary() -> list[str]:
    """Every word that a prompt or an answer can hold, in a fixed order, after the special tokens."""
    texts = [
        *questions.COUNT_WORDINGS,
        *questions.COLOUR_WORDINGS,
        *questions.COLOURS_WORDINGS,
        *questions.EXISTENCE_WORDINGS,
        *questions.CAPTION_PROMPTS,
        *questions.TEMPLATES,
        *questions.NUMBERS,
        *KINDS,
        *(questions.plural(kind) for kind in KINDS),
        *COLOURS,
        "yes no a an and nothing objects things object thing , . ? : !",
    ]
    words: dict[str, None] = {}
    for text in texts:
        spaced = text.lower().replace("{one}", " ").replace("{many}", " ").replace("{}", " ")
        for mark in string.punctuation:
            spaced = spaced.replace(mark, f" {mark} ")
        words.update(dict.fromkeys(spaced.split()))
    return [PAD, END, UNKNOWN, *words]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word and punctuation mark; case and spaces around punctuation make no difference."""
    ids = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, ids[END])]
    )
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="right",
        model_max_length=512,
    )


def build_processor() -> Blip2Processor:
    """Image processor (Pillow backend, so that no other resize slips in) and tokenizer with its `<image>` token."""
    image_processor = BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return Blip2Processor(image_processor, build_tokenizer(), num_query_tokens=QUERY_TOKENS)


def build_config(processor: Blip2Processor) -> Blip2Config:
    tokenizer = processor.tokenizer
    return Blip2Config(
        vision_config={
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "attention_dropout": 0.0,
            "initializer_range": INITIALIZER_STD,
        },
        qformer_config={
            "vocab_size": 4,
            "hidden_size": QFORMER_WIDTH,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "encoder_hidden_size": VISION_WIDTH,
            "cross_attention_frequency": 1,
            "max_position_embeddings": 16,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        text_config={
            "model_type": "t5",
            "vocab_size": len(tokenizer),
            "d_model": TEXT_WIDTH,
            "d_kv": 24,
            "d_ff": 256,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "dropout_rate": 0.0,
            "dense_act_fn": "gelu",
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "decoder_start_token_id": tokenizer.pad_token_id,
        },
        num_query_tokens=QUERY_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_text_hidden_size=TEXT_WIDTH,
    )


def build_model(processor: Blip2Processor, seed: int) -> Blip2ForConditionalGeneration:
    """A fresh float32 model whose weights follow from the seed."""
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(build_config(processor))
    # Query tokens start at zero in transformers: equal queries would all learn the same.
    torch.nn.init.normal_(model.query_tokens, std=INITIALIZER_STD)
    embeddings = model.vision_model.embeddings
    for parameter in (embeddings.class_embedding, embeddings.position_embedding):
        torch.nn.init.normal_(parameter, std=INITIALIZER_STD)
    # T5 scales its output by nothing here: with its default embeddings the logits would start with a spread near 10.
    torch.nn.init.normal_(model.language_model.lm_head.weight, std=TEXT_WIDTH**-0.5)
    tokenizer = processor.tokenizer
    generation = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    model.generation_config = generation
    model.language_model.generation_config = generation
    return model
