"""One row to tokens, with the mask of those that carry loss. Offsets of the rendered text decide, so that any chat template works."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune_trainer.rows import Row, RowError, Rows


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One row as tokens; `is_target` marks those that carry loss. `notes` are things to say about the row that end nothing."""

    ids: list[int]
    is_target: list[bool]
    notes: tuple[str, ...] = ()


class Encoder:
    """Rows of one file to tokens, one at a time. Whatever is wrong with a row is a RowError."""

    def __init__(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, trains_on_all: bool, template: str | None) -> None:
        self._form, self._field, self._tokenizer = rows.form, rows.field, tokenizer
        self._trains_on_all = trains_on_all
        self._template = template or (str(tokenizer.chat_template) if isinstance(tokenizer.chat_template, str) else None)
        self._marks_generation = "generation" in (self._template or "").replace("add_generation_prompt", "")

    def encode(self, row: Row) -> Encoded:
        """Raises RowError in the user's words."""
        if self._form == "text":
            ids = self._ids(row.content["text"], special=True) + self._end()
            return Encoded(ids=ids, is_target=[True] * len(ids))
        if self._form == "prompt-completion":
            prompt = self._ids(row.content["prompt"], special=True)
            completion = self._ids(row.content["completion"], special=False) + self._end()
            return Encoded(ids=prompt + completion, is_target=[self._trains_on_all] * len(prompt) + [True] * len(completion))
        return self._encode_messages(row)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _end(self) -> list[int]:
        end = self._tokenizer.eos_token_id
        return [] if end is None else [int(end)]

    def _encode_messages(self, row: Row) -> Encoded:
        messages = row.content["messages"]
        if not self._trains_on_all and not any(message["role"] == "assistant" for message in messages):
            raise RowError(self._field, row.number, "no message has the role assistant: there is nothing to train on")
        if self._marks_generation and not self._trains_on_all:
            encoded = self._render(row, messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            return Encoded(ids=list(encoded["input_ids"]), is_target=[bool(mark) for mark in encoded["assistant_masks"]])
        text = self._render(row, messages)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        if self._trains_on_all:
            return Encoded(ids=ids, is_target=[True] * len(ids))
        spans = self._assistant_spans(row, messages, text)
        is_target = [any(first <= start < end <= last for first, last in spans) for start, end in encoded["offset_mapping"]]
        return Encoded(ids=ids, is_target=is_target)

    def _assistant_spans(self, row: Row, messages: list[dict[str, Any]], text: str) -> list[tuple[int, int]]:
        """Where the assistant speaks in the rendered conversation: from the end of the generation prompt to the end of the turn."""
        end_token = self._tokenizer.eos_token
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(row, messages[:index], add_generation_prompt=True) if index else ""
            content = message["content"].strip()
            found = text.find(content, len(before)) if text.startswith(before) else -1
            if found < 0:
                problem = f"the chat template does not show messages[{index}] where it was said; give one with generation marks"
                raise RowError(self._field, row.number, f"{problem} as spec.training.chatTemplate, or set spec.training.trainOn: all")
            end = found + len(content)
            if isinstance(end_token, str) and text.startswith(end_token, end):
                end += len(end_token)
            spans.append((len(before), end))
        return spans

    def _render(self, row: Row, messages: list[dict[str, Any]], **options: Any) -> Any:
        options = {"tokenize": False, **options}
        try:
            return self._tokenizer.apply_chat_template(messages, chat_template=self._template, tools=row.content.get("tools"), **options)
        except Exception as error:  # noqa: BLE001 - the template is the user's code: whatever it raises is about this row
            raise RowError(self._field, row.number, f"the chat template refuses it: {error}") from None
