"""Runs what is to be compared in turn, so that a busy moment hits all alike, and shows medians and ratios."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ROUNDS = 3

Measurement = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one subject: every value, and their median."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one of the values."""
        return statistics.median(self.values)


def interleave(subjects: Mapping[str, Measurement], rounds: int = ROUNDS) -> dict[str, Result]:
    """Measure each subject once a round, for some rounds; return the results by name."""
    values: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            values[name].append(measure())
    return {name: Result(name, tuple(numbers)) for name, numbers in values.items()}


def show(title: str, unit: str, results: Mapping[str, Result], peer: str, target: str = "") -> None:
    """Print a table: median, range, and the ratio to ``peer``; ``target`` says in words what was hoped for."""
    reference = results[peer].median
    print(f"\n## {title}\n")
    if target:
        print(f"Target: {target}.\n")
    print(f"| subject | median, {unit} | lowest to highest | to {peer} |\n|---|---|---|---|")
    for result in results.values():
        spread = f"{min(result.values):,.4g} to {max(result.values):,.4g}"
        print(f"| {result.name} | {result.median:,.4g} | {spread} | {result.median / reference:.2f} |")
