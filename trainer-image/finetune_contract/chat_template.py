"""A chat template: compiled once, rendered with the day of the job and never with today, refused in words whatever its code does.

The operator judges a template by the same code as the trainer renders rows with, so that neither refuses what the other takes.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes

from finetune_contract.plurals import counted
from finetune_contract.sandbox import RENDERING, Instrument, Rendering, Sandbox, TooMuchWork, check_size

UNKNOWN_DAY = date(2024, 7, 26)  # of jobs without a day of creation; the day that Llama 3 templates show when they are told none
DATE_FUNCTION = "strftime_now"
_MAX_SOURCE_CHARS = 256 * 1024
_WORK = 4_000_000
_WORK_OF_ONE_MESSAGE = 4_000
_WORK_OF_TRIAL = 400_000  # a hundred times what templates of public models take for it
_MAX_WORDS = 300
_TRIAL_WORDS = ("zq0trial", "zq1trial", "zq2trial", "zq3trial")
_TRIAL_TOOL = {"type": "function", "function": {"name": "trial", "description": "a trial", "parameters": {"type": "object"}}}
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")

Message = Mapping[str, Any]


class TemplateProblem(Exception):
    """What is wrong with a template, or what it says about a conversation, in one sentence. `is_endless`: no conversation can help."""

    def __init__(self, words: str, *, is_endless: bool = False) -> None:
        super().__init__(words)
        self.words = words if len(words) <= _MAX_WORDS else words[:_MAX_WORDS] + "..."
        self.is_endless = is_endless


class ChatTemplate:
    """`day` is what the template is told when it asks for today; `names` are values such as bos_token that it may show.

    Raises TemplateProblem for a source that is no template.
    """

    def __init__(self, source: str, *, names: Mapping[str, str], day: date | None) -> None:
        self.day = day or UNKNOWN_DAY
        self._names, self._num_chars = dict(names), len(source)
        if len(source) > _MAX_SOURCE_CHARS:
            raise TemplateProblem(f"it has {len(source)} characters; wanted at most {_MAX_SOURCE_CHARS}")
        sandbox = Sandbox(functions={"raise_exception": _refuse, DATE_FUNCTION: self._strftime}, filters={"tojson": _tojson})
        try:
            tree = sandbox.parse(source)
            self.has_marks = any(_is_generation(call) for call in tree.find_all(nodes.CallBlock))
            self.asks_for_date = any(name.name == DATE_FUNCTION for name in tree.find_all(nodes.Name))
            self._words = frozenset(_words_of(tree))
            self._shows_something = any(not isinstance(one, nodes.TemplateData) for out in tree.find_all(nodes.Output) for one in out.nodes)
            self._template = sandbox.from_string(Instrument().visit(tree))
        except TemplateSyntaxError as error:
            raise TemplateProblem(f"it is not a Jinja template: line {error.lineno}: {error.message}") from None
        except (TemplateError, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise TemplateProblem(f"it is not a Jinja template: {str(error) or type(error).__name__}") from None

    def check_shows_rows(self) -> None:
        """Without running it. Raises TemplateProblem for a text that shows nothing of any conversation."""
        if not self._shows_something:
            raise TemplateProblem(
                f"it is a fixed text of {counted(self._num_chars, 'character')}; wanted the source of a Jinja template that goes "
                "through messages (names of templates such as chatml are not looked up), or leave it out to take the model's own"
            )
        if not self.knows("messages"):
            raise TemplateProblem("it never reads `messages`, so it shows no row; wanted a template that goes through messages")

    def check_runs(self) -> None:
        """By running it on four short turns: alone, after a system message, and with tools, until it takes one of them.

        Raises TemplateProblem if it takes none, comes to no end, or leaves out what a turn says.
        """
        roles = ("user", "assistant", "user", "assistant")
        turns = [{"role": role, "content": word} for role, word in zip(roles, _TRIAL_WORDS, strict=True)]
        system = [{"role": "system", "content": "a trial"}]
        refusals = []
        for messages, tools in ((turns, None), (system + turns, None), (system + turns, [_TRIAL_TOOL])):
            try:
                text = self.render(messages, tools=tools, max_work=_WORK_OF_TRIAL).lower()
            except TemplateProblem as problem:
                if problem.is_endless:
                    raise
                refusals.append(problem)
                continue
            for role, word in zip(roles, _TRIAL_WORDS, strict=True):
                if word not in text:
                    raise TemplateProblem(
                        f"it hides the content of messages with the role {role}; wanted a template that shows the content of every message"
                    )
            return
        raise TemplateProblem(f"it refuses a conversation of user and assistant: {refusals[0].words}")

    def knows(self, word: str) -> bool:
        """Whether the word stands in the template's code, as a name or inside a text that it compares or shows."""
        return word in self._words

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        asks: bool = False,
        marks: tuple[str, str] = ("", ""),
        max_work: int = _WORK,
    ) -> str:
        """The text of the conversation; `asks` adds the prompt for an answer. Raises TemplateProblem, whatever the template does."""
        rendering = Rendering(work=max_work + _WORK_OF_ONE_MESSAGE * len(messages), marks=marks)
        told = {"messages": [_with_reasoning(message) for message in messages], "tools": tools, "documents": None}
        token = RENDERING.set(rendering)
        try:
            pieces, length = [], 0
            for piece in self._template.generate(**self._names, **told, add_generation_prompt=asks):
                pieces.append(piece)
                length += len(piece)
                check_size(length)
            return "".join(pieces)
        except TooMuchWork as error:
            raise TemplateProblem(str(error), is_endless=True) from None
        except Exception as error:  # noqa: BLE001 - the template is the user's code: whatever it raises is what it says
            raise TemplateProblem(self._own_words(error)) from None
        finally:
            RENDERING.reset(token)

    def _own_words(self, error: Exception) -> str:
        """A refusal as it stands in the template. Words that it makes of a conversation may be the conversation's, and are not shown."""
        if isinstance(error, _Refusal) and str(error) not in self._words:
            return "it refuses it by raise_exception"
        return str(error) or type(error).__name__

    def _strftime(self, form: str) -> str:
        return datetime.combine(self.day, time()).strftime(str(form))


class _Refusal(TemplateError):
    """By the template's own raise_exception."""


def _refuse(message: object) -> NoReturn:
    raise _Refusal(str(message))


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    if (isinstance(indent, int) and indent > 16) or (isinstance(indent, str) and len(indent) > 16):
        raise TooMuchWork("tojson is asked to indent by more than 16 characters")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _is_generation(block: nodes.CallBlock) -> bool:
    return any(one.identifier.endswith("_GenerationBlock") for one in block.find_all(nodes.ExtensionAttribute))


def _words_of(tree: nodes.Template) -> list[str]:
    words = [str(node.value) for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return words + [node.attr for node in tree.find_all(nodes.Getattr)] + [node.name for node in tree.find_all(nodes.Name)]


def _with_reasoning(message: Message) -> dict[str, Any]:
    """A thought under all the names that templates read it by, as transformers does."""
    thought = next((message[name] for name in _REASONING_NAMES if message.get(name) is not None), None)
    return dict(message) if thought is None else {"thinking": thought, **message, "reasoning_content": thought}
