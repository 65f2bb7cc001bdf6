"""Metrics in Prometheus' text format: what a service's counters mean, and what it measures when it is asked.

prometheus-client writes the text and nothing else (docs/decisions say why); it is loaded when somebody asks for it.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stubmail import __version__
from stubmail.counters import Counters

if TYPE_CHECKING:
    from prometheus_client import Metric

MICROSECONDS = 1_000_000
BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # seconds


@dataclass(frozen=True, slots=True)
class Count:
    """A metric that only grows: its name without ``_total``, what it counts, and the counter behind each label value.

    Without a label there is one counter, for the label value "".
    """

    metric: str
    doc: str
    series: Mapping[str, str]
    label: str = ""

    @property
    def names(self) -> Iterator[str]:
        """The counters that it needs."""
        yield from self.series.values()

    def read(self, counters: Counters) -> "Metric":
        """Return the metric as it is now."""
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(self.metric, self.doc, labels=[self.label] if self.label else [])
        for value, name in self.series.items():
            family.add_metric([value] if self.label else [], counters[name])
        return family


@dataclass(frozen=True, slots=True)
class Counts:
    """As Count, by several labels: the counter behind each combination of their values."""

    metric: str
    doc: str
    labels: Sequence[str]
    series: Mapping[tuple[str, ...], str]

    @property
    def names(self) -> Iterator[str]:
        """The counters that it needs."""
        yield from self.series.values()

    def read(self, counters: Counters) -> "Metric":
        """Return the metric as it is now."""
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(self.metric, self.doc, labels=self.labels)
        for values, name in self.series.items():
            family.add_metric(values, counters[name])
        return family


class Durations:
    """How long things took, by one label: a histogram whose buckets, and the sum in microseconds, are counters."""

    def __init__(self, metric: str, doc: str, label: str, values: Iterable[str], buckets: Sequence[float] = BUCKETS):
        self._metric, self._doc, self._label = metric, doc, label
        self._limits = tuple(buckets)
        self._buckets = {
            value: tuple(f"{metric} {value} {limit}" for limit in (*self._limits, "more")) for value in values
        }
        self._sums = {value: f"{metric} {value} microseconds" for value in self._buckets}

    @property
    def names(self) -> Iterator[str]:
        """The counters that it needs."""
        for buckets in self._buckets.values():
            yield from buckets
        yield from self._sums.values()

    def observe(self, counters: Counters, value: str, seconds: float) -> None:
        """Count one thing that took so long."""
        counters.add(self._buckets[value][bisect.bisect_left(self._limits, seconds)])
        counters.add(self._sums[value], max(0, round(seconds * MICROSECONDS)))

    def read(self, counters: Counters) -> "Metric":
        """Return the metric as it is now."""
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(self._metric, self._doc, labels=[self._label])
        for value, names in self._buckets.items():
            total, buckets = 0, []
            for limit, name in zip((*map(str, self._limits), "+Inf"), names, strict=True):
                total += counters[name]
                buckets.append((limit, total))  # cumulative, as the format wants it
            family.add_metric([value], buckets, counters[self._sums[value]] / MICROSECONDS)
        return family


@dataclass(frozen=True, slots=True)
class Gauge:
    """What is measured now: a name, what it means, its value, and labels that tell it from others of that name."""

    metric: str
    doc: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)

    def read(self) -> "Metric":
        """Return it as a metric."""
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(self.metric, self.doc, labels=list(self.labels))
        self.add_to(family)
        return family

    def add_to(self, family: "Metric") -> None:
        """Add it to the metric of its name, which has the same labels."""
        family.add_sample(self.metric, dict(self.labels), self.value)


Family = Count | Counts | Durations


def names(families: Iterable[Family]) -> tuple[str, ...]:
    """Return the names of all counters that these metrics need."""
    return tuple(name for family in families for name in family.names)


def build_info(service: str, started: float) -> list[Gauge]:
    """What every service says of itself: its version, and when it was started, in Unix time."""
    labels = {"service": service, "version": __version__}
    return [
        Gauge("stubmail_build_info", "Which service this is, and its version", 1, labels),
        Gauge("process_start_time_seconds", "When the service was started, in Unix time", started),
    ]


class _Collected:
    """What prometheus-client asks for the metrics."""

    def __init__(self, metrics: list["Metric"]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable["Metric"]:
        return self._metrics


def expose(counters: Counters, families: Iterable[Family], gauges: Iterable[Gauge]) -> tuple[bytes, str]:
    """Return all metrics in the text exposition format 0.0.4, and its media type."""
    from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

    measured: dict[str, Metric] = {}
    for gauge in gauges:
        if gauge.metric in measured:
            gauge.add_to(measured[gauge.metric])
        else:
            measured[gauge.metric] = gauge.read()
    metrics = [*(family.read(counters) for family in families), *measured.values()]
    return generate_latest(_Collected(metrics)), CONTENT_TYPE_PLAIN_0_0_4
