#!/usr/bin/env bash
# Make .venv/others/botocore, where the table of failures is held against the oldest botocore that
# pyproject.toml allows (tests/wire/test_oldest.py). It is the first whose model has
# ThrottlingReasons: older ones drop from a reply what tells a hot key from the table's limit.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^ *"boto3>=\([0-9.]*\)".*/\1/p' pyproject.toml)
venv=.venv/others/botocore
if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$version" ]; then
  exit 0
fi
.venv/bin/python -m venv --clear --without-pip "$venv"
# Everything else as developers have it, so that only botocore differs.
grep -vE '^(boto3|botocore|s3transfer|urllib3)==' constraints.txt >"$venv/constraints.txt"
.venv/bin/python -m pip --python "$venv/bin/python" install -q -c "$venv/constraints.txt" \
  "boto3==$version" "botocore==$version" hypothesis msgspec pytest pytest-timeout tenacity
echo "$version" >"$venv/.installed"
