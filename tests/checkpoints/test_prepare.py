"""A prepared copy is the original in another dtype, appears whole or not at all, and tells when it is damaged."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from docarray import DocList
from jina import Client
from safetensors.torch import load_file, save_file

from demo.service import CHECKPOINT, ROOT, Service
from executor import ImagePrompt, Response
from executor.__main__ import main
from executor.checkpoints import checksums, loading, prepare
from executor.checkpoints.loading import DTYPES, Checkpoint
from executor.errors import StartupError
from executor.model.blip2 import Blip2Model
from executor.questions.options import GenerationOptions
from tests.support.starting import start_and_fail

SERVED = {"checksums.json", "config.json", "generation_config.json", "model.safetensors", "processor_config.json"}
SERVED |= {"tokenizer.json", "tokenizer_config.json"}
QUESTIONS = ["Question: how many cats are there? Answer:", "a photo of", "Question: what colour is the square? Answer:"]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command sets handlers, as the owner of its process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint in float16, not to be changed."""
    output = tmp_path_factory.mktemp("prepared") / "checkpoint"
    prepare.prepare(str(CHECKPOINT), output, dtype="float16")
    return output


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    """A prepared copy to be damaged."""
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def assert_same(original: Checkpoint, copy: Checkpoint) -> None:
    """Down to the last bit of the weights, and in everything else that an answer depends on."""
    ours, theirs = copy.model.state_dict(), original.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert ours[name].dtype is weight.dtype, name
        assert torch.equal(ours[name], weight), name
    assert copy.image_token_id == original.image_token_id
    assert copy.processor.num_query_tokens == original.processor.num_query_tokens
    assert copy.processor.image_processor.to_dict() == original.processor.image_processor.to_dict()
    options = [
        [part.generation_config.to_dict() for part in (loaded.model, loaded.model.language_model)]
        for loaded in (original, copy)
    ]
    assert options[0] == options[1]
    assert answers(copy) == answers(original)


def answers(loaded: Checkpoint) -> list[str]:
    model = Blip2Model(loaded, max_prompt_tokens=64)
    size = loaded.processor.image_processor.size["height"]
    pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = model.encode_images(pixels)
    prompts = model.pad([model.tokenize(question) for question in QUESTIONS])
    options = (GenerationOptions(), GenerationOptions(num_beams=3, min_new_tokens=3))
    return [answer for chosen in options for answer in model.generate(features, prompts, chosen)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["demo", "tiny_t5", "tiny_opt"])
def test_the_copy_is_the_original_as_loaded_in_that_dtype(name, dtype, request, tmp_path):
    original = CHECKPOINT if name == "demo" else request.getfixturevalue(name)
    prepare.prepare(str(original), tmp_path / "copy", dtype=dtype)
    loaded = [loading.load(str(folder), device="cpu", dtype=dtype) for folder in (original, tmp_path / "copy")]
    assert_same(*loaded)


def test_in_float16_protected_modules_are_float32_on_disk(prepared):
    weights = load_file(prepared / "model.safetensors")
    assert weights["query_tokens"].dtype is torch.float32
    assert weights["language_model.decoder.block.0.layer.2.DenseReluDense.wo.weight"].dtype is torch.float32
    assert weights["vision_model.embeddings.patch_embedding.weight"].dtype is torch.float16
    assert json.loads((prepared / "config.json").read_text())["dtype"] == "float16"


