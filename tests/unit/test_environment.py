"""The environment and the settings: exact patterns, explicit before environment before default."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import pytest

from receipt_dynamo import (
    ConfigurationError,
    Environment,
    Settings,
    detect_environment,
    open_usage_client,
)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "development"),
        ({"ENVIRONMENT": "production"}, "production"),
        ({"ENVIRONMENT": " PROD "}, "production"),
        ({"ENVIRONMENT": "staging"}, "staging"),
        ({"DEPLOYMENT_ENV": "staging"}, "staging"),
        ({"ENVIRONMENT": "dev", "DEPLOYMENT_ENV": "production"}, "development"),
        ({"ENVIRONMENT": "nonsense", "DEPLOYMENT_ENV": "production"}, "production"),
        ({"ENVIRONMENT": "production-eu"}, "development"),
        ({"ENVIRONMENT": "preprod"}, "development"),
        ({"GITHUB_ACTIONS": "true"}, "cicd"),
        ({"CI": "1"}, "cicd"),
        ({"CI": "false"}, "development"),
        ({"PYTEST_CURRENT_TEST": "x"}, "cicd"),
        ({"AWS_LAMBDA_FUNCTION_NAME": "label"}, "production"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "production"),
        ({"ECS_CONTAINER_METADATA_URI_V4": "http://x"}, "production"),
        ({"AWS_LAMBDA_FUNCTION_NAME": "label", "AWS_SAM_LOCAL": "true"}, "development"),
        ({"ENVIRONMENT": "development", "AWS_LAMBDA_FUNCTION_NAME": "x"}, "development"),
        ({"GITHUB_ACTIONS": "true", "KUBERNETES_SERVICE_HOST": "x"}, "cicd"),
        ({"DYNAMODB_TABLE_NAME": "latest-table"}, "development"),
        ({"DYNAMODB_TABLE_NAME": "production-ci-test"}, "development"),
        ({"HOSTNAME": "ci-prod-test"}, "development"),
    ],
)
def test_the_environment_is_told_by_exact_values_only(
    variables: dict[str, str], expected: str
) -> None:
    """A name that merely contains a word decides nothing, and the order of sources is fixed."""
    assert detect_environment(variables) == expected


def test_an_unknown_environment_is_ignored_aloud(caplog: pytest.LogCaptureFixture) -> None:
    """A typo in ENVIRONMENT does not pass for development in silence."""
    with caplog.at_level(logging.WARNING):
        detect_environment({"ENVIRONMENT": "prodution"})
    assert "ENVIRONMENT='prodution' is no known environment" in caplog.text


def test_an_explicit_value_beats_the_environment_beats_the_default(tmp_path: Path) -> None:
    """Three sources, one order, for every setting."""
    variables = {
        "RECEIPT_USAGE_DIR": str(tmp_path / "env"),
        "RECEIPT_USAGE_SEGMENT_BYTES": "8192",
        "RECEIPT_USAGE_EXIT_FLUSH_SECONDS": "0.5",
        "RECEIPT_USAGE_DRAIN": "manual",
        "RECEIPT_USAGE_PRICES": "/prices.toml",
        "AWS_REGION": "eu-central-1",
        "DEPLOYMENT_VERSION": "v7",
    }
    found = Settings.from_env(variables, segment_bytes=16384, drain=None)
    assert found.usage_dir == tmp_path / "env"
    assert (found.segment_bytes, found.exit_flush_seconds, found.drain) == (16384, 0.5, "manual")
    assert (found.prices, found.region) == (Path("/prices.toml"), "eu-central-1")
    assert found.deployment_version == "v7"
    assert Settings.from_env({"HOME": str(tmp_path)}).segment_bytes == 4 << 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECEIPT_USAGE_SEGMENT_BYTES", "4 MB"),
        ("RECEIPT_USAGE_SEGMENT_BYTES", "10"),
        ("RECEIPT_USAGE_DRAIN", "later"),
        ("RECEIPT_USAGE_EXIT_FLUSH_SECONDS", "-1"),
        ("RECEIPT_USAGE_EXIT_FLUSH_SECONDS", "nan"),
        ("RECEIPT_USAGE_EXIT_FLUSH_SECONDS", "soon"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(tmp_path: Path, name: str, value: str) -> None:
    """Whoever reads the error knows which variable to mend."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        Settings.from_env({"HOME": str(tmp_path), name: value})
    assert value in str(caught.value)


