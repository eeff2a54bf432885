"""The calculator against Python's own arithmetic over int and Fraction."""

import ast
import re
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from whorl.base.errors import DataError
from whorl.tools.calculator import calculate, calculator_text

integers = st.integers(0, 10**6).map(str)


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", " + ", " - "]), inner).map(
        "".join
    )
    return st.one_of(
        binary,
        inner.map("({})".format),
        inner.map("-({})".format),
        st.builds("({})**{}".format, inner, st.integers(0, 3)),
    )


expressions = st.recursive(integers, combined, max_leaves=10)


class FractionLiterals(ast.NodeTransformer):
    """Python's own evaluation, with every integer literal exact under `/`."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Call(func=ast.Name("Fraction", ast.Load()), args=[node], keywords=[])


def python_value(expression: str) -> Fraction:
    tree = ast.fix_missing_locations(FractionLiterals().visit(ast.parse(expression, mode="eval")))
    return Fraction(eval(compile(tree, "oracle", "eval"), {"Fraction": Fraction}))


@given(expressions)
def test_agrees_with_python(expression: str) -> None:
    assume(len(expression) <= 500)
    try:
        expected = python_value(expression)
    except ZeroDivisionError:
        with pytest.raises(DataError, match="division by zero"):
            calculate(expression)
        return
    value = calculate(expression)
    assert value == expected
    assert isinstance(value, int) == (expected.denominator == 1)


@given(st.integers(), st.integers(0, 12), st.integers(0, 12))
def test_finite_decimals_are_shown_exactly(numerator: int, twos: int, fives: int) -> None:
    value = Fraction(numerator, 2**twos * 5**fives)
    shown = calculator_text(value)
    assert Fraction(shown) == value
    assert re.fullmatch(r"-?\d+(\.\d*[1-9])?", shown)


@given(st.fractions(max_denominator=10**6))
def test_other_fractions_are_shown_to_twelve_digits(value: Fraction) -> None:
    shown = Fraction(calculator_text(value))
    assert abs(shown - value) <= abs(value) * Fraction(1, 10**11)


def test_decimals_are_exact() -> None:
    assert calculator_text(calculate("0.1 + 0.2")) == "0.3"
    assert calculate("1_000.5e1") == 10005


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')", "x", "(1).real", "[1]", "'a'*9", "True", "1 if 1 else 2", "1 < 2", "1j",
        "lambda: 1", "~1", "1 << 2", "1 and 2", "(y := 1)", "f(1)", "...", "", " ", "1 +", "(1",
        "1\n2", "1e999999", "9**9**9", "2**100000", "(-3)**99999", "(1/3)**-99999",
        "10**400*10**400*10**400*10**400", "2**0.5", "0**-1", "1/0", "1//0", "1%0", "-" * 150 + "1",
        "(" * 240 + "1" + ")" * 240, "9" * 501, "\x00",
    ],
)  # fmt: skip
def test_refuses(expression: str) -> None:
    with pytest.raises(DataError):
        calculate(expression)


@given(st.text(max_size=40))
def test_any_text_is_a_number_or_a_refusal(text: str) -> None:
    try:
        calculator_text(calculate(text))
    except DataError as error:
        assert str(error)
