"""SASLprep: names and passwords that look the same are the same octets (RFC 4013, a profile of RFC 3454)."""

import stringprep
import unicodedata
from collections.abc import Callable

_PROHIBITED: tuple[Callable[[str], bool], ...] = (  # RFC 4013 §2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class PrepError(Exception):
    """The text holds characters that no name and no password may have."""


def saslprep(text: str, *, stored: bool = False) -> str:
    """Return ``text`` as it is compared. Raises PrepError.

    ``stored``: it is what later ones are compared with; then characters that Unicode 3.2 does not know are refused.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(one) else one for one in text if not stringprep.in_table_b1(one)
    )  # RFC 4013 §2.1
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for one in prepared:
        if any(prohibited(one) for prohibited in _PROHIBITED) or (stored and stringprep.in_table_a1(one)):
            raise PrepError("a character is not allowed")
    if any(map(stringprep.in_table_d1, prepared)):  # RFC 3454 §6: right to left throughout, or not at all
        ends = stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])
        if not ends or any(map(stringprep.in_table_d2, prepared)):
            raise PrepError("the directions of its characters are mixed")
    return prepared
