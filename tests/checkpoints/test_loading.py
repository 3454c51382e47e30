import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from benchmarks.architectures import outline
from demo.service import CHECKPOINT
from executor.checkpoints import loading
from executor.errors import StartupError
from executor.model.blip2 import Blip2Model


@pytest.fixture
def copy(tiny_t5: Path, tmp_path: Path) -> Path:
    """A checkpoint to be damaged."""
    return Path(shutil.copytree(tiny_t5, tmp_path / "copy"))


def edit_json(file: Path, **changes: object) -> None:
    values = json.loads(file.read_text())
    for name, value in changes.items():
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    file.write_text(json.dumps(values))


def edit_weights(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_auto_is_float32_on_cpu():
    assert loading.resolve_dtype("auto", torch.device("cpu")) is torch.float32
    assert loading.resolve_dtype("auto", torch.device("cuda")) is torch.float16


def test_a_cuda_device_that_is_not_there_is_an_error_that_says_so(tiny_t5, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(StartupError, match="device' is 'cuda:1', but this machine shows 0 CUDA devices"):
        loading.load(str(tiny_t5), device="cuda:1")


@pytest.mark.parametrize("device", ["auto", "cuda:0"])
def test_a_choice_of_devices_that_jina_has_not_made_ends_the_start(tiny_t5, monkeypatch, device):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "RR")
    with pytest.raises(StartupError, match="set CUDA_TOTAL_DEVICES"):
        loading.load(str(tiny_t5), device=device)


def test_the_demo_checkpoint_loads_as_asked():
    loaded = loading.load(str(CHECKPOINT), device="cpu")
    assert loaded.dtype is torch.float32
    assert not loaded.model.training
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_in_float16_the_protected_modules_stay_float32(tiny_t5):
    model = loading.load(str(tiny_t5), device="cpu", dtype="float16").model
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes["query_tokens"] is torch.float32
    assert {dtype for name, dtype in dtypes.items() if name.startswith("qformer.")} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if name.endswith(".wo.weight")} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if name.startswith("vision_model.")} == {torch.float16}


def test_the_image_backend_is_pillow_whatever_else_is_installed(tiny_t5):
    assert isinstance(loading.load(str(tiny_t5)).processor.image_processor, BlipImageProcessorPil)


def test_a_checkpoint_of_2023_gets_what_it_lacks(copy, tiny_t5):
    """Then there was no `<image>` token and no number of query tokens in a checkpoint."""
    edit_json(copy / "config.json", image_token_index=None)
    edit_json(copy / "processor_config.json", num_query_tokens=None)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "<image>"]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit_json(copy / "tokenizer_config.json", added_tokens_decoder=None, extra_special_tokens=None, image_token=None)

    old, new = loading.load(str(copy)), loading.load(str(tiny_t5))

    assert old.processor.num_query_tokens == new.processor.num_query_tokens
    assert old.model.config.image_token_index == new.model.config.image_token_index
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    answers = [ask(loaded, pixels) for loaded in (old, new)]
    assert answers[0] == answers[1]


def test_a_checkpoint_of_2023_without_processor_config_loads(copy):
    values = json.loads((copy / "processor_config.json").read_text())
    (copy / "processor_config.json").unlink()
    (copy / "preprocessor_config.json").write_text(json.dumps(values["image_processor"]))
    assert loading.load(str(copy)).processor.num_query_tokens == 4


def ask(loaded: loading.Checkpoint, pixels: torch.Tensor) -> list[str]:
    from executor.questions.options import GenerationOptions

    model = Blip2Model(loaded, max_prompt_tokens=64)
    prompts = model.pad([model.tokenize("how many cats ?")])
    return model.generate(model.encode_images(pixels), prompts, GenerationOptions())


def test_a_missing_weight_is_fatal(copy):
    edit_weights(copy, lambda weights: weights.pop("query_tokens"))
    with pytest.raises(StartupError, match="missing keys: 1, first query_tokens"):
        loading.load(str(copy))


def test_a_weight_of_another_shape_is_fatal(copy):
    edit_weights(copy, lambda weights: weights.update(query_tokens=torch.zeros(1, 5, 16)))
    with pytest.raises(StartupError, match="does not fit"):
        loading.load(str(copy))


def test_an_output_layer_of_its_own_stays_untied_as_in_the_published_checkpoints(copy):
    output_layer = torch.randn(load_file(copy / "model.safetensors")["language_model.shared.weight"].shape)
    edit_weights(copy, lambda weights: weights.update({"language_model.lm_head.weight": output_layer}))
    language_model = loading.load(str(copy)).model.language_model
    assert torch.equal(language_model.lm_head.weight, output_layer)
    assert not torch.equal(language_model.shared.weight, output_layer)


def test_a_truncated_file_is_an_error_that_says_so(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(StartupError, match="is damaged"):
        loading.load(str(copy))


def test_contradicting_query_tokens_are_fatal(copy):
    edit_json(copy / "processor_config.json", num_query_tokens=3)
    with pytest.raises(StartupError, match="3 query tokens, its model 4"):
        loading.load(str(copy))


def test_a_contradicting_image_token_is_fatal(copy):
    edit_json(copy / "config.json", image_token_index=5)
    with pytest.raises(StartupError, match="contradicts itself: <image>"):
        loading.load(str(copy))


def test_another_kind_of_checkpoint_is_refused_by_name(copy):
    edit_json(copy / "config.json", model_type="bert")
    with pytest.raises(StartupError, match=r"not a BLIP-2 checkpoint.*'bert'"):
        loading.load(str(copy))


@pytest.mark.parametrize("name", ["./no-such-directory", "/no/such/directory", "no-such-directory/at/all"])
def test_a_directory_that_is_not_there_is_an_error_that_says_so(name):
    with pytest.raises(StartupError, match="no such directory"):
        loading.load(name)


def test_a_directory_without_a_checkpoint_is_an_error_that_says_so(tmp_path):
    with pytest.raises(StartupError, match=r"directory without config\.json"):
        loading.load(str(tmp_path))


def test_a_hub_id_without_network_is_an_error_that_names_both_ways_out():
    with pytest.raises(StartupError, match=r"neither a directory .* check the name and the network"):
        loading.load("nobody/no-such-model")


def test_the_published_architecture_has_its_exact_number_of_parameters():
    assert outline("xl").num_parameters() == 3_942_446_592
