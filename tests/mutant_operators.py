# SPDX-License-Identifier: Apache-2.0
"""What a mutant is: one small change of a module's syntax tree, with a name that outlives lines.

Knows Python's syntax; knows nothing of tests or of how a mutant is run.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.MatMult: ast.Mult,
}
PAIRS = (("min", "max"), ("any", "all"), ("minimum", "maximum"), ("clamp_min", "clamp_max"))
OTHER_NAMES = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
SILENT = ("log", "logging", "_log", "warnings")
"""Objects whose calls nobody's result depends on."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        name: function, what it was and what it becomes, with a number where that is not unique.
        line: where it is today.
        place, number: which node of the walk, and which of its changes.
    """

    name: str
    line: int
    place: int
    number: int


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    seen: Counter[str] = Counter()
    found = []
    for place, (node, scope, statement) in enumerate(_walk(ast.parse(source), "", "")):
        for number in range(len(list(_changes(node)))):
            twin = copy.deepcopy(node)
            what, change = list(_changes(twin))[number]
            change()
            what = what or f"{_short(node)} -> {_short(twin)}"
            text = f"{scope}: {what}" + (f" in `{statement}`" if statement not in what else "")
            seen[text] += 1
            name = text if seen[text] == 1 else f"{text} #{seen[text]}"
            found.append(Mutant(name, node.lineno, place, number))
    return found


def mutate(source: str, mutant: Mutant) -> ast.Module:
    """The module with one change."""
    tree = ast.parse(source)
    node = next(n for p, (n, *_) in enumerate(_walk(tree, "", "")) if p == mutant.place)
    list(_changes(node))[mutant.number][1]()
    return ast.fix_missing_locations(tree)


def _short(node: ast.AST) -> str:
    """The first line of what a node says."""
    return ast.unparse(node).split("\n")[0][:100]


Place = tuple[ast.stmt | ast.expr, str, str]
"""A node that may be changed, its function's name, and the statement it stands in."""
Change = tuple[str, Callable[[], object]]
"""What a change is called, "" where before and after say it, and what makes it."""


def _walk(node: ast.AST, scope: str, statement: str) -> Iterator[Place]:
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_prose(child):
                continue
            inner, at = scope, statement
            if isinstance(child, ast.stmt):
                at = _short(child)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{scope}.{child.name}".lstrip(".")
            if isinstance(child, ast.stmt | ast.expr):
                yield child, inner, at
            yield from _walk(child, inner, at)


def _is_prose(node: ast.AST) -> bool:
    """What a reader sees, not a caller: docstrings, messages, logs, checks of our own mistakes."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.Raise | ast.JoinedStr):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    if not isinstance(node, ast.Expr):
        return False
    call = node.value
    if isinstance(call, ast.Constant):
        return True
    owner = call.func if isinstance(call, ast.Call) else None
    return isinstance(owner, ast.Attribute) and ast.unparse(owner.value) in SILENT


def _changes(node: ast.stmt | ast.expr) -> Iterator[Change]:
    """The changes of one node, each as a function that makes it."""
    if isinstance(node, ast.stmt):
        yield from _statement_changes(node)
    elif isinstance(node, ast.Compare):
        for number, op in enumerate(node.ops):
            yield "", partial(node.ops.__setitem__, number, COMPARISONS[type(op)]())
    elif isinstance(node, ast.BinOp) and not _is_type(node):
        yield "", partial(setattr, node, "op", ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield "", partial(setattr, node, "op", other())
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield "", partial(_become, node, node.operand)
    elif isinstance(node, ast.IfExp):
        yield f"not if {_short(node.test)}", partial(_negate, node)
    elif isinstance(node, ast.Constant):
        yield from _constant_changes(node)
    elif isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg not in (None, "strict"):
                what = f"without {keyword.arg}= in {_short(node.func)}()"
                yield what, partial(node.keywords.remove, keyword)
    elif isinstance(node, ast.Name) and node.id in OTHER_NAMES:
        yield "", partial(setattr, node, "id", OTHER_NAMES[node.id])
    elif isinstance(node, ast.Attribute) and node.attr in OTHER_NAMES:
        yield "", partial(setattr, node, "attr", OTHER_NAMES[node.attr])


def _statement_changes(node: ast.stmt) -> Iterator[Change]:
    if isinstance(node, ast.If | ast.While):
        yield f"not {_short(node)}", partial(_negate, node)
    elif isinstance(node, ast.AugAssign):
        yield "", partial(setattr, node, "op", ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"without {_short(node)}", partial(setattr, node, "value", ast.Constant(None))


def _constant_changes(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield "", partial(setattr, node, "value", not value)
    elif isinstance(value, int):
        yield "", partial(setattr, node, "value", value + 1)
    elif isinstance(value, float):
        yield "", partial(setattr, node, "value", value * 2 if value else 1.0)


def _is_type(node: ast.BinOp) -> bool:
    """`int | None` is a type, not a union of bits."""
    text = ast.unparse(node)
    return isinstance(node.op, ast.BitOr) and ("None" in text or text[:1].isupper())


def _negate(node: ast.If | ast.While | ast.IfExp) -> None:
    node.test = ast.UnaryOp(ast.Not(), node.test)


def _become(node: ast.expr, other: ast.expr) -> None:
    """Puts an expression's operand in its place: `not x` becomes `x`."""
    node.__class__ = other.__class__  # type: ignore[assignment]
    node.__dict__ = {**node.__dict__, **copy.deepcopy(other.__dict__)}
