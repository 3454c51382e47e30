"""Tiny BLIP-2 checkpoints with random weights, one per language model: right in shape, meaningless in their answers."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

IMAGE_SIZE = 32
QUERY_TOKENS = 4
WORDS = [
    "question",
    "answer",
    ":",
    "?",
    ".",
    "how",
    "many",
    "cats",
    "dogs",
    "are",
    "there",
    "one",
    "two",
    "three",
    "red",
    "green",
    "blue",
    "is",
    "a",
    "what",
    "of",
    "photo",
]
_ROOM_FOR_IMAGE_TOKEN = 8


def build_tokenizer(language_model: str) -> PreTrainedTokenizerFast:
    """T5's puts `</s>` behind a text, OPT's puts it in front."""
    words = ["<pad>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    template = "$A </s>" if language_model == "t5" else "</s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token=None if language_model == "t5" else "</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def build_checkpoint(folder: Path, language_model: str = "t5", seed: int = 0) -> Path:
    """Writes a checkpoint with a `t5` or an `opt` language model into `folder`."""
    tokenizer = build_tokenizer(language_model)
    vocab_size = len(tokenizer) + _ROOM_FOR_IMAGE_TOKEN
    image_processor = BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    processor = Blip2Processor(image_processor, tokenizer, num_query_tokens=QUERY_TOKENS)
    special = {"pad_token_id": 0, "eos_token_id": 1, "vocab_size": vocab_size}
    texts = {
        "t5": {
            "model_type": "t5",
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "decoder_start_token_id": 0,
            "feed_forward_proj": "gated-gelu",
            "dense_act_fn": "gelu",
            "tie_word_embeddings": False,
        },
        "opt": {
            "model_type": "opt",
            "hidden_size": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 16,
            "bos_token_id": 1,
        },
    }
    config = Blip2Config(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": IMAGE_SIZE,
            "patch_size": 16,
            "initializer_range": 0.02,
        },
        qformer_config={
            "vocab_size": 4,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "encoder_hidden_size": 16,
            "max_position_embeddings": 8,
        },
        text_config=texts[language_model] | special,
        num_query_tokens=QUERY_TOKENS,
        image_token_index=len(tokenizer) - 1,
    )
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # large enough that pictures and words change the answer
    model.generation_config.pad_token_id = model.language_model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = model.language_model.generation_config.eos_token_id = 1
    if language_model == "t5":
        model.language_model.generation_config.decoder_start_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
