"""Makes a tiny model of any supported family with random weights, a tokenizer and a chat template: a real model folder, without a download.

python examples/make_tiny_model.py OUT --architecture qwen3
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune_trainer.families import FAMILIES

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = Path(__file__).resolve().parent / "support" / "rows.jsonl"
_EMBEDDING_SCALE = 5.0


def make_tiny_model(
    folder: Path,
    *,
    architecture: str = "qwen3",
    seed: int = 0,
    hidden_size: int = 64,
    num_layers: int = 2,
    vocab_size: int = 1024,
    with_chat_template: bool = True,
    rows: Path = ROWS,
) -> Path:
    """Write config, weights (safetensors) and tokenizer, trained on `rows`, into `folder`; the same arguments give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(_texts(rows), vocab_size, with_chat_template)
    tokenizer.save_pretrained(folder)
    model = _make_model(architecture, seed, hidden_size, num_layers, len(tokenizer))
    model.save_pretrained(folder)
    _save_as_the_family_has_it(folder, tokenizer)
    return folder


def _texts(file: Path) -> list[str]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [message["content"] for row in rows for message in row["messages"]]


def _train_tokenizer(texts: Iterable[str], vocab_size: int, with_chat_template: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    if with_chat_template:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def _save_as_the_family_has_it(folder: Path, tokenizer: Any) -> None:
    """Beside a Qwen2 transformers takes any tokenizer for one of Qwen2's own class, which splits words in its own way: save that one."""
    from transformers import AutoTokenizer

    taken = AutoTokenizer.from_pretrained(folder)
    if type(taken) is not type(tokenizer):
        taken.save_pretrained(folder)


def _make_model(architecture: str, seed: int, hidden_size: int, num_layers: int, vocab_size: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 2 * hidden_size,
        "vocab_size": vocab_size,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    if hasattr(AutoConfig.for_model(architecture), "head_dim"):  # else a head's share of hidden_size
        shape["head_dim"] = hidden_size // shape["num_attention_heads"]
    config = AutoConfig.for_model(architecture, **shape, **FAMILIES[architecture].tiny)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # An adapter cannot change the frozen output layer: at the usual scale of random weights it could hardly tell words apart.
    weights = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    with torch.no_grad():
        for weight in weights:
            weight.mul_(_EMBEDDING_SCALE)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--architecture", choices=tuple(FAMILIES), default="qwen3")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_tiny_model(arguments.folder, architecture=arguments.architecture, seed=arguments.seed)


if __name__ == "__main__":
    main()
