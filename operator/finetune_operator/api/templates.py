"""Whether `chatTemplate` is a chat template at all: read without running it, so that it costs nothing and cannot be turned against us."""

from functools import lru_cache

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class GenerationTag(Extension):
    """`{% generation %}` marks what the assistant says; it prints what it holds."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def open_sandbox() -> ImmutableSandboxedEnvironment:
    """As transformers reads chat templates."""
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])


@lru_cache(maxsize=64)
def template_fault(text: str) -> str | None:
    """What is wrong with it, or None."""
    try:
        sandbox = open_sandbox()
        tree = sandbox.parse(text)
        used = meta.find_undeclared_variables(tree)
        sandbox.compile(tree)
    except jinja2.TemplateSyntaxError as error:
        return f"is not Jinja: line {error.lineno}: {error.message}"
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, OverflowError, MemoryError) as error:
        return f"is not Jinja: {type(error).__name__}"
    if "messages" not in used:
        hint = "; a name of a template means nothing here, give its text or leave the field out" if text.strip().isidentifier() else ""
        return f"never reads `messages`, so that it shows no row{hint}"
    return None
