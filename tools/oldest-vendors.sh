#!/usr/bin/env bash
# Make .venv/others/vendors, where wrapped clients are held against the oldest SDKs of vendors that
# are supported (tests/vendors/test_oldest.py). openai 1.66 is the first with the Responses API,
# anthropic 0.50 is of the same spring (March and April 2025).
set -euo pipefail
cd "$(dirname "$0")/.."
oldest=(openai==1.66.0 anthropic==0.50.0)
venv=.venv/others/vendors
if [ "$(cat "$venv/.installed" 2>/dev/null)" = "${oldest[*]}" ]; then
  exit 0
fi
.venv/bin/python -m venv --clear --without-pip "$venv"
# Everything else as developers have it, so that only the SDKs differ.
grep -vE '^(openai|anthropic)==' constraints.txt >"$venv/constraints.txt"
.venv/bin/python -m pip --python "$venv/bin/python" install -q -c "$venv/constraints.txt" \
  "${oldest[@]}" boto3 genai-prices hypothesis msgspec pytest pytest-timeout tenacity
echo "${oldest[*]}" >"$venv/.installed"
