"""Dates of delivery in From lines, as different programs write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pop3d.from_lines import delivered

MOMENT = 1_767_323_045  # 2026-01-02 03:04:05


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"From a@b.example Fri Jan  2 03:04:05 2026\n", MOMENT),
        (b"From a@b.example  Fri Jan 2 03:04:05 2026\r\n", MOMENT),
        (b"From a@b.example Fri Jan 02 03:04:05 +0100 2026\n", MOMENT),
        (b"From a@b.example Fri Jan  2 03:04:05 CET 2026\n", MOMENT),
        (b"From a b c Fri Jan  2 03:04 2026", MOMENT - 5),
        (b"From Fri Jan  2 03:04:05 2026", MOMENT),
        (b"From a@b.example\n", None),
        (b"From \n", None),
        (b"From a@b.example Fri Jan 32 03:04:05 2026\n", None),
        (b"From a@b.example Fri Jan  2 25:04:05 2026\n", None),
        (b"From a@b.example Fri Jan  2 03:04:05 0000\n", None),
        ("From a Fri Jan  \u0662 03:04:05 2026\n".encode(), None),
    ],
)
def test_dates(line: bytes, expected: int | None) -> None:
    assert delivered(line) == expected


@given(st.binary(max_size=100), st.from_regex(rb"[0-9]{1,2} [0-9]{2}:[0-9]{2}:[0-9]{2} [0-9]{4}", fullmatch=True))
def test_any_line_is_borne(text: bytes, date: bytes) -> None:
    delivered(text)
    delivered(b"From " + text + b" Mon Feb " + date)
