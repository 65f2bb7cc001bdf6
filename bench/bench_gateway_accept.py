"""How many messages a second the gateway accepts and has on disk, next to Postfix into its queue on the same disk.

Both keep what they accept: Postfix holds it, the gateway's courier does not run. The load is Postfix's smtp-source.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from bench import gateway_house, postfix
from bench.table import interleave, show

SIZE = 5_000  # octets
CONNECTIONS = 50
MESSAGES = 2_000  # a round
TO = "bob@beta.example"
_HOLD = ("smtpd_client_restrictions = check_client_access static:HOLD", "relay_domains = static:ALL")


def _rate(port: int, stored: Callable[[], int], keep: bool) -> Callable[[], float]:
    def measure() -> float:
        before = stored()
        seconds = postfix.submit(port, MESSAGES, SIZE, CONNECTIONS, to=TO, keep=keep)
        if (number := stored() - before) != MESSAGES:
            raise SystemExit(f"{number} of {MESSAGES} messages are in the queue of port {port}")
        return MESSAGES / seconds

    return measure


def _held(queue: Path) -> int:
    return sum(path.is_file() for path in (queue / "hold").rglob("*"))


def main() -> None:
    """Measure and show."""
    if reason := postfix.missing():
        print(f"\nLeft out: {reason}.")
        return
    with contextlib.ExitStack() as stack:
        ours, spool = stack.enter_context(gateway_house.receiver())
        port, queue = stack.enter_context(postfix.postfix(_HOLD))
        for keep in (False, True):
            subjects = {
                "Postfix": _rate(port, lambda: _held(queue), keep),
                "gateway": _rate(ours.port, lambda: gateway_house.spooled(spool), keep),
            }
            for measure in subjects.values():
                measure()  # to get warm
            how = "kept connections" if keep else "a connection for each message"
            title = f"Accepted and on disk, {SIZE} octets, {CONNECTIONS} at a time, {how}"
            show(title, "messages/s", interleave(subjects), "Postfix", "at least Postfix's")


if __name__ == "__main__":
    main()
