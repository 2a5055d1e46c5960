"""Which chat template a conversation is rendered with, and who is to blame when it is none: the job's field or the model's tokenizer."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_contract.chat_template import DATE_FUNCTION, ChatTemplate, TemplateProblem
from finetune_contract.failures import FailureClass, TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOOL_USE = "tool_use"


class TemplateChoice:
    """The job's own template if it has one, else the tokenizer's; of named ones `tool_use` for rows with tools, else `default`."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", own: str | None, *, day: date | None) -> None:
        self._names, self._day = dict(tokenizer.special_tokens_map), day
        self._blame = "spec.training.chatTemplate" if own is not None else "spec.model.uri: the chat template of the model's tokenizer"
        theirs = tokenizer.chat_template or {}
        self._sources: dict[str, str] = (
            {"default": own} if own is not None else theirs if isinstance(theirs, dict) else {"default": str(theirs)}
        )
        self._compiled: dict[str, ChatTemplate] = {}

    def of(self, tools: object) -> ChatTemplate:
        """Raises TrainingError if it cannot be compiled, takes no conversation or does not show all of one."""
        name = _TOOL_USE if tools and _TOOL_USE in self._sources else "default"
        if name not in self._sources:
            raise self.blamed(f"there is none with the name default (names: {', '.join(sorted(self._sources))[:100] or 'none'})")
        if name not in self._compiled:
            self._compiled[name] = self._tried(self._sources[name])
        return self._compiled[name]

    def blamed(self, words: str) -> TrainingError:
        advice = "" if self._blame.startswith("spec.training") else "; give another one as spec.training.chatTemplate"
        return TrainingError(FailureClass.USER_ERROR, f"{self._blame}: {words}{advice}")

    def _tried(self, source: str) -> ChatTemplate:
        try:
            template = ChatTemplate(source, names=self._names, day=self._day)
            template.check_shows_rows()
            template.check_runs()
        except TemplateProblem as problem:
            raise self.blamed(problem.words) from None
        return template


def may_ask_for_date(model_dir: Path, own: str | None) -> bool:
    """Whether the job's template, or any of the model's if it has none, names the function that tells the day."""
    if own is not None:
        return DATE_FUNCTION in own
    files = (*model_dir.glob("*chat_template*"), *model_dir.glob("*chat_templates/*"), model_dir / "tokenizer_config.json")
    return any(DATE_FUNCTION in file.read_text(errors="replace") for file in files if file.is_file())