def test_only_what_serving_needs_is_copied(tiny_t5, tmp_path):
    original = Path(shutil.copytree(tiny_t5, tmp_path / "original"))
    for clutter in ("optimizer.pt", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md"):
        (original / clutter).write_bytes(b"clutter")
    prepare.prepare(str(original), tmp_path / "copy")
    assert {file.name for file in (tmp_path / "copy").iterdir()} == SERVED


def test_who_may_read_the_folder_may_read_all_files(prepared):
    readable = prepared.stat().st_mode & 0o666
    assert {file.stat().st_mode & 0o777 for file in prepared.iterdir()} == {readable}


def test_large_weights_are_split_into_files_that_are_all_checked(tiny_t5, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_BYTES", 30_000)
    prepare.prepare(str(tiny_t5), tmp_path / "copy")
    shards = sorted((tmp_path / "copy").glob("*.safetensors"))
    assert len(shards) > 1
    for shard in shards:
        assert sum(weight.nbytes for weight in load_file(shard).values()) <= 30_000
    loaded = [loading.load(str(folder), device="cpu", dtype="float16") for folder in (tiny_t5, tmp_path / "copy")]
    assert_same(*loaded)
    flip_a_byte(shards[1])
    with pytest.raises(StartupError, match=shards[1].name):
        loading.load(str(tmp_path / "copy"))


def test_an_output_layer_of_its_own_is_copied(tiny_t5, tmp_path):
    original = Path(shutil.copytree(tiny_t5, tmp_path / "original"))
    weights = load_file(original / "model.safetensors")
    weights["language_model.lm_head.weight"] = torch.randn(weights["language_model.shared.weight"].shape)
    save_file(weights, original / "model.safetensors", metadata={"format": "pt"})
    prepare.prepare(str(original), tmp_path / "copy")
    loaded = [loading.load(str(folder), device="cpu", dtype="float16") for folder in (original, tmp_path / "copy")]
    assert_same(*loaded)
    text = loaded[1].model.language_model
    assert not torch.equal(text.lm_head.weight, text.shared.weight)


def test_a_checkpoint_of_2023_gets_what_it_lacks(tiny_t5, tmp_path):
    original = Path(shutil.copytree(tiny_t5, tmp_path / "original"))
    for name, gone in (("config.json", "image_token_index"), ("processor_config.json", "num_query_tokens")):
        values = json.loads((original / name).read_text())
        del values[gone]
        (original / name).write_text(json.dumps(values))
    prepare.prepare(str(original), tmp_path / "copy")
    assert_same(*(loading.load(str(folder), dtype="float16") for folder in (original, tmp_path / "copy")))
    values = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert values["image_token_index"] == json.loads((tiny_t5 / "config.json").read_text())["image_token_index"]


def test_an_empty_directory_is_replaced(tiny_t5, tmp_path):
    (tmp_path / "copy").mkdir()
    prepare.prepare(str(tiny_t5), tmp_path / "copy")
    assert {file.name for file in (tmp_path / "copy").iterdir()} == SERVED


def fail(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says, in one line, before it ends with status 1."""
    assert main(["prepare", *map(str, arguments)]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line and "it/s]" not in line]  # less the progress
    assert len(said) == 1, said
    assert said[0].startswith("blip2: cannot prepare: ")
    return said[0]


def test_the_command_says_in_one_line_what_is_wrong(tiny_t5, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    model = ("--model", tiny_t5)
    assert "is not empty" in fail(capsys, *model, "--output", tmp_path / "full")
    assert "is no directory" in fail(capsys, *model, "--output", tmp_path / "file")
    assert "there is no directory" in fail(capsys, *model, "--output", tmp_path / "nowhere" / "copy")
    assert "mount point" in fail(capsys, *model, "--output", "/proc")
    output = ("--output", tmp_path / "copy")
    assert "dtype 'int8' is none of float16, " in fail(capsys, *model, *output, "--dtype", "int8")
    assert "no such directory" in fail(capsys, "--model", "./nowhere", *output)
    assert "without config.json" in fail(capsys, "--model", tmp_path / "full", *output)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [1e6, -1e6, math.nan])
def test_weights_too_large_for_the_dtype_are_refused(number, tiny_t5, tmp_path, capsys):
    original = Path(shutil.copytree(tiny_t5, tmp_path / "original"))
    weights = load_file(original / "model.safetensors")
    weights["vision_model.embeddings.class_embedding"][0, 0, 0] = number
    save_file(weights, original / "model.safetensors", metadata={"format": "pt"})
    said = fail(capsys, "--model", original, "--output", tmp_path / "copy")
    assert "not finite in float16, the first in vision_model.embeddings.class_embedding" in said
    if not math.isnan(number):
        prepare.prepare(str(original), tmp_path / "copy", dtype="bfloat16")


def test_a_write_that_fails_at_the_end_leaves_nothing_behind(tiny_t5, tmp_path, capsys, monkeypatch):
    def write(folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checksums, "write", write)
    said = fail(capsys, "--model", tiny_t5, "--output", tmp_path / "copy")
    assert "cannot be written" in said
    assert "No space left on device" in said
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_nothing_is_left_on_it(tmp_path):
    unshare = shutil.which("unshare") or ""
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]  # the copy needs 5 MB
    if not unshare or subprocess.run([unshare, "--mount", *mount], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let its user mount a small file system (unshare)")
    prepare_there = [sys.executable, "-m", "executor", "prepare", "--model", "demo/checkpoint", "--output"]
    script = f'{" ".join(mount)} && {" ".join(prepare_there)} {tmp_path}/copy; echo "status $?"; ls -A {tmp_path}'
    finished = subprocess.run(
        [unshare, "--mount", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert finished.stdout == "status 1\n"
    assert "No space left on device" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_writes_leaves_nothing_behind(number, tiny_t5, tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "write", lambda folder: signal.raise_signal(number))
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--model", str(tiny_t5), "--output", str(tmp_path / "copy")])
    assert ended.value.code == 128 + number
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_without_checksums_loads_unchecked(copy):
    (copy / "checksums.json").unlink()
    loading.load(str(copy), device="cpu")


@pytest.mark.parametrize("name", sorted(SERVED - {"checksums.json"}))
def test_one_flipped_bit_in_any_file_is_found_and_named(copy, name):
    flip_a_byte(copy / name)
    with pytest.raises(StartupError, match=f"is damaged: {name} is not what it was"):
        loading.load(str(copy), device="cpu")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: os.truncate(folder / "model.safetensors", 1000), r"model\.safetensors has 1000 bytes instead"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), r"adapter_config\.json is not in checksums"),
        (lambda folder: (folder / "checksums.json").write_text("{"), r"checksums\.json cannot be read"),
        (lambda folder: (folder / "checksums.json").write_text('{"files": []}'), r"checksums\.json cannot be read"),
        (lambda folder: (folder / "checksums.json").write_text('{"files": {"a": 1}}'), r"checksums\.json cannot be"),
    ],
    ids=["missing", "truncated", "one too many", "no JSON", "a list", "a number"],
)
def test_other_damage_is_found_and_named(copy, damage, message):
    damage(copy)
    with pytest.raises(StartupError, match=message):
        loading.load(str(copy), device="cpu")


def test_the_command_makes_what_the_service_serves_with_the_same_answers(tmp_path, two_cats):
    command = ["prepare", "--model", str(CHECKPOINT), "--dtype", "float16", "--output", str(tmp_path / "copy")]
    assert main(command) == 0
    prompts = DocList[ImagePrompt](
        [ImagePrompt(img_bytes=two_cats, prompt=prompt, num_beams=beams) for prompt in QUESTIONS for beams in (1, 3)]
    )
    served: list[list[Any]] = []
    for model in (CHECKPOINT, tmp_path / "copy"):
        with Service(log=tmp_path / "log", model=model, dtype="float16", device="cpu") as service:
            responses = Client(port=service.port).post("/", inputs=prompts, return_type=DocList[Response])
            served.append([(response.answer, response.error) for response in responses])
    assert served[0] == served[1]
    assert served[0][0] == ("two", "")


def test_a_service_does_not_start_with_a_damaged_copy_and_says_so_in_one_line(copy):
    flip_a_byte(copy / "model.safetensors")
    finished = start_and_fail(model=copy)
    said = [line for line in finished.stderr.splitlines() if line.strip()]
    assert said[-1].startswith(f"blip2: cannot start: checkpoint '{copy}' is damaged: model.safetensors is not what")
    assert "Traceback" not in finished.stderr
    assert sum("damaged" in line for line in said) == 1
