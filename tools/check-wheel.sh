#!/usr/bin/env bash
# Build the wheel and use it from a venv of its own: what the sources hide, users would find.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh dev
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m pip wheel -q --no-deps --no-build-isolation -w "$work" . 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
.venv/bin/python -m venv --without-pip "$work/venv"
.venv/bin/python -m pip --python "$work/venv/bin/python" install -q -c constraints.txt "$work"/*.whl 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
cd "$work"
export RECEIPT_USAGE_DIR=$work/usage ENVIRONMENT=development
venv/bin/python - <<'PY'
from importlib.resources import files

for package in ("receipt_dynamo", "receipt_label"):
    assert files(package).joinpath("py.typed").is_file(), f"{package} lacks py.typed"
from receipt_label import AIUsageTracker

with AIUsageTracker(strict=True) as tracker:
    answer = tracker.record(
        service="openai", model="gpt-4o", operation="chat", input_tokens=1000, output_tokens=10
    )
assert answer == "STORED", answer
PY
venv/bin/receipt-usage report --json | grep -q '"cost_usd": *"0.0026"' || {
  echo "the wheel's report is wrong" >&2
  exit 1
}
if venv/bin/receipt-usage stress 2>said || [ "$(wc -l <said)" != 1 ]; then
  echo "without a checkout, stress must say so in one line: $(cat said)" >&2
  exit 1
fi
echo "the wheel works" >&2
