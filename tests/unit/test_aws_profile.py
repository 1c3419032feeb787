"""The region of a table, where a file of AWS's names it and no variable does."""

from __future__ import annotations

from pathlib import Path

import botocore.session
import pytest

from receipt_dynamo import Settings

FILE = """
[default]
region = eu-west-1

[profile labels]
region = us-west-2

[profile none]
output = json
"""


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({}, "eu-west-1"),
        ({"AWS_PROFILE": "labels"}, "us-west-2"),
        ({"AWS_PROFILE": "none"}, None),
        ({"AWS_PROFILE": "unheard-of"}, None),
        ({"AWS_DEFAULT_PROFILE": "labels"}, "us-west-2"),
        ({"AWS_DEFAULT_PROFILE": "labels", "AWS_PROFILE": "default"}, "us-west-2"),
        ({"AWS_SHARED_CREDENTIALS_FILE": "CREDENTIALS"}, "eu-north-1"),
        ({"AWS_REGION": "ap-south-1"}, "ap-south-1"),
    ],
)
def test_the_profile_in_force_says_where_a_table_is(
    variables: dict[str, str],
    region: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As boto3 finds it, so a spool carries the name of the place that its records go to."""
    config = tmp_path / "config"
    config.write_text(FILE)
    (tmp_path / "credentials").write_text("[default]\nregion = eu-north-1\n")
    environ = {
        "RECEIPT_USAGE_DIR": str(tmp_path),
        "DYNAMODB_TABLE_NAME": "usage",
        "AWS_CONFIG_FILE": "$PLACE/config",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        **{k: v.replace("CREDENTIALS", f"{tmp_path}/credentials") for k, v in variables.items()},
    }
    monkeypatch.setenv("PLACE", str(tmp_path))
    for name in set(environ) - {"AWS_REGION"}:
        monkeypatch.setenv(name, environ[name])
    if "AWS_REGION" not in variables and variables.get("AWS_PROFILE") != "unheard-of":
        assert botocore.session.Session().get_config_variable("region") == region
    assert Settings.from_env(environ).region == region
    named = {name: value for name, value in environ.items() if name != "DYNAMODB_TABLE_NAME"}
    assert Settings.from_env(named, table_name="usage").region == region


@pytest.mark.parametrize("text", ["", "[default", "\0", "region = eu-west-1"])
def test_a_file_that_says_nothing_is_no_error(text: str, tmp_path: Path) -> None:
    """What is wrong with it, a delivery says; recording goes on."""
    config = tmp_path / "config"
    config.write_text(text)
    environ = {"DYNAMODB_TABLE_NAME": "usage", "AWS_CONFIG_FILE": str(config), "HOME": "/nowhere"}
    assert Settings.from_env(environ).region is None
    config.unlink()
    assert Settings.from_env(environ).region is None


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "/proc/1/mem"])
def test_a_file_that_cannot_be_looked_at_is_no_error(name: str) -> None:
    """Too long a name, or one that another user keeps to himself."""
    environ = {"DYNAMODB_TABLE_NAME": "usage", "AWS_CONFIG_FILE": name}
    assert Settings.from_env(environ).region is None
