"""A chat template is a stranger's code: whatever it does ends soon, in words, with the template blamed and not a row."""

import time
from datetime import date

import pytest
from tests.builders.machine import slowness
from tests.trainer.chats import CHATML, encode, make_tokenizer, said

from finetune_contract.chat_template import UNKNOWN_DAY, ChatTemplate, TemplateProblem
from finetune_contract.failures import FailureClass, TrainingError

LOOP = "{% for i in range(60) %}"
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that filters": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a recursive loop": "{% for x in range(1000) recursive %}{{ loop(range(1000)) }}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "a macro without end": "{% macro f(n) %}{{ f(n+1) }}{% endmacro %}{{ f(1) }}",
    "a long text": "{{ 'x' * 10**9 }}",
    "a large number": "{{ 9**(9**9) }}",
    "a padded text": "{{ 'x' | center(10**9) }}",
    "a padded text by method": "{{ 'x'.ljust(1000000000) }}",
    "doubling by ~": "{% set ns = namespace(x='aa') %}" + LOOP + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='aa') %}" + LOOP + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(x=[1]) %}" + LOOP + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
    "squaring": "{% set ns = namespace(x=3) %}" + LOOP + "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a wide format": "{{ '%1000000000d' % 3 }}{{ '{:>1000000000}'.format(3) }}",
    "a wide format by method": "{{ '{:>1000000000}'.format(3) }}",
    "replacing": "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}",
    "joining": "{% set x = 'a' * 100000 %}{{ ([x] * 100000) | join }}",
    "searching": "{% set x = 'a' * 4000000 %}{% for i in range(99999) %}{% if 'b' in x %}{% endif %}{% endfor %}",
    "slicing": "{% set x = 'a' * 8000000 %}{% for i in range(99999) %}{% set y = x[1:] %}{% endfor %}",
    "paying itself back": "{% for a in range(99999) %}{% if -99999 | _pay %}{% endif %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "another file": "{% include '/etc/passwd' %}",
    "the classes behind": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages.append(1) }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_template_ends_soon_in_words(source):
    before = time.thread_time()
    with pytest.raises(TemplateProblem) as raised:
        ChatTemplate(source, names={}, day=None).render(said("q", "a")["messages"])
    assert raised.value.words
    assert time.thread_time() - before < 20 * slowness()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("chatml", "it is a fixed text of 6 characters; wanted the source of a Jinja template"),
        ("{{ messages[0].content }", "it is not a Jinja template: line 1: "),
        ("{% for m in messages %}{{ m.content }}", "it is not a Jinja template: line 1: "),
        ("{% if 1 %}" * 3000 + "{{ 1 }}" + "{% endif %}" * 3000, "it is not a Jinja template"),
        (CHATML + " " * 300_000, "it has 300"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "it hides the content of messages with the role user"),
        (CHATML + HOSTILE["nested loops"], "it does not end"),
    ],
)
def test_what_is_no_template_is_blamed_on_its_field(source, problem):
    with pytest.raises(TrainingError) as raised:
        encode(make_tokenizer(), said("q", "a"), template=source)
    assert raised.value.failure_class is FailureClass.USER_ERROR
    assert raised.value.message.startswith("spec.training.chatTemplate: ")
    assert problem in raised.value.message


def test_a_template_is_told_the_day_of_the_job_or_a_fixed_one():
    source = "{{ strftime_now('%Y-%m-%d %H:%M') }}"
    assert ChatTemplate(source, names={}, day=date(2025, 3, 4)).render([]) == "2025-03-04 00:00"
    assert ChatTemplate(source, names={}, day=None).render([]) == f"{UNKNOWN_DAY} 00:00"
    assert ChatTemplate(source, names={}, day=None).asks_for_date
    assert not ChatTemplate("{# strftime_now #}", names={}, day=None).asks_for_date


def test_a_long_conversation_whose_length_is_asked_for_at_every_turn_is_not_endless():
    source = "{% for m in messages %}{% if loop.index0 == messages | length - 1 %}last: {% endif %}{{ m.content }} {% endfor %}"
    shown = ChatTemplate(source, names={}, day=None).render(said(*["a"] * 2000)["messages"])
    assert shown == "a " * 1999 + "last: a "
