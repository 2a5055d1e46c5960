"""Where the code of a chat template runs: jinja's sandbox, and a purse that every loop, every call and every value that grows is paid from.

The purse counts work and not seconds, so that a template is refused on every machine or on none. It knows nothing of tokenizers or of rows.
"""

import re
from collections.abc import Callable, Sized
from contextvars import ContextVar
from functools import wraps
from typing import Any, cast

from jinja2 import TemplateError, nodes, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

_MAX_VALUE_CHARS = 8 * 1024 * 1024
_CHARS_OF_ONE_WORK = 64
_MAX_PADDING = 10_000
_MAX_NUMBER_BITS = 4096
# Without use in a chat template, and either random or far slower than the length of their text.
_TAKEN_FILTERS = ("random", "urlize", "wordwrap", "pprint", "xmlattr", "striptags")
# What has a length knows it: to pay for all that is inside would make a loop that asks for it cost the square of the conversation.
_FREE_FILTERS = ("length", "count")
_TAKEN_GLOBALS = ("lipsum", "cycler", "joiner")
_TAKEN_METHODS = ("translate", "format_map")
_COMPARING_TESTS = ("in", "eq", "equalto", "==", "ne", "!=", "lt", "<", "gt", ">", "le", "<=", "ge", ">=", "greaterthan", "lessthan")
_OF_ONE_WORK = ("length", "count", "first", "default", "d")  # they look at no more than one part of what they are given
_PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "truncate", "round", "batch", "slice")
_ENDLESS = "it does not end: it loops or repeats text without bound"
_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*(\d{5}|\*)|\{[^}]*(\d{5}|\{)")


class TooMuchWork(TemplateError):
    """The template does more than any conversation needs."""


class Rendering:
    """One use of a template: the work that it may do yet, and the texts that are put around what a generation block shows."""

    def __init__(self, *, work: int, marks: tuple[str, str] = ("", "")) -> None:
        self._left = work
        self.marks = marks

    def pay(self, work: int) -> None:
        self._left -= abs(work)
        if self._left < 0:
            raise TooMuchWork(_ENDLESS)

    def pay_for(self, *values: object) -> None:
        """By size, whatever is inside counted as often as it is reached. Raises TooMuchWork for a text that is too long as well."""
        waiting, left = list(values), self._left
        while waiting:
            value = waiting.pop()
            left -= 1
            if isinstance(value, str):
                check_size(len(value))
                left -= len(value) // _CHARS_OF_ONE_WORK
            elif isinstance(value, dict):
                waiting.extend(value.keys())
                waiting.extend(value.values())
            elif isinstance(value, (list, tuple)):
                left -= len(value)
                waiting.extend(value if left >= 0 else ())
            self._left = left
            if left < 0:
                raise TooMuchWork(_ENDLESS)


RENDERING: ContextVar[Rendering] = ContextVar("rendering")


def check_size(num_chars: int) -> None:
    if num_chars > _MAX_VALUE_CHARS:
        raise TooMuchWork(f"it makes a text of more than {_MAX_VALUE_CHARS} characters")


class Sandbox(ImmutableSandboxedEnvironment):
    """As transformers compiles chat templates, with every operation without bound paid for. Compiling computes nothing."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, *, functions: dict[str, Any], filters: dict[str, Callable[..., Any]]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[loopcontrols, _GenerationBlock])
        self.filters.update(filters)
        self.filters = {
            name: function if name in _FREE_FILTERS else _paid(name, function)
            for name, function in self.filters.items()
            if name not in _TAKEN_FILTERS
        }
        self.filters.update({"_pay": _pay, "_paid_for": _paid_for, "_joined": _joined})
        self.tests.update({name: _paid(name, cast(Callable[..., Any], self.tests[name])) for name in _COMPARING_TESTS})
        for name in _TAKEN_GLOBALS:
            self.globals.pop(name)
        self.globals.update({"dict": _Dictionary(), "namespace": _Namespace, **functions})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        RENDERING.get().pay_for(left, right)
        _check_operands(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        RENDERING.get().pay_for(result)
        return result

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            name = str(getattr(function, "__name__", ""))
            args = tuple(list(one) if name == "join" and not isinstance(one, (str, Sized)) else one for one in args)
            _check_arguments(name, (owner, *args), kwargs)
        RENDERING.get().pay_for(owner if isinstance(owner, (str, dict)) else None, args, kwargs)
        result = super().call(context, function, *args, **kwargs)
        RENDERING.get().pay_for(result)
        return result


class Instrument(NodeTransformer):
    """Puts a payment into the body and the test of every loop, and around every value that can grow."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        size = 1 + sum(1 for _ in node.find_all(nodes.Node))
        size += sum(len(data.data) for data in node.find_all(nodes.TemplateData)) // _CHARS_OF_ONE_WORK
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_through("_pay", nodes.Const(size), node), lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(_through("_pay", nodes.Const(1), node), node.test, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _through("_joined", nodes.List(node.nodes, lineno=node.lineno), node)

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [one if isinstance(one, nodes.TemplateData) else _through("_paid_for", one, node) for one in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        operands: tuple[Any, ...] = (node, *node.ops)
        for operand in operands:
            if not isinstance(operand.expr, nodes.Const):
                operand.expr = _through("_paid_for", operand.expr, node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _through("_paid_for", node, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return _through("_paid_for", node, node) if getattr(node, "ctx", "load") == "load" else node

    visit_Tuple = visit_Dict = visit_List


def _through(filter_name: str, node: nodes.Expr, place: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, filter_name, [], [], None, None, lineno=place.lineno)


def _pay(cost: int) -> bool:
    RENDERING.get().pay(cost)
    return True


def _paid_for(value: Any) -> Any:
    RENDERING.get().pay_for(value)
    return value


def _joined(parts: list[Any]) -> str:
    RENDERING.get().pay_for(parts)
    texts = [str(part) for part in parts]
    check_size(sum(map(len, texts)))
    return "".join(texts)


def _paid(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        values = args[1:] if hasattr(function, "jinja_pass_arg") else args
        if name == "join":
            values = (list(values[0]), *values[1:])
            args = (*args[: len(args) - len(values)], *values)
        if name in _OF_ONE_WORK:
            RENDERING.get().pay(1)
            return function(*args, **kwargs)
        RENDERING.get().pay_for(values, kwargs)
        _check_arguments(name, values, kwargs)
        result = function(*args, **kwargs)
        RENDERING.get().pay_for(result)
        return result

    return paid


def _check_operands(operator: str, left: Any, right: Any) -> None:
    numbers = [operand for operand in (left, right) if isinstance(operand, int)]
    texts = [operand for operand in (left, right) if isinstance(operand, (str, list, tuple))]
    if operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
        raise TooMuchWork("a format is too wide")
    if operator == "*" and texts and numbers:
        check_size(len(texts[0]) * max(numbers))
    elif operator in ("*", "**") and len(numbers) == 2:
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_NUMBER_BITS:
            raise TooMuchWork("a number is too large")
    elif operator == "+" and len(texts) == 2:
        check_size(len(left) + len(right))


def _check_arguments(name: str, values: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse before the work: filters and methods whose result may be far larger than what goes in."""
    given = (*values[1:], *kwargs.values())
    if name in _TAKEN_METHODS:
        raise SecurityError(f"{name} is not for chat templates")
    if name in _PADDING and any(
        abs(one) > _MAX_PADDING if isinstance(one, int) else isinstance(one, str) and len(one) > 64 for one in given
    ):
        raise TooMuchWork(f"{name} is asked for more than {_MAX_PADDING} characters")
    if name == "format" and _WIDE_FORMAT.search(str(values[0])):
        raise TooMuchWork("a format is too wide")
    if name == "sum" and any(isinstance(one, (list, tuple)) for one in given):
        raise SecurityError("sum is for numbers")
    if name == "replace" and len(given) >= 2:
        text, old, new = str(values[0]), str(given[0]), str(given[1])
        check_size(len(text) + text.count(old) * len(new))
    if name == "join":
        # A method has its separator first, a filter its parts.
        parts, separators = (given[0], values[:1]) if isinstance(values[0], str) and given else (values[0], given)
        between = sum(len(one) for one in separators if isinstance(one, str))
        check_size(sum(len(str(one)) + between for one in parts))


class _Dictionary:
    """`dict(...)` of a template, without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _Namespace(Namespace):
    """Without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, given = args[0], dict(*args[1:], **kwargs)
        for name in given:
            _check_name(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no name {name!r}")


class _GenerationBlock(Extension):
    """`{% generation %} .. {% endgeneration %}`: what it shows stands between the marks of the rendering."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("shown"), [], [], body).set_lineno(line)

    @pass_eval_context
    def shown(self, _context: nodes.EvalContext, caller: Callable[[], str]) -> str:
        first, last = RENDERING.get().marks
        return first + str(caller()) + last
