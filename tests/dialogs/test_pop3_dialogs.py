"""The dialogs under pop3/, replayed on the session: line by line, octet by octet, and each part whole."""

import pytest

from services.pop3d.terms import Terms
from tests.support.pop3 import Driver, FakeMaildrop
from tests.support.pop3_dialogs import Dialog, check_answer, load_dialogs

DIALOGS = load_dialogs()
KNOWN = {"remote", "no certificate", "tls", "commit fails", "in use", "secrets"}


def begin(dialog: Dialog) -> Driver:
    assert dialog.options <= KNOWN
    return Driver(
        FakeMaildrop(dialog.messages),
        encrypted="tls" in dialog.options,
        terms=Terms(
            tls_offered="no certificate" not in dialog.options,
            plain_allowed="remote" not in dialog.options,
            challenges="secrets" in dialog.options,
            mechanisms=("SCRAM-SHA-256", "CRAM-MD5") if "secrets" in dialog.options else (),
        ),
        refusal=("IN-USE", "Another session has the maildrop open") if "in use" in dialog.options else None,
        commit_works="commit fails" not in dialog.options,
    )


@pytest.mark.parametrize("dialog", DIALOGS, ids=lambda dialog: dialog.name)
@pytest.mark.parametrize("step", [0, 1], ids=["line by line", "octet by octet"])
def test_each_line_has_its_answer(dialog: Dialog, step: int) -> None:
    driver = begin(dialog)
    for at, part in enumerate(dialog.parts):
        assert driver.tls == (at > 0 or "tls" in dialog.options)
        for line, expected in zip(part.lines, part.answers, strict=True):
            check_answer(driver.send(line, step), expected, repr(line))
    assert bool(driver.closed) == dialog.closed


@pytest.mark.parametrize("dialog", DIALOGS, ids=lambda dialog: dialog.name)
def test_the_answers_are_the_same_when_all_lines_come_at_once(dialog: Dialog) -> None:
    driver = begin(dialog)
    for part in dialog.parts:
        expected = [pattern for answer in part.answers for pattern in answer]
        check_answer(driver.send(b"".join(part.lines)), expected, "all at once")
    assert bool(driver.closed) == dialog.closed
