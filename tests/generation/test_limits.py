from __future__ import annotations

import math

import pytest

from lvtrain.errors import UserError
from lvtrain.generation.limits import check_number


@pytest.mark.parametrize("value", [2, 2.0, 7, 10])
def test_a_number_within_its_bounds_passes(value: float) -> None:
    check_number("steps", value, 2, 10)


@pytest.mark.parametrize("value", [1, 11, -3, math.nan, math.inf, -math.inf, 10**400])
def test_a_number_out_of_its_bounds_is_named_with_them(value: float) -> None:
    with pytest.raises(UserError, match=r"^--max-words: expected 2 to 10, found "):
        check_number("max_words", value, 2, 10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers_pass_where_there_is_no_bound(value: float) -> None:
    with pytest.raises(UserError, match="--scale: expected a finite number, found"):
        check_number("scale", value, -math.inf)
    check_number("scale", -1e300, -math.inf)


def test_an_integer_of_any_size_is_finite() -> None:
    check_number("num", 10**400, 1)
