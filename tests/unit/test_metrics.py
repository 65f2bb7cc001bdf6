"""Metrics as Prometheus reads them: the format's own parser takes them, and the numbers are those that were counted."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stubmail.counters import Counters
from stubmail.metrics import Count, Counts, Durations, Gauge, build_info, expose, names

REPOSITORY = Path(__file__).resolve().parents[2]
REQUESTS = Count("requests", "Requests", {"open": "open answered", "store": "store answered"}, "op")
BROKEN = Count("broken_off", 'Answers "broken" off\n\\', {"": "broken off"})
SECONDS = Durations("request_seconds", "How long", "op", ["open", "store"], (0.1, 1.0))
FAMILIES = (REQUESTS, BROKEN, SECONDS)


def parsed(counters: Counters, *gauges: Gauge) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples by name and labels."""
    text, media_type = expose(counters, FAMILIES, gauges)
    assert media_type.startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(text.decode()))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def labels(**pairs: str) -> frozenset[tuple[str, str]]:
    return frozenset(pairs.items())


@pytest.fixture
def counters() -> Counters:
    return Counters(names(FAMILIES))


def test_everything_is_there_from_the_start(counters: Counters) -> None:
    samples = parsed(counters)
    assert samples["requests_total", labels(op="open")] == 0
    assert samples["requests_total", labels(op="store")] == 0
    assert samples["broken_off_total", labels()] == 0
    assert samples["request_seconds_count", labels(op="store")] == 0
    assert len(samples) == 3 + 2 * 5


def test_counts_are_exposed(counters: Counters) -> None:
    counters.add("store answered", 3)
    counters.add("broken off", 2**53)
    samples = parsed(counters)
    assert samples["requests_total", labels(op="store")] == 3
    assert samples["broken_off_total", labels()] == 2**53


def test_counts_by_two_labels() -> None:
    routes = Counts("sent", "Sent", ("via", "outcome"), {("stub", "sent"): "stub sent", ("none", "failed"): "failed"})
    counters = Counters(names([routes]))
    counters.add("failed", 2)
    text, _ = expose(counters, [routes], [])
    [family] = text_string_to_metric_families(text.decode())
    assert {(s.labels["via"], s.labels["outcome"]): s.value for s in family.samples} == {
        ("stub", "sent"): 0,
        ("none", "failed"): 2,
    }


def test_gauges_of_one_name_are_one_metric(counters: Counters) -> None:
    gauges = [Gauge("queue", "Messages", number, {"place": place}) for place, number in (("new", 2), ("old", 3))]
    text, _ = expose(counters, (), gauges)
    assert text.count(b"# TYPE") == 1
    samples = parsed(counters, *gauges)
    assert (samples["queue", labels(place="new")], samples["queue", labels(place="old")]) == (2, 3)


def test_durations_are_a_cumulative_histogram(counters: Counters) -> None:
    for seconds in (0.05, 0.1, 0.5, 7.25, -1e-9):
        SECONDS.observe(counters, "open", seconds)
    samples = parsed(counters)
    assert samples["request_seconds_bucket", labels(op="open", le="0.1")] == 3
    assert samples["request_seconds_bucket", labels(op="open", le="1.0")] == 4
    assert samples["request_seconds_bucket", labels(op="open", le="+Inf")] == 5
    assert samples["request_seconds_count", labels(op="open")] == 5
    assert samples["request_seconds_sum", labels(op="open")] == pytest.approx(7.9)


def test_gauges_and_what_a_service_says_of_itself(counters: Counters) -> None:
    samples = parsed(counters, Gauge("up", "Up", 1, {"what": 'a"b\n'}), *build_info("post_manager", 1_800_000_000))
    assert samples["up", labels(what='a"b\n')] == 1
    assert samples["process_start_time_seconds", labels()] == 1_800_000_000
    [info] = [dict(found) for name, found in samples if name == "stubmail_build_info"]
    assert info["service"] == "post_manager"
    assert info["version"]


def test_the_library_is_not_loaded_before_somebody_asks() -> None:
    program = (
        "import sys, stubmail.metrics, services.post_manager.counters; assert 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, timeout=30)
