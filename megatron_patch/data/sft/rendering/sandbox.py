"""Chat templates in a sandbox that counts their work, so that none runs for ever or fills the memory.

A template comes with the tokenizer, from anybody. transformers' sandbox keeps it from Python's internals, but not
from looping over `range(99999)` in itself, nor from `'a' * 10**9`. Here every loop, call, filter, operator and text
costs units, and a rendering has a fixed number of them: what is refused does not depend on the machine's speed.
Otherwise a template means what it means in transformers 5.23 (`chat_template_utils._cached_compile_jinja_template`).
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes, pass_context, pass_eval_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from megatron_patch.common.errors import UserError

UNITS = 10_000_000
"""Of one rendering: a few seconds. A conversation of 100 turns under Llama 3.1's template takes about 5,000."""
MOST_CHARACTERS = 1_000_000
"""Of a template; the longest published ones have 30,000."""
MOST_INTEGER = 1_000_000
"""Of what is given to a method or filter that makes as many characters."""
SHARE = 16
"""Characters of a unit."""

Span = tuple[int, int]


class TooMuchWork(UserError, ValueError):
    """A template that takes more units than a rendering has."""


class _Work:
    """The units that are left; one rendering at a time."""

    def __init__(self) -> None:
        self.left = UNITS

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise TooMuchWork("template-work", most=UNITS)

    def made(self, value: Any) -> Any:
        """Charge a value that has just been made by its size, all that hangs on it counted as often as it would be
        written."""
        kind = type(value)
        if kind is str:
            self.left -= 1 + len(value) // SHARE
            if self.left < 0:
                self.spend(0)
        elif kind in (dict, list, tuple):
            self.spend(1 + len(value))
            for item in value.values() if kind is dict else value:
                self.made(item)
        elif isinstance(value, (str, bytes)):
            self.spend(1 + len(value) // SHARE)
        elif isinstance(value, int):
            self.spend(1 + value.bit_length() // 64)
        elif isinstance(value, Namespace):
            self.made(object.__getattribute__(value, "_Namespace__attrs"))
        elif isinstance(value, (dict, list, tuple)):
            self.made(dict(value) if isinstance(value, dict) else list(value))
        return value


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        self.work = _Work()
        self._tracked: tuple[list[str], list[Span]] | None = None
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=self.work.made
        )
        self.filters = {name: self._counted_filter(name, each) for name, each in self.filters.items()}
        self.filters |= {"tojson": self._counted_filter("tojson", _tojson)}
        self.filters |= {"_loop": _pass(self._loop), "_join": _pass(self._join), "_made": _pass(self._made)}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.globals |= {"dict": _Dictionaries(), "namespace": _Namespace}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MOST_CHARACTERS:
            raise TooMuchWork("template-long", characters=len(source), most=MOST_CHARACTERS)
        tree: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return self.work.made(left + right)
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, (str, bytes, list, tuple)) and isinstance(times, int):
                    self.work.spend(len(text) * max(0, times) // SHARE)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self.work.spend(left.bit_length() * max(0, right) // SHARE)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            self.work.made(right)
        return self.work.made(super().call_binop(context, operator, left, right))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja's, which looks for a message's key among the methods first and catches an exception."""
        if type(obj) is not dict or attribute in _OF_DICTIONARIES:
            return super().getattr(obj, attribute)
        try:
            return obj[attribute]
        except KeyError:
            return self.undefined(obj=obj, name=attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if type(__obj) is Macro:  # of the template itself, so nothing to look for in it
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            return __self.work.made(__obj(__context.eval_ctx, *args, **kwargs))
        owner = getattr(__obj, "__self__", None)
        if owner is not None and isinstance(owner, (str, bytes, int)):
            __self._check_method(owner, getattr(__obj, "__name__", ""), [*args, *kwargs.values()])
        return __self.work.made(super().call(__context, __obj, *args, **kwargs))

    def _check_method(self, owner: str | bytes | int, name: str, values: list[Any]) -> None:
        if name == "join" and values:
            self._check_growth(name, values[0] if _sized(values[0]) else "", [owner])
        elif name == "translate":
            self._check_growth(
                name, owner, [item for value in values if isinstance(value, dict) for item in value.values()]
            )
        elif name in ("replace", "expandtabs", "to_bytes", "center", "ljust", "rjust", "zfill"):
            self._check_growth(name, owner, values)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if getattr(value, "__name__", "") in ("format", "format_map"):
            _check_format(getattr(value, "__self__", None))
        return super().wrap_str_format(value)

    def _check_growth(self, name: str, first: Any, others: list[Any]) -> None:
        """Before a method or filter makes something large: at worst each piece becomes its largest argument."""
        if not others:
            self.work.made(first)
            return
        integers = [abs(value) for value in others if isinstance(value, int)]
        most = 64 if name == "tojson" else MOST_INTEGER
        if max(integers, default=0) > most:
            raise TooMuchWork("template-makes", filter=name, number=f"{max(integers):.3g}", most=MOST_INTEGER)
        if (
            name == "tojson"
            and max(map(_length, [part for value in others for part in _parts(value)]), default=0) > most
        ):
            raise TooMuchWork("template-separators")
        if name in ("format", "center", "xmlattr", "pprint"):
            _check_format(first)
            self.work.made(others)
        self.work.made(first if not isinstance(first, (str, int)) else None)
        pieces = _length(first) + 1
        largest = max((_length(value) for value in others), default=0)
        if name in ("indent", "expandtabs"):
            pieces = first.count("\n") + first.count("\t") + 1 if isinstance(first, str) else pieces
            largest = max([largest, *integers])
        self.work.spend(pieces * largest // SHARE)

    def _counted_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if name in _GROWING_FILTERS and args:
                at = int(isinstance(args[0], (Context, nodes.EvalContext, jinja2.Environment)))
                first, *others = args[at:]
                if name == "join" and not _sized(first) and isinstance(first, Iterable):
                    first = list(self._counted_items(first, 0))
                    args = (*args[:at], first, *others)
                self._check_growth(name, first, [*others, *kwargs.values()])
            return self.work.made(function(*args, **kwargs))

        return counted

    def _loop(self, _: Context, iterable: Any, literal: int) -> Any:
        if _sized(iterable):
            self.work.spend(len(iterable) * (1 + literal // SHARE))
            return iterable
        return self._counted_items(iterable, literal) if isinstance(iterable, Iterable) else iterable

    def _counted_items(self, iterable: Iterable[Any], literal: int) -> Iterator[Any]:
        for item in iterable:
            self.work.spend(1 + literal // SHARE)
            yield item

    def _join(self, _: Context, items: list[Any]) -> str:
        text = "".join([item if type(item) is str else str(self.work.made(item)) for item in items])
        self.work.spend(1 + len(text) // SHARE)
        return text

    def _made(self, _: Context, value: Any) -> Any:
        return self.work.made(value)


class _Counting(NodeTransformer):
    """Lets loops, joined texts, slices and literals with values in them go through the environment's counter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        literal = sum(len(each.data) for each in node.find_all(nodes.TemplateData))
        node.iter = _filter(node.iter, "_loop", [nodes.Const(literal)])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_join", [])

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "_made", []) if isinstance(node.arg, nodes.Slice) else node

    def _literal(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        held = getattr(node, "items", [])
        constant = all(isinstance(item, nodes.Const) for item in held)
        return node if constant or getattr(node, "ctx", "load") != "load" else _filter(node, "_made", [])

    visit_List = visit_Tuple = visit_Dict = _literal


class _Generation(Extension):
    """`{% generation %}` blocks: where in the text the assistant wrote."""

    tags = frozenset(("generation",))  # type: ignore[assignment]  # a set there

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_generated"), [], [], body).set_lineno(line)

    @pass_eval_context
    def _generated(self, _: nodes.EvalContext, caller: Callable[[], str]) -> str:
        text = caller()
        environment: Any = self.environment
        if environment._tracked is not None:
            written, spans = environment._tracked
            start = sum(map(len, written))
            spans.append((start, start + len(text)))
        return text


class _Dictionaries:
    """`dict` in a template: without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` in a template: without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


class BoundedTemplate:
    """A compiled chat template."""

    def __init__(self, text: str) -> None:
        """Raises jinja2.TemplateSyntaxError, TooMuchWork."""
        self._environment = _Environment()
        try:
            self._template = self._environment.from_string(text)
        except (RecursionError, MemoryError, OverflowError):
            raise TooMuchWork("template-deep") from None

    def render(self, **variables: Any) -> str:
        """The text.

        Raises:
            TooMuchWork: the units do not suffice.
            jinja2.TemplateError, TypeError, ValueError: what the template itself, or Python below it, refuses.
            RecursionError: it calls itself, or the conversation is nested, too deep.
        """
        return "".join(self._pieces(variables))

    def render_tracked(self, **variables: Any) -> tuple[str, list[Span]]:
        """The text, and start and end of each `{% generation %}` block in it. Raises as `render`."""
        written: list[str] = []
        spans: list[Span] = []
        self._environment._tracked = (written, spans)
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self._environment, "_tracked", None)
            for piece in self._pieces(variables):
                written.append(piece)
        return "".join(written), spans

    def _pieces(self, variables: dict[str, Any]) -> Iterator[str]:
        self._environment.work.left = UNITS
        try:
            yield from self._template.generate(**variables)
        except MemoryError:
            raise TooMuchWork("template-memory") from None


def _filter(node: Any, name: str, arguments: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(node, name, arguments, [], None, None, lineno=node.lineno)


def _pass(method: Callable[..., Any]) -> Callable[..., Any]:
    """Given the context, a filter is not worked out while the template is compiled."""
    return pass_context(functools.partial(method))


_GROWING_FILTERS = frozenset(
    ("batch", "center", "format", "indent", "join", "replace", "slice", "tojson", "wordwrap", "xmlattr", "pprint")
)
_OF_DICTIONARIES = frozenset(dir(dict))
_FORMAT = re.compile(r"%[^%a-zA-Z]*(\d{4,}|\*)|\{[^{}]*(\{|:[^{}]*\d{4,})")
"""A width of four digits or more, or one that is an argument."""


def _check_format(text: Any) -> None:
    if isinstance(text, str) and _FORMAT.search(text):
        raise TooMuchWork("template-width", text=text[:40])


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace in a chat template holds no name like {name!r}")


def _sized(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, jinja2.Undefined)


def _length(value: Any) -> int:
    return len(value) if _sized(value) else 0


def _parts(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(form: str) -> str:
    _check_format(form)
    return datetime.datetime.now().strftime(form)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
