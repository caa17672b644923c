"""The smoke run of the exactness benchmark, shared by all tests of it."""

from typing import Any

import pytest

from benchmarks import exactness


@pytest.fixture(scope="session")
def exactness_smoke() -> dict[str, Any]:
    return exactness.run(smoke=True)
