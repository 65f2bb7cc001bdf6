"""What all tests share: the repository on the import path, and how Hypothesis searches."""

import gc
import os
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

pytest_plugins = ["tests.support.databases"]

# Neither profile minds the time: machines that run tests are busy with other things too. A failure prints the blob
# that reproduces it; with CI=true every run tries the same examples.
hypothesis.settings.register_profile(
    "dev", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("dev"), derandomize=True, database=None)
PROFILE = "ci" if os.environ.get("CI") == "true" else "dev"
hypothesis.settings.load_profile(PROFILE)


def pytest_collection_finish() -> None:
    """Spare the collector thousands of tests, which stay: the others' garbage is all it has to look for."""
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to see the same examples again."""
    seed = config.getoption("hypothesis_seed", None)
    return f"examples: {PROFILE}, seed {seed if seed is not None else 'chosen anew (--hypothesis-seed=N repeats one)'}"
