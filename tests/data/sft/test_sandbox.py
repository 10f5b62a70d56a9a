"""A chat template can neither run for ever nor fill the memory; an honest one gives what transformers gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jinja2
import pytest

from megatron_patch.data.sft.rendering.sandbox import MOST_CHARACTERS, UNITS, BoundedTemplate, TooMuchWork

NESTED = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"
GROW = "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = GROWN %}{% endfor %}{{ ns.s | length }}"
LONG = "('a' * 100000)"
HOSTILE = (
    NESTED,
    "{% set x %}" + NESTED + "{% endset %}",
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 10 ** (10 ** 9) }}",
    GROW.replace("GROWN", "ns.s + ns.s"),
    GROW.replace("GROWN", "ns.s ~ ns.s"),
    GROW.replace("GROWN", "[ns.s, ns.s]").replace("length", "tojson"),
    GROW.replace("GROWN", "{'x': ns.s, 'y': ns.s}"),
    GROW.replace("GROWN", "dict(x=ns.s, y=ns.s)"),
    GROW.replace("GROWN", "'%s%s' % (ns.s, ns.s)"),
    GROW.replace("GROWN", "'{0}{0}'.format(ns.s)"),
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ (1).to_bytes(10**9, 'big') }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' | format(10**9, 1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:>{w}}'.format(1, w=10**9) }}",
    "{{ " + LONG + ".replace('a', 'b' * 100000) }}",
    "{{ " + LONG + " | replace('a', 'b' * 100000) }}",
    "{{ ('b' * 100000).join(range(99999) | map('string') | list) }}",
    "{{ range(99999) | join('b' * 100000) }}",
    "{{ ('\n' * 1000000) | indent(1000000) }}",
    "{{ " + LONG + " | wordwrap(1, wrapstring='x' * 100000) }}",
    "{{ 'x' | batch(10**9, 'y') | list }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ range(9999) | list | tojson(separators=('x' * 100000, ':')) }}",
    "{{ strftime_now('%999999999d') }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + [" + LONG + "[:-1]] %}{% endfor %}",
    "{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "x" * (MOST_CHARACTERS + 1),
)
REFUSED = (
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% for a in [[1]] recursive %}{{ loop([[a]]) }}{% endfor %}",
    "{{ ().__class__.__mro__ }}",
    "{{ lipsum(n=100000) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% include 'x' %}",
)
"""By Jinja, Python or the sandbox."""


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:40])
def test_too_much_work_is_refused(text: str) -> None:
    with pytest.raises(TooMuchWork):
        BoundedTemplate(text).render(messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:40])
def test_what_cannot_be_is_refused(text: str) -> None:
    with pytest.raises((jinja2.TemplateError, RecursionError, TypeError, ValueError)):
        BoundedTemplate(text).render(messages=[])


def test_all_of_it_in_little_memory(tmp_path: Path) -> None:
    """Every hostile template in one process of 2 GiB: the largest that one made on the way was a fraction of that."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_sandbox as t\n"
        "for text in t.HOSTILE:\n"
        "    try: t.BoundedTemplate(text).render(messages=[{'role': 'user', 'content': 'x'}])\n"
        "    except t.TooMuchWork as error: assert 'memory' not in str(error), text[:60]\n"
        "    else: raise SystemExit(text[:60])\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def test_the_units_are_for_each_rendering() -> None:
    template = BoundedTemplate("{% for i in range(90000) %}{{ i }}{% endfor %}")
    for _ in range(1 + UNITS // 90_000 // 20):
        assert template.render().startswith("0123")


def test_the_blocks_of_the_assistant() -> None:
    text = "{% for m in messages %}[{% generation %}{{ m }}.{% endgeneration %}]{% endfor %}"
    assert BoundedTemplate(text).render_tracked(messages=["é", "bc"]) == ("[é.][bc.]", [(1, 3), (5, 8)])
    assert BoundedTemplate(text).render(messages=["é"]) == "[é.]"


FEATURES = (
    "{{ messages | tojson }} {{ messages | tojson(indent=2) }} {{ 'ü<&>' | tojson(ensure_ascii=true) }}",
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }} "
    "{{ loop.last }} {{ m.content ~ 1 }}{% break %}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{% else %}none{% endfor %}",
    "{%- set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% macro f(a, b=2) %}{{ a + b }}{% endmacro %}{{ f(1) }}{{ dict(a=1) }}{{ [1, ns] }}{{ (1, 2)[0] }}",
    "{{ messages | map(attribute='content') | join(', ') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list }}",
    "{{ messages[0].content.split('</think>')[-1].lstrip('\n') }}{{ '%s-%d' % ('a', 3) }}{{ '{}'.format(3) }}",
    "{% set x = 'a' * 3 %}{{ x }}{{ x is string }}{{ 7 // 2 }}{{ 2 ** 3 }}{{ nothing }}{{ nothing is defined }}",
    "  {% if messages %}  \n  yes{% endif %}\n\n{{- ' a' | trim -}}  \n",
    "{% macro f(a) %}{{ caller() if caller else a }}{{ kwargs }}{{ varargs }}{% endmacro %}"
    "{{ f(1, 2, b=3) }}{% call f(4) %}x{% endcall %}{% for m in messages %}{{ f(m.content, loop.index) }}{% endfor %}",
    "{{ messages[0].nothing is defined }}{{ messages[0].nothing }}{{ messages[0].get('role') }}"
    "{{ {'items': 1}.items is callable }}"
    "{{ messages[0].nothing or 'none' }}{{ namespace(a=1).a }}",
    "{{ (messages | length) + 1 }}{{ messages[0].keys() | list }}"
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }}{% endfor %}",
)


@pytest.mark.parametrize("text", FEATURES, ids=range(len(FEATURES)))
def test_an_honest_template_means_what_it_means_in_transformers(text: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": "a</think>\nb"}, {"role": "assistant", "content": "ü"}]
    theirs, _ = render_jinja_template([messages], chat_template=text)
    assert BoundedTemplate(text).render(messages=messages, tools=None, documents=None) == theirs[0]
