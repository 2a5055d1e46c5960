"""Which chat template a conversation is rendered with, and who is to blame when it is none: the job's field or the model's tokenizer."""

from datetime import date
from typing import TYPE_CHECKING

from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.template import ChatTemplate, TemplateProblem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOOL_USE = "tool_use"
_TRIAL = ("zq0trial", "zq1trial")


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
        """Raises TrainingError if it cannot be compiled or shows nothing of a conversation."""
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
        except TemplateProblem as problem:
            raise self.blamed(f"it is no Jinja template: {problem.words}") from None
        if not template.shows_something:
            raise self.blamed(
                f"it is a fixed text of {len(source)} characters; wanted the source of a Jinja template that goes through messages "
                "(names of templates such as chatml are not looked up), or leave it out to take the model's own"
            )
        try:
            text = template.render([{"role": role, "content": word} for role, word in zip(("user", "assistant"), _TRIAL, strict=True)])
        except TemplateProblem as problem:
            if problem.is_endless:
                raise self.blamed(problem.words) from None
            return template  # it may want a system message or tools: the rows will tell
        for role, word in zip(("user", "assistant"), _TRIAL, strict=True):
            if word not in text.lower():
                raise self.blamed(f"it does not show what a message with the role {role} says; wanted one that shows the content of each")
        return template
