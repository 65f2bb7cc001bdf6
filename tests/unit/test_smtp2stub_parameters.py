"""The parameters of MAIL and RCPT: what is taken, what is refused and with which reply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.smtp2stub.parameters import (
    MailParameters,
    ParameterError,
    RcptParameters,
    parse_mail_parameters,
    parse_rcpt_parameters,
)
from stubmail.xtext import XtextError, decode_xtext, parse_original_recipient


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", MailParameters()),
        ("  SIZE=500  body=8BitMime ", MailParameters(500)),
        ("SIZE=0 BODY=7BIT SMTPUTF8 AUTH=<>", MailParameters(utf8=True)),
        ("AUTH=e+3Dmc2@example.com RET=full ENVID=a+20b", MailParameters(ret="FULL", envid="a+20b")),
    ],
)
def test_what_mail_may_say(text: str, parameters: MailParameters) -> None:
    assert parse_mail_parameters(text) == parameters


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("FOO", "555"),
        ("FOO=bar", "555"),
        ("NOTIFY=NEVER", "555"),
        ("SIZE", "501"),
        ("SIZE=", "501"),
        ("SIZE=-1", "501"),
        ("SIZE=1e3", "501"),
        ("SIZE=" + "9" * 21, "501"),
        ("SIZE=1 size=1", "501"),
        ("BODY=BINARYMIME", "501"),
        ("SMTPUTF8=yes", "501"),
        ("RET=BODY", "501"),
        ("RET", "501"),
        ("RET=HDRS RET=HDRS", "501"),
        ("ENVID=", "501"),
        ("ENVID=a=b", "501"),
        ("ENVID=a+2", "501"),
        ("ENVID=a+2b", "501"),
        ("ENVID=a+0D+0AX:+20y", "501"),
        ("ENVID=a+00", "501"),
        ("ENVID=a+FF", "501"),
        ("ENVID=ü", "501"),
        ("ENVID=" + "x" * 101, "501"),
        ("=x", "501"),
        ("-A=b", "501"),
        ("RET=HDRS\rENVID=x", "501"),
    ],
)
def test_what_mail_may_not_say(text: str, reply: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_mail_parameters(text)
    assert (caught.value.code, caught.value.reply) == ("5.5.4", reply)


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", RcptParameters()),
        ("NOTIFY=never", RcptParameters("NEVER")),
        ("NOTIFY=Delay,FAILURE,success", RcptParameters("SUCCESS,FAILURE,DELAY")),
        ("ORCPT=rfc822;Bob+2Blists@example.com", RcptParameters("", "rfc822;Bob+2Blists@example.com")),
        ("ORCPT=utf-8;j\\x{FC}rgen@example.com", RcptParameters("", "utf-8;j\\x{FC}rgen@example.com")),
        ("ORCPT=utf-8;jürgen@example.com", RcptParameters("", "utf-8;jürgen@example.com")),
        ("ORCPT=rfc822;" + "x" * 493, RcptParameters("", "rfc822;" + "x" * 493)),
    ],
)
def test_what_rcpt_may_say(text: str, parameters: RcptParameters) -> None:
    assert parse_rcpt_parameters(text, utf8=True) == parameters


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("SIZE=5", "555"),
        ("NOTIFY", "501"),
        ("NOTIFY=", "501"),
        ("NOTIFY=SOMETIMES", "501"),
        ("NOTIFY=NEVER,FAILURE", "501"),
        ("NOTIFY=FAILURE,NEVER", "501"),
        ("NOTIFY=NEVER,NEVER", "501"),
        ("NOTIFY=FAILURE,", "501"),
        ("NOTIFY=FAILURE,FAILURE", "501"),
        ("NOTIFY=NEVER NOTIFY=NEVER", "501"),
        ("ORCPT=bob@example.com", "501"),
        ("ORCPT=rfc822;", "501"),
        ("ORCPT=;bob", "501"),
        ("ORCPT=rfc822;b\\x{FC}b+", "501"),
        ("ORCPT=rfc822;a+0D+0AAction:+20delivered", "501"),
        ("ORCPT=rfc822;" + "x" * 494, "501"),
        ("ORCPT=rfc822;jürgen@example.com", "501"),
        ("ORCPT=utf-8;jürgen@example.com", "501"),
        ("ORCPT=utf-8;a\\x{D800}", "501"),
        ("ORCPT=utf-8;a\\x{A}", "501"),
        ("ORCPT=utf-8;a\\x{FFFFFF}", "501"),
        ("ORCPT=utf-8;a\\b", "501"),
    ],
)
def test_what_rcpt_may_not_say(text: str, reply: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_rcpt_parameters(text, utf8=False)
    assert (caught.value.code, caught.value.reply) == ("5.5.4", reply)


def encode(text: str) -> str:
    return "".join(char if "!" <= char <= "~" and char not in "+=" else f"+{ord(char):02X}" for char in text)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_xtext_stands_for_what_was_encoded(text: str) -> None:
    assert decode_xtext(encode(text)) == text


@given(st.text(max_size=60))
def test_whatever_is_taken_is_one_printable_line(text: str) -> None:
    for line in (text, f"ENVID={text} ORCPT=rfc822;{text}", f"utf-8;{text}"):
        for parse in (decode_xtext, lambda value: " ".join(parse_original_recipient(value))):
            try:
                assert parse(line).isprintable()
            except XtextError:
                continue
        for command in (parse_mail_parameters, lambda value: parse_rcpt_parameters(value, utf8=True)):
            try:
                command(line)
            except ParameterError as error:
                assert error.text.isprintable()
