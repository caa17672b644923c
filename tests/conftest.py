from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.elsewhere import ELSEWHERE, Elsewhere

settings.register_profile(
    "pgmdiff",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pgmdiff")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(params=["elsewhere", pytest.param("cuda", marks=pytest.mark.gpu)])
def there(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A device that is not the CPU: a pretended one, and a GPU."""
    if request.param == "cuda":
        yield torch.device("cuda")
    else:
        with Elsewhere():
            yield ELSEWHERE
