"""Python's regular expressions over Arrow text, with the verdicts of Python's `re.search`.

Great Expectations matches with Python's engine, Arrow with RE2. Both agree on which ASCII texts hold a
match of a pattern made of the nodes translated here: literals, classes, repetitions, alternatives,
groups, and anchors at the ends. So such a pattern runs in RE2 over ASCII text, and everything else
(look-around, back-references, non-ASCII text, where `\\d` and `\\w` mean more in Python) in Python's own
engine, once for each distinct value.
"""

import importlib
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# The parser behind `re.compile`; public as `sre_parse` until Python 3.11.
_parser: Any = importlib.import_module("re._parser")
_c: Any = importlib.import_module("re._constants")

PatternError = re.error

_GLOBAL_FLAGS = int(re.UNICODE | re.IGNORECASE | re.DOTALL | re.VERBOSE)
_CATEGORIES: dict[Any, str] = {
    # Of ASCII alone. Python counts the four separators 0x1c to 0x1f as white space, RE2 does not.
    _c.CATEGORY_DIGIT: "0-9",
    _c.CATEGORY_NOT_DIGIT: r"\x00-\x2f\x3a-\x7f",
    _c.CATEGORY_SPACE: r"\x09-\x0d\x1c-\x20",
    _c.CATEGORY_NOT_SPACE: r"\x00-\x08\x0e-\x1b\x21-\x7f",
    _c.CATEGORY_WORD: "0-9A-Za-z_",
    _c.CATEGORY_NOT_WORD: r"\x00-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\x7f",
}


class Pattern:
    """A compiled pattern; raises `PatternError` for a pattern that Python does not accept."""

    __slots__ = ("_re2", "_search")

    def __init__(self, pattern: str) -> None:
        compiled = re.compile(pattern)
        self._search = compiled.search
        self._re2 = _accepted(translate(pattern))

    def found(self, texts: pa.Array) -> pa.BooleanArray:
        """Whether each text holds a match; null where the text is null."""
        if self._re2 is None:
            return self._by_python(texts)
        found = pc.match_substring_regex(texts, pattern=self._re2)
        ascii_only = pc.string_is_ascii(texts)
        if not ascii_only.false_count:
            return found
        # Only the others: Python's engine backtracks, over what RE2 has settled already as well.
        others = pc.if_else(ascii_only, pa.scalar(None, texts.type), texts)
        return pc.if_else(ascii_only, found, self._by_python(others))

    def _by_python(self, texts: pa.Array) -> pa.BooleanArray:
        encoded = texts.dictionary_encode()
        found = [self._search(text) is not None for text in encoded.dictionary.to_pylist()]
        return pa.array(found, pa.bool_()).take(encoded.indices)


def translate(pattern: str) -> str | None:
    """The RE2 pattern found in exactly the same ASCII texts, or None if there is no sure translation."""
    tree = _parser.parse(pattern)
    flags = tree.state.flags
    if flags & ~_GLOBAL_FLAGS:
        return None
    try:
        body = _sequence(tree, tail=True)
    except _Untranslatable:
        return None
    prefix = ("i" if flags & re.IGNORECASE else "") + ("s" if flags & re.DOTALL else "")
    return f"(?{prefix}:{body})" if prefix else body


class _Untranslatable(Exception):
    """A node whose meaning in RE2 is another, or none."""


def _accepted(pattern: str | None) -> str | None:
    """The pattern, if RE2 takes it: it limits repetitions and the size of the automaton."""
    if pattern is None:
        return None
    try:
        pc.match_substring_regex(pa.array([""]), pattern=pattern)
    except pa.ArrowInvalid:
        return None
    return pattern


def _sequence(nodes: Sequence[Any], tail: bool) -> str:
    last = len(nodes) - 1
    return "".join(_node(op, value, tail and i == last) for i, (op, value) in enumerate(nodes))


def _node(op: Any, value: Any, tail: bool) -> str:
    if op is _c.LITERAL:
        return _literal(value)
    if op is _c.NOT_LITERAL:
        return f"[^{_literal(value)}]"
    if op is _c.ANY:
        return "."
    if op is _c.IN:
        return _class(value)
    if op is _c.BRANCH:
        return "(?:" + "|".join(_sequence(branch, tail) for branch in value[1]) + ")"
    if op is _c.SUBPATTERN:
        return _group(value, tail)
    if op in (_c.MAX_REPEAT, _c.MIN_REPEAT):
        return _repeat(value)
    if op is _c.AT:
        return _anchor(value, tail)
    raise _Untranslatable


def _literal(code: int) -> str:
    if code > 0x7F:
        # It cannot stand in an ASCII text, but `(?i)` relates some of them to ASCII letters.
        raise _Untranslatable
    # An escape of every character but letters and digits spares a list of what RE2 finds special.
    return chr(code) if chr(code).isalnum() else f"\\x{code:02x}"


def _class(items: Sequence[Any]) -> str:
    negated = items[0][0] is _c.NEGATE
    return "[" + ("^" if negated else "") + "".join(map(_class_item, items[1:] if negated else items)) + "]"


def _class_item(item: tuple[Any, Any]) -> str:
    op, value = item
    if op is _c.LITERAL:
        return _literal(value)
    if op is _c.RANGE:
        return f"{_literal(value[0])}-{_literal(value[1])}"
    if op is _c.CATEGORY:
        return _CATEGORIES[value]
    raise _Untranslatable


def _group(value: Any, tail: bool) -> str:
    _, added, removed, nodes = value
    if added or removed:
        raise _Untranslatable
    return f"(?:{_sequence(nodes, tail)})"


def _repeat(value: Any) -> str:
    least, most, nodes = value
    bounds = f"{{{least},}}" if most is _c.MAXREPEAT else f"{{{least},{most}}}"
    # Greedy or not decides which match is found, not whether there is one.
    return f"(?:{_sequence(nodes, tail=False)}){bounds}"


def _anchor(value: Any, tail: bool) -> str:
    if value in (_c.AT_BEGINNING, _c.AT_BEGINNING_STRING):
        return r"\A"
    if value is _c.AT_END_STRING:
        return r"\z"
    if value is _c.AT_BOUNDARY:
        return r"\b"
    if value is _c.AT_END and tail:
        # `$` also stands before a final newline; RE2 cannot look ahead, but may take it at the very end.
        return r"(?:\n?\z)"
    raise _Untranslatable
