# SPDX-License-Identifier: Apache-2.0
"""What counts as the answer of a response, and as a number."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.accuracy.extraction import (
    boxed,
    final_answer,
    final_letter,
    final_number,
    last_number,
    last_tag,
    number,
)

READERS = (boxed, last_tag, final_answer, final_letter, final_number, number, last_number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2} and so on", "2"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{}", ""),
        # never an earlier one
        (r"\boxed{5} or \boxed{6", None),
        (r"\boxed{6", None),
        (r"\boxed{5} no: \boxed{\left\{\begin{array}{l}1\\2\end{array}\right.}",
         r"\left\{\begin{array}{l}1\\2\end{array}\right."),
        (r"\boxed{a \\}", r"a \\"),
        (r"\boxed{\boxed{5}}", "5"),
        # other spellings
        (r"boxed{5} \fbox{6}", "6"),
        (r"\boxed {6}", "6"),
        (r"\boxed6, \boxed 12", "6, 12"),
        (r"\boxed", None),
        # several of one answer
        (r"x = \boxed{1} or $x = \boxed{2}$", "1, 2"),
        (r"\boxed{1}$, $\boxed{2}$ and $\boxed{3}", "1, 2, 3"),
        (r"\boxed{1}\text{ and }\boxed{2}", "1, 2"),
        (r"\boxed{1}, no, \boxed{2}", "2"),
        ("", None),
    ],
)  # fmt: skip
def test_boxed(text, expected):
    assert boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>5</answer>", "5"),
        ("<answer> 5\n</answer> <answer>6</answer> bye", "6"),
        ("<answer>1\n2</answer>", "1\n2"),
        ("<answer>5</answer> <answer>6", "5"),
        ("<answer>5 <answer>6</answer>", "6"),
        ("<answer></answer>", ""),
        ("<answer>5", None),
        ("", None),
    ],
)
def test_the_last_tag(text, expected):
    found = last_tag(text)
    assert (found.content if found else None) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"the answer is 1 \boxed{2} <answer>3</answer> #### 4", "3"),
        (r"<answer>1 \boxed{2} the answer is 4", "2"),
        (r"<answer>so \boxed{5}</answer>", "5"),
        (r"the answer is 5, or \boxed{6", None),
        ("**Final Answer:** B", "B"),
        ("The answer must be 5", "5"),
        ("\u7b54\u6848\u662f 5", "5"),
        ("\uc815\ub2f5: 5", "5"),
        ("The answer is 5", "5"),
        ("The Answer Is: 5.\nBye", "5."),
        ("The answer is 5, no, the answer is 6\nBye", "6"),
        ("the answer is:\n\n  blue whale \nBye", "blue whale"),
        ("work\n#### 42", "42"),
        ("so the answer is 1\n#### 2", "2"),
        ("#### 2\nthe answer is 1", "1"),
        ("the answer isn't clear\nblue", "blue"),
        ("red\nthe answer is", "the answer is"),
        ("first\n last  line \n\n", "last  line"),
        (" \n", None),
        ("", None),
    ],
)
def test_final_answer(text, expected):
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", Fraction(42)),
        (" -42. ", Fraction(-42)),
        ("+7", Fraction(7)),
        ("- 3", Fraction(-3)),
        ("\u22123", Fraction(-3)),
        ("007", Fraction(7)),
        ("1,234,567", Fraction(1234567)),
        ("1{,}000", Fraction(1000)),
        (r"10\,000", Fraction(10000)),
        ("3{,}5", Fraction(7, 2)),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("1,234.5", Fraction(2469, 2)),
        ("2e3", Fraction(2000)),
        ("3/4", Fraction(3, 4)),
        ("-6 / 8", Fraction(-3, 4)),
        ("1.5/2", Fraction(3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{-3}{4}", Fraction(3, 4)),
        (r"$\tfrac{ 3 }{ 4 }$", Fraction(3, 4)),
        ("50%", Fraction(1, 2)),
        (r"12.5\%", Fraction(1, 8)),
        ("$5", Fraction(5)),
        (r"\$5", Fraction(5)),
        # not one number
        ("", None),
        (None, None),
        ("five", None),
        ("1 2", None),
        ("1,2", None),
        ("1234,567", None),
        ("3 1/2", None),
        ("5 apples", None),
        ("x = 5", None),
        ("(1, 2)", None),
        ("5-3", None),
        ("1/0", None),
        (r"\frac{1}{0}", None),
        ("1.2.3", None),
        ("inf", None),
        ("nan", None),
        ("\u0663", None),
    ],
)
def test_number(text, expected):
    assert number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first 3 and then 4 apples", Fraction(4)),
        ("so it is 1,234.", Fraction(1234)),
        ("one of 1,2,3", Fraction(3)),
        ("x = -7.", Fraction(-7)),
        ("5 - 3", Fraction(3)),
        ("5-3", Fraction(3)),
        ("(a)-7", Fraction(7)),
        ("in 2024-25", Fraction(25)),
        ("half, .5", Fraction(1, 2)),
        ("so...5", Fraction(5)),
        ("that is 50%", Fraction(1, 2)),
        (r"that is $\frac{3}{4}$", Fraction(3, 4)),
        ("that is 3/4 of it", Fraction(3, 4)),
        ("4 and then 1/0", None),
        ("no digits", None),
        ("", None),
    ],
)
def test_last_number(text, expected):
    assert last_number(text) == expected


@given(st.fractions())
def test_any_fraction_is_read_back(value):
    top, bottom = value.numerator, value.denominator
    for text in (f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}"):
        assert number(text) == last_number(f"it is {text} .") == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9))
def test_any_decimal_is_read_back(value):
    text = f"{value:,f}"
    assert number(text) == last_number(f"it is {text} .") == Fraction(f"{value:f}")


@given(st.text(alphabet="0123456789.,-+/%\\${}frac boxedanswr<>\n#is") | st.text())
def test_any_text_is_taken(text):
    for read in READERS:
        read(text)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "part", ["1e999999999", "9", "1,", "-", r"\boxed{", "<answer>", "{", "\\frac{", " ", "1 / "]
)
def test_a_response_that_repeats_itself_takes_no_time(read, part):
    """A model in the shock writes the same token up to the limit."""
    started = time.process_time()
    read("answer is 1" + part * 50_000)
    read(part)
    assert time.process_time() - started < 5
