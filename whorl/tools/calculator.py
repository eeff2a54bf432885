"""A calculator that parses: no `eval`, no names, exact integers and fractions, bounded work.

Python's own parser reads the expression and only its number and operator nodes are walked, so
precedence, associativity and floor division are Python's.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from whorl.base.errors import DataError

MAX_CHARACTERS = 500
MAX_BITS = 4096  # of any numerator or denominator on the way
MAX_DEPTH = 100
MAX_PLACES = 40  # decimals shown in full

Number = int | Fraction

BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Div: lambda left, right: Fraction(left) / right,
    ast.Pow: lambda left, right: _power(left, right),
}
UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: lambda value: value,
    ast.USub: lambda value: -value,
}


def calculate(expression: str) -> Number:
    """The exact value of `expression`: numbers, + - * / // % **, parentheses.

    Decimals are exact too (0.1 + 0.2 is 3/10). Raises `DataError` for anything else, for division
    by zero, and for values beyond `MAX_BITS` bits.
    """
    if len(expression) > MAX_CHARACTERS:
        raise DataError(f"expression has {len(expression)} characters; at most {MAX_CHARACTERS}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # MemoryError is how Python's parser reports nesting beyond its stack
        raise DataError(
            f"cannot read {expression!r} as arithmetic: {getattr(error, 'msg', error)}"
        ) from error
    return _value(tree.body, expression.strip(), 0)


def calculator_text(value: Number) -> str:
    """An integer as it is, a finite decimal in full, any other fraction to 12 significant digits."""
    if isinstance(value, int) or value.denominator == 1:
        return str(int(value))
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest == 1 and places <= MAX_PLACES:
        return _decimal(value, places)
    return f"{Decimal(value.numerator) / Decimal(value.denominator):.12g}"


def _decimal(value: Fraction, places: int) -> str:
    digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _value(node: ast.expr, source: str, depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise DataError(f"expression is nested more than {MAX_DEPTH} deep; split it")
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int(value)):
            return _bounded(value)
        case ast.Constant(value=float()):
            written = ast.get_source_segment(source, node) or ""
            return _literal(written)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            return UNARY[type(op)](_value(operand, source, depth + 1))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            first, second = _value(left, source, depth + 1), _value(right, source, depth + 1)
            if second == 0 and isinstance(op, ast.Div | ast.FloorDiv | ast.Mod):
                raise DataError("division by zero")
            return _bounded(BINARY[type(op)](first, second))
    what = ast.get_source_segment(source, node) or type(node).__name__
    raise DataError(f"{what!r} is not arithmetic; use numbers, + - * / // % ** and parentheses")


def _literal(written: str) -> Number:
    """A decimal as written, so that 0.1 is a tenth and not the nearest double."""
    number = Decimal(written.replace("_", ""))
    if number and abs(number.adjusted()) > MAX_BITS // 4:
        raise DataError(f"{written} is too large or too small for this calculator")
    return _bounded(Fraction(number))


def _power(base: Number, exponent: Number) -> Number:
    if exponent != int(exponent):
        raise DataError(
            f"exponent {calculator_text(exponent)} is not a whole number; roots are not supported"
        )
    if base == 0 and exponent < 0:
        raise DataError("division by zero")
    size = max(abs(Fraction(base).numerator), Fraction(base).denominator).bit_length()
    if base not in (-1, 0, 1) and size * abs(int(exponent)) > 2 * MAX_BITS:
        raise DataError(f"power is too large: more than {MAX_BITS} bits")
    return Fraction(base) ** int(exponent)


def _bounded(value: Number) -> Number:
    fraction = Fraction(value)
    if max(fraction.numerator.bit_length(), fraction.denominator.bit_length()) > MAX_BITS:
        raise DataError(f"number is too large: more than {MAX_BITS} bits")
    return int(fraction) if fraction.denominator == 1 else fraction
