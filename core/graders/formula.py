"""Formulas over scores: `0.7 * exact + 0.3 * min(length, 1)`. Parsed into a tree of arithmetic, never run as code.

Known are + - * / ^ (or **), parentheses, numbers, names of scores, and the functions below. All numbers are floats.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping

from core.graders.grade import Ungradable

MAX_CHARACTERS = 1000
MAX_DEPTH = 50
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
OF_SEVERAL: dict[str, Callable[..., float]] = {"min": min, "max": max}
OF_ONE: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "sqrt": math.sqrt,
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "exp": math.exp,
    "log": math.log,
}


def parse(formula: str) -> ast.expr:
    """
    Raises:
        ValueError: what is no arithmetic.
    """
    try:
        tree = ast.parse(formula.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no formula: {error.args[0] if error.args else 'nested too deeply'}") from None
    level: list[ast.expr] = [tree]
    for _ in range(MAX_DEPTH):
        level = [part for node in level for part in _parts(node)]
        if not level:
            return tree
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def names(tree: ast.expr) -> Iterator[str]:
    """Of the scores that it needs."""
    if isinstance(tree, ast.Name):
        yield tree.id
    for part in _parts(tree):
        yield from names(part)


def evaluate(tree: ast.expr, scores: Mapping[str, float]) -> float:
    """
    Raises:
        Ungradable: it divides by zero, or leaves the real numbers in another way.
    """
    try:
        value = _evaluate(tree, scores)
    except (ArithmeticError, ValueError) as error:
        raise Ungradable("other_error", f"calculate_output failed: {error}") from None
    if isinstance(value, complex) or not math.isfinite(value):
        raise Ungradable("other_error", f"calculate_output gave {value}, which is no finite number")
    return value


def _evaluate(node: ast.expr, scores: Mapping[str, float]) -> float:
    match node:
        case ast.Constant():
            assert isinstance(node.value, int | float), "`parse` lets nothing else through"
            return float(node.value)
        case ast.Name():
            return scores[node.id]
        case ast.UnaryOp():
            return SIGNS[type(node.op)](_evaluate(node.operand, scores))
        case ast.BinOp():
            return OPERATORS[type(node.op)](_evaluate(node.left, scores), _evaluate(node.right, scores))
        case ast.Call(func=ast.Name(id=name)):
            function = OF_SEVERAL.get(name) or OF_ONE[name]
            return function(*(_evaluate(argument, scores) for argument in node.args))
    raise AssertionError(ast.dump(node))


def _parts(node: ast.expr) -> list[ast.expr]:
    """What stands below a node that is allowed.

    Raises:
        ValueError: it is not.
    """
    match node:
        case ast.Constant() if isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return []
        case ast.Name():
            return []
        case ast.UnaryOp() if type(node.op) in SIGNS:
            return [node.operand]
        case ast.BinOp() if type(node.op) in OPERATORS:
            return [node.left, node.right]
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            if name not in OF_SEVERAL and name not in OF_ONE:
                raise ValueError(f"there is no function {name!r}; there are {', '.join((*OF_SEVERAL, *OF_ONE))}")
            enough = len(node.args) >= 2 if name in OF_SEVERAL else len(node.args) == 1
            if not enough:
                raise ValueError(f"{name!r} takes {'two arguments or more' if name in OF_SEVERAL else 'one argument'}")
            return node.args
    raise ValueError(
        f"{ast.unparse(node)[:60]!r} is no arithmetic; allowed are + - * / ^, numbers, names of graders, and "
        f"{', '.join((*OF_SEVERAL, *OF_ONE))}"
    )