def test_an_unknown_setting_is_an_error(tmp_path: Path) -> None:
    """A typo in the name of a setting is never ignored."""
    with pytest.raises(ConfigurationError, match="segment_byte'"):
        Settings.from_env({"HOME": str(tmp_path)}, segment_byte=5)


def test_the_deprecated_table_variable_still_works_and_says_so(tmp_path: Path) -> None:
    """The old name warns in exactly these words; the new one wins, silently."""
    home = {"HOME": str(tmp_path)}
    with pytest.warns(DeprecationWarning, match="deprecated") as caught:
        assert Settings.from_env({**home, "DYNAMO_TABLE_NAME": "old"}).table_name == "old"
    assert [str(warning.message) for warning in caught] == [
        "DYNAMO_TABLE_NAME is deprecated. Use DYNAMODB_TABLE_NAME instead."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = {**home, "DYNAMO_TABLE_NAME": "old", "DYNAMODB_TABLE_NAME": "new"}
        assert Settings.from_env(both).table_name == "new"


@pytest.mark.parametrize(
    ("changes", "destination"),
    [
        ({}, "local"),
        ({"table_name": "usage"}, "usage@us-east-1"),
        ({"table_name": "usage", "region": "eu-west-1"}, "usage@eu-west-1"),
        (
            {"table_name": "usage", "region": "eu-west-1", "endpoint_url": "http://localhost:8000"},
            "usage@localhost_8000",
        ),
        ({"table_name": "usage", "endpoint_url": "http://h:8000/a/"}, "usage@h_8000_a"),
        ({"table_name": "../../x"}, ".._.._x@us-east-1"),
        ({"table_name": "x", "region": "y/../../.."}, "x@y_.._.._.."),
        ({"table_name": "a\nb\0"}, "a_b_@us-east-1"),
        ({"table_name": "arn:aws:dynamodb:r:1:table/T"}, "arn_aws_dynamodb_r_1_table_T@us-east-1"),
    ],
)
def test_every_destination_has_a_spool_of_its_own(
    tmp_path: Path, changes: dict[str, str], destination: str
) -> None:
    """Records of one table are never delivered to another."""
    settings = Settings(usage_dir=tmp_path, **changes)
    assert settings.destination == destination
    assert settings.spool_dir == tmp_path / "spool" / destination


def test_the_directory_falls_back_from_state_home_to_home_to_temporary(tmp_path: Path) -> None:
    """Without a writable home, as in Lambda, a directory of the user's own under the temporary."""
    state, home = tmp_path / "state", tmp_path / "home"
    home.mkdir()
    assert Settings.from_env({"XDG_STATE_HOME": str(state)}).usage_dir == state / "receipt-usage"
    relative = Settings.from_env({"XDG_STATE_HOME": "state", "HOME": str(home)})
    assert relative.usage_dir == home / ".local" / "state" / "receipt-usage"
    nowhere = Settings.from_env({"HOME": "/nonexistent/home"}).usage_dir
    assert nowhere.parent == Path(tempfile.gettempdir()).resolve()
    assert nowhere.name.startswith("receipt-usage-")


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_the_embedded_store_never_stands_in_for_a_missing_table_in_production(
    tmp_path: Path, environment: str
) -> None:
    """The error names the variable that is missing and the one that says production."""
    settings = Settings.from_env({"HOME": str(tmp_path), "ENVIRONMENT": environment})
    with pytest.raises(
        ConfigurationError, match=f"DYNAMODB_TABLE_NAME.*ENVIRONMENT.*{environment}"
    ):
        open_usage_client(settings)
    assert settings.environment is Environment(environment)
    assert not settings.usage_dir.exists()


def test_opening_the_embedded_store_says_where_it_lies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, with the path."""
    with caplog.at_level(logging.INFO, "receipt_dynamo"):
        open_usage_client(Settings(usage_dir=tmp_path / "u")).close()
    assert [str(tmp_path / "u" / "usage.db") in record.message for record in caplog.records] == [
        True
    ]
