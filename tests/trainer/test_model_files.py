"""What is wrong with the files of a model is the user's to mend: named with the file or the tensor, before anything is trained."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.builders.texts import texts
from tests.trainer.formations import a_config
from tests.trainer.test_model import built

from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.tokenise import load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 3087467144\n"
WEIGHTS = "model.safetensors"


def pointer(name):
    return lambda folder: (folder / name).write_text(POINTER)


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def with_json(name, **changes):
    def spoil(folder):
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(content | changes))

    return spoil


def with_tensors(change):
    def spoil(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def cut_short(folder):
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])


def a_hole(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")


def an_infinity(tensors):
    tensors["model.embed_tokens.weight"][7, 3] = float("-inf")


def another_head(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).clone()


def one_layer_more(tensors):
    tensors["model.layers.2.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].clone()


def integers(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)


def an_index(**weight_map):
    return with_json("model.safetensors.index.json", weight_map=weight_map)


def a_link_out(name):
    def spoil(folder):
        secret = folder.parent / "secret"
        secret.write_text('{"canary": "CANARY-7Q"}')
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)

    return spoil


def a_sentencepiece_model(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (pointer("config.json"), "its config.json is a Git LFS pointer, not the file itself; run `git lfs pull`"),
        (pointer(WEIGHTS), "its model.safetensors is a Git LFS pointer"),
        (cut_short, "its weights cannot be read: model.safetensors has"),
        (with_tensors(a_hole), "tensor model.layers.1.mlp.up_proj.weight in model.safetensors holds 1 value that is not finite"),
        (with_tensors(an_infinity), "tensor model.embed_tokens.weight in model.safetensors holds 1 value that is not finite"),
        (with_tensors(another_head), "its config.json ties the head to the embedding (tie_word_embeddings), but model.safetensors holds"),
        (with_tensors(one_layer_more), "1 tensor that its config.json has no place for, such as model.layers.2.mlp.up_proj.weight"),
        (with_tensors(integers), "tensor model.norm.weight is of the type I8; wanted one of"),
        (an_index(**{"model.norm.weight": "../model.safetensors"}), "model.safetensors.index.json names '../model.safetensors'"),
        (an_index(**{"model.norm.weight": "gone.safetensors"}), "gone.safetensors: No such file"),
        (an_index(nothing=WEIGHTS), "model.safetensors.index.json says that nothing is in model.safetensors, where it is not"),
        (with_json("model.safetensors.index.json", weight_map=[1]), "model.safetensors.index.json has no weight_map of names to files"),
        (a_link_out("config.json"), "is, or lies behind, a symbolic link out of"),
        (a_link_out(WEIGHTS), "is, or lies behind, a symbolic link out of"),
    ],
)
def test_files_of_a_model_that_are_not_whole_are_named(spoil, problem, inputs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(inputs / "qwen3", folder)
    spoil(folder)
    with pytest.raises(TrainingError) as raised:
        built(a_config(folder, inputs / "rows.jsonl"), folder)
    assert raised.value.failure_class is FailureClass.USER_ERROR
    assert raised.value.message.startswith(f"spec.model.uri: file://{folder}: ")
    assert problem in raised.value.message
    assert "CANARY" not in raised.value.message


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (pointer("tokenizer.json"), "its tokenizer.json is a Git LFS pointer"),
        (without("tokenizer.json", "tokenizer_config.json"), "has no tokenizer; wanted tokenizer.json and tokenizer_config.json"),
        (without("tokenizer_config.json"), "has no tokenizer_config.json"),
        (a_sentencepiece_model, "has a sentencepiece tokenizer only (tokenizer.model); wanted tokenizer.json"),
        (with_json("tokenizer.json", model=5), "has no tokenizer that can be read"),
        (with_json("tokenizer.json", model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]), "empty vocabulary"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[1]"), "wanted a JSON object, got a list"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[" * 100_000), "its tokenizer_config.json cannot be read"),
        (a_link_out("tokenizer_config.json"), "a symbolic link out of"),
        (a_link_out("merges.txt"), "a symbolic link out of"),
        (a_link_out("chat_template.jinja"), "a symbolic link out of"),
    ],
)
def test_a_tokenizer_that_lacks_a_part_is_named(spoil, problem, inputs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(inputs / "qwen3", folder)
    spoil(folder)
    with pytest.raises(TrainingError) as raised:
        load_tokenizer(folder, model_uri="file:///model")
    assert raised.value.failure_class is FailureClass.USER_ERROR
    assert problem in raised.value.message
    assert "CANARY" not in raised.value.message


def test_a_head_that_is_the_embedding_once_more_is_no_second_head(inputs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(inputs / "qwen3", folder)

    def same_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    with_tensors(same_head)(folder)
    built(a_config(folder, inputs / "rows.jsonl"), folder)


def test_a_snapshot_in_the_cache_of_the_hub_is_links_and_is_read(inputs, tmp_path):
    repository = tmp_path / "models--owner--tiny"
    folder, blobs = repository / "snapshots" / "c0ffee", repository / "blobs"
    folder.mkdir(parents=True)
    shutil.copytree(inputs / "qwen3", blobs)
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(Path("../../blobs") / path.name)
    built(a_config(folder, inputs / "rows.jsonl"), folder)
    assert len(load_tokenizer(folder, model_uri="file:///model")) > 0


HOSTILE = [
    {"hidden_size": "32"},
    {"hidden_size": 0},
    {"hidden_size": -32},
    {"hidden_size": 10**12},
    {"hidden_size": [32]},
    {"hidden_size": None},
    {"num_hidden_layers": 10**9},
    {"num_hidden_layers": 2.5},
    {"num_attention_heads": 0},
    {"num_attention_heads": 3},
    {"num_key_value_heads": 3},
    {"head_dim": 7},
    {"head_dim": 0},
    {"vocab_size": True},
    {"vocab_size": 2**62},
    {"hidden_act": "exec"},
    {"hidden_act": {"a": 1}},
    {"rms_norm_eps": "1e-6"},
    {"rms_norm_eps": 1e400},
    {"rope_parameters": "none"},
    {"rope_parameters": {"rope_type": "sideways", "rope_theta": 1e4}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "two"}},
    {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "short_factor": [1.0], "long_factor": "x"}},
    {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    {"layer_types": 5},
    {"layer_types": ["sliding_attention", "full_attention"]},
    {"max_position_embeddings": -1},
    {"model_type": ["qwen3"]},
    {"architectures": 5, "model_type": None},
    {"tie_word_embeddings": "yes"},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda changes: next(iter(changes)))
def test_a_config_of_wrong_types_is_the_users_error_and_no_crash(changes, inputs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(inputs / "qwen3", folder)
    with_json("config.json", **changes)(folder)
    with pytest.raises(TrainingError) as raised:
        built(a_config(folder, inputs / "rows.jsonl"), folder)
    assert raised.value.failure_class is FailureClass.USER_ERROR
    assert raised.value.message.startswith("spec.model.uri: ")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | texts(5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "x"]), inner, max_size=3),
    max_leaves=4,
)
PLACES = st.sampled_from(["config.json", "tokenizer_config.json", "model.safetensors.index.json", "tokenizer.json"])


def refusal_of(folder, inputs) -> TrainingError | None:
    try:
        load_tokenizer(folder, model_uri="file:///model")
        built(a_config(folder, inputs / "rows.jsonl"), folder)
    except TrainingError as error:
        return error
    return None


@settings(max_examples=40)
@given(name=PLACES, which=st.integers(0, 60), value=VALUES, is_new=st.booleans())
def test_any_value_in_any_file_is_taken_or_refused_but_never_a_crash(name, which, value, is_new, inputs):
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "model"
        shutil.copytree(inputs / "llama", folder)
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {"weight_map": {"model.norm.weight": WEIGHTS}}
        keys = [*content, "rope_scaling", "auto_map", "head_dim", "quantization_config", "partial_rotary_factor"]
        (folder / name).write_text(json.dumps({**content, "new" if is_new else keys[which % len(keys)]: value}))
        said = refusal_of(folder, inputs)
        assert said is None or said.failure_class is FailureClass.USER_ERROR
