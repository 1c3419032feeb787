"""Which environment this process runs in.

Exact values only: a table that happens to be called ``latest-table`` is no test. The answer labels
records and decides whether the embedded store may stand in for a missing table. It never switches
durability or resilience off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum

from receipt_dynamo.logs import safe_logger

__all__ = ["NAMING_VARIABLES", "Environment", "detect_environment", "environment_source"]

_log = safe_logger("receipt_dynamo.environment")


class Environment(StrEnum):
    """The environments that are told apart."""

    PRODUCTION = "production"
    STAGING = "staging"
    CICD = "cicd"
    DEVELOPMENT = "development"


_NAMES: Mapping[str, Environment] = {
    "production": Environment.PRODUCTION,
    "prod": Environment.PRODUCTION,
    "staging": Environment.STAGING,
    "stage": Environment.STAGING,
    "cicd": Environment.CICD,
    "ci": Environment.CICD,
    "development": Environment.DEVELOPMENT,
    "dev": Environment.DEVELOPMENT,
    "local": Environment.DEVELOPMENT,
}
NAMING_VARIABLES = ("ENVIRONMENT", "DEPLOYMENT_ENV")
_CI_SYSTEMS = (
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "CIRCLECI",
    "JENKINS_URL",
    "BUILDKITE",
    "TF_BUILD",
    "CODEBUILD_BUILD_ID",
    "TEAMCITY_VERSION",
    "CI",
    "CONTINUOUS_INTEGRATION",
)
_TESTS = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")
_RUNTIMES = (
    "AWS_LAMBDA_FUNCTION_NAME",
    "ECS_CONTAINER_METADATA_URI_V4",
    "ECS_CONTAINER_METADATA_URI",
    "AWS_EXECUTION_ENV",
    "KUBERNETES_SERVICE_HOST",
)
_FALSE = frozenset({"", "0", "false", "no", "off"})


def environment_source(environ: Mapping[str, str] | None = None) -> tuple[Environment, str]:
    """Return the environment and the name of the variable that says so ("" for the default)."""
    variables = os.environ if environ is None else environ
    for name in NAMING_VARIABLES:
        value = variables.get(name, "").strip().lower()
        if value in _NAMES:
            return _NAMES[value], name
        if value:
            _log.warning(
                "%s=%r is no known environment (%s); it is ignored", name, value, ", ".join(_NAMES)
            )
    for name in _CI_SYSTEMS:
        if variables.get(name, "").strip().lower() not in _FALSE:
            return Environment.CICD, name
    for name in _TESTS:
        if variables.get(name):
            return Environment.CICD, name
    if variables.get("AWS_SAM_LOCAL", "").lower() != "true":
        for name in _RUNTIMES:
            if variables.get(name):
                return Environment.PRODUCTION, name
    return Environment.DEVELOPMENT, ""


def detect_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Return the environment of ``environ`` (default: this process's).

    ``ENVIRONMENT`` first, then ``DEPLOYMENT_ENV``; then CI systems and a running pytest (cicd);
    then the runtimes of AWS and Kubernetes (production); else development.
    """
    return environment_source(environ)[0]
