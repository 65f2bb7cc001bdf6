"""What the answers to a domain's three questions add up to: an offer of stub mail, none, or a broken one."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from stubmail.dns.records import (
    CHECK_NAME,
    KEYS_NAME,
    MAX_RECORDS,
    STORE_NAME,
    PostRecord,
    RecordError,
    SrvRecord,
    StubDomain,
    in_order,
    is_post,
    parse_post,
    parse_srv,
)
from stubmail.errors import TemporaryError

Record = TypeVar("Record", SrvRecord, PostRecord)


@dataclass(frozen=True, slots=True)
class Found(Generic[Record]):
    """The records of one kind: the usable ones, or why there is none.

    ``not_offered``: the target is ``.``. ``problem`` says what is wrong with a malformed record; beside a good one it
    is passed over. With none of the three, the records are absent.
    """

    records: tuple[Record, ...] = ()
    not_offered: bool = False
    problem: str = ""

    @property
    def absent(self) -> bool:
        """There is no such record at all."""
        return not (self.records or self.not_offered or self.problem)

    @property
    def fault(self) -> str:
        """Why there is nothing to use, in a few words; empty when there is."""
        if self.records:
            return ""
        return "not offered" if self.not_offered else self.problem or "missing"


def read_srv(answers: Sequence[tuple[int, int, int, str]]) -> Found[SrvRecord]:
    """Judge SRV records given as (priority, weight, port, target as text)."""
    if len(answers) > MAX_RECORDS:
        return Found(problem=f"more than {MAX_RECORDS} records")
    good: list[SrvRecord] = []
    problem = ""
    for answer in answers:
        try:
            good.append(parse_srv(*answer))
        except RecordError as error:
            problem = str(error)
    return _found(good, problem)


def read_post(answers: Iterable[Sequence[bytes]]) -> Found[PostRecord]:
    """Judge TXT records, each given as its strings; those that are evidently another protocol's are not counted."""
    ours = [strings for strings in answers if is_post(strings)]
    if len(ours) > MAX_RECORDS:
        return Found(problem=f"more than {MAX_RECORDS} records")
    good: list[PostRecord] = []
    problem = ""
    for strings in ours:
        try:
            good.append(parse_post(strings))
        except RecordError as error:
            problem = str(error)
    return _found(good, problem)


def assess(
    domain: str,
    checks: Found[SrvRecord],
    keys: Found[SrvRecord],
    stores: Found[PostRecord],
    rng: random.Random,
) -> StubDomain | None:
    """Return the domain's offer with its targets in the order to try, or None when all three kinds are absent.

    Raises TemporaryError 4.4.4, naming the records, when some are there and others are missing, malformed or ``.``;
    only the UDP check may be declined (protocol.md §3.3).
    """
    if all(found.absent for found in (checks, keys, stores)):
        return None
    faults = [
        f"{name}.{domain} is {fault}" if fault in ("missing", "not offered") else f"{name}.{domain}: {fault}"
        for name, fault in (
            (CHECK_NAME, "" if checks.not_offered else checks.fault),
            (KEYS_NAME, keys.fault),
            (STORE_NAME, stores.fault),
        )
        if fault
    ]
    if faults:
        raise TemporaryError("4.4.4", f"the stub mail records of {domain} are incomplete: {'; '.join(faults)}")
    return StubDomain(
        domain,
        tuple(record.target for record in in_order(checks.records, rng)),
        tuple(record.target for record in in_order(keys.records, rng)),
        tuple(replace(record.target, domain=domain) for record in in_order(stores.records, rng)),
    )


def _found(records: list[Record], problem: str) -> Found[Record]:
    usable = tuple(record for record in records if record.host)
    return Found(usable, not_offered=bool(records) and not usable, problem=problem)
