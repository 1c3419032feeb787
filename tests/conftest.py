"""What every test shares: a directory of its own, a clean environment, and time turned by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader, Loader
from hypothesis import HealthCheck, settings

from receipt_dynamo import Settings, UsageClient, open_usage_client
from tests.support import FakeClock, mutants
from tests.support.dynamodb import access_key, start_engine

mutants.apply()

settings.register_profile(
    "project",
    deadline=None,  # shared cores: a slow machine is no fault
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("project")

_PREFIXES = ("RECEIPT_USAGE_", "AWS_", "DYNAMO", "DEPLOYMENT_", "ECS_", "KUBERNETES_")
_NAMES = (
    "ENVIRONMENT XDG_STATE_HOME GITHUB_ACTIONS GITLAB_CI CIRCLECI JENKINS_URL BUILDKITE TF_BUILD "
    "CODEBUILD_BUILD_ID TEAMCITY_VERSION CI CONTINUOUS_INTEGRATION NO_COLOR"
).split()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let any number of simulations be run."""
    parser.addoption("--simulation-seeds", type=int, default=200, help="simulations to run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a simulation once for each seed; the seed is in the test's name."""
    if "simulation_seed" in metafunc.fixturenames:
        count = metafunc.config.getoption("simulation_seeds")
        metafunc.parametrize("simulation_seed", range(count))


UNMEASURED = ("simulation", "stateful", "mutants", "process", "acceptance")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure the coverage of tests that say what a line does, not of those that repeat it.

    Models and simulations run the same few modules a million times: measuring takes more than half
    of their time, and adds no branch that the tests of the parts have not seen.
    """
    tests = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(tests) and item.path.relative_to(tests).parts[0] in UNMEASURED:
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the machine's settings, and none writes outside its own directory."""
    for name in list(os.environ):
        if name in _NAMES or name.startswith(_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(tmp_path / "usage"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ENVIRONMENT", "development")


@pytest.fixture(scope="session", autouse=True)
def _models_are_read_once() -> Iterator[None]:
    """A client of botocore's reads 2 MB of JSON before its first call, and they are the same for
    the next: within one session botocore shares them itself."""
    read: Callable[[JSONFileLoader, str], Any] = JSONFileLoader.load_file
    find: Callable[[Loader, str], list[str]] = Loader.list_available_services
    read_once = cache(lambda path: read(JSONFileLoader(), path))
    find_once = cache(
        lambda paths, kind: find(Loader(list(paths), include_default_search_paths=False), kind)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _self, path: read_once(path))
        patch.setattr(
            Loader,
            "list_available_services",
            lambda self, type_name: list(find_once(tuple(self.search_paths), type_name)),
        )
        yield


@pytest.fixture(scope="session")
def dynamodb_endpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where DynamoDB Local of this run answers. Skips where it cannot be had."""
    own = tmp_path_factory.getbasetemp()
    in_worker = "PYTEST_XDIST_WORKER" in os.environ
    controller = os.getppid() if in_worker else os.getpid()
    return start_engine(own.parent if in_worker else own, controller)


@pytest.fixture
def dynamodb(dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint of DynamoDB Local, with the credentials of this worker's database."""
    for name, value in access_key(os.environ.get("PYTEST_XDIST_WORKER", "alone")).items():
        monkeypatch.setenv(name, value)
    return dynamodb_endpoint


@pytest.fixture
def clock() -> FakeClock:
    """Time that moves when a test says so."""
    return FakeClock()


@pytest.fixture
def open_client(tmp_path: Path) -> Iterator[Callable[..., UsageClient]]:
    """Open clients of one directory. Without a background thread, unless ``drain="thread"``."""
    opened: list[UsageClient] = []

    def open_one(**changes: object) -> UsageClient:
        chosen = {"usage_dir": tmp_path / "usage", "drain": "manual", **changes}
        client = open_usage_client(Settings(**chosen))
        opened.append(client)
        return client

    yield open_one
    for client in opened:
        client.close()


@pytest.fixture
def client(open_client: Callable[..., UsageClient]) -> UsageClient:
    """A client whose deliveries happen when the test asks for them."""
    return open_client()
