"""One mail transaction (RFC 5321 §3.3): whose it is, from where to whom, as MAIL and RCPT build it up. Sans-IO."""

import re
from dataclasses import dataclass, field

from services.smtp2stub.parameters import MailParameters, RcptParameters
from stubmail.address import Address
from stubmail.errors import PermanentError
from stubmail.users import User

# RFC 5321 §4.1.2; source routes are passed over. The blank behind the colon is wrong, and everybody takes it.
_PATH = re.compile(r"(?P<keyword>[A-Z]+): ?<(?:@[^:<>\s]+:)?(?P<address>[^<>\s]*)>(?: (?P<parameters>.*))?", re.I)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A recipient as the client named him."""

    address: Address
    parameters: RcptParameters


@dataclass(slots=True)
class Transaction:
    """``account``: who sends, None when only the message can tell; ``mail_from``: None for the null sender.

    ``recipients`` by the key of their address; ``taken`` has one for each RCPT that was answered with 250, in order.
    """

    account: User | None
    mail_from: Address | None
    parameters: MailParameters
    recipients: dict[str, Wanted] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)

    def add(self, wanted: Wanted) -> None:
        """Take a recipient; who is named twice gets one message, and what was said of him first counts."""
        name = wanted.address.key
        self.recipients.setdefault(name, wanted)
        self.taken.append(name)


def parse_path(keyword: str, argument: str) -> tuple[str, str]:
    """Split what stands behind MAIL (``FROM``) or RCPT (``TO``) into address and parameters.

    Raises PermanentError 5.5.4 when there is no such keyword, 5.1.7 or 5.1.3 when no path follows it.
    """
    if not re.match(rf"{keyword}:", argument, re.IGNORECASE):
        raise PermanentError("5.5.4", f"say {'MAIL' if keyword == 'FROM' else 'RCPT'} {keyword}:<address>")
    match = _PATH.fullmatch(argument)
    if match is None:
        raise PermanentError("5.1.7" if keyword == "FROM" else "5.1.3", "the address must stand between < and >")
    return match["address"], match["parameters"] or ""
