"""What a published adapter may hold: weights, their description, and the tokenizer that the rows were made with. Nothing else leaves."""

from finetune_contract.commits import ADAPTER_WEIGHTS_NAME

ADAPTER_CONFIG_NAME = "adapter_config.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG_NAME,
    "vocab.json",
)
ADAPTER_FILES = frozenset({ADAPTER_WEIGHTS_NAME, ADAPTER_CONFIG_NAME, *TOKENIZER_FILES})
