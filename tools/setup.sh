#!/usr/bin/env bash
# Make .venv and install the project into it: "setup.sh run" what it needs to run, "setup.sh dev"
# what it needs to be worked on. Does nothing when nothing has changed since the last time.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-run}
venv=.venv
stamp=$venv/.installed-$profile
log=$venv/setup.log

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer is needed and was not found. Install it, or name it: make PYTHON=/path/to/python3" >&2
  exit 1
}

quietly() {
  if ! "$@" >>"$log" 2>&1; then
    echo "setup failed: $*" >&2
    tail -n 30 "$log" >&2
    exit 1
  fi
}

make_venv() {
  local python
  python=$(find_python)
  rm -rf "$venv"
  if ! "$python" -m venv "$venv" >/dev/null 2>&1; then # Debian without python3-venv has no ensurepip
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv"
    "$python" -m pip --python "$venv/bin/python" install -q -U pip >>"$log" 2>&1 || {
      echo "pip is missing: install python3-venv or python3-pip" >&2
      exit 1
    }
  fi
  quietly "$venv/bin/python" -m pip install -q -U pip
}

# Some tests end a process under every Python that is supported: beside .venv, a small environment
# for each that is found. What cannot be had is skipped there, and said.
make_others() {
  local version other python
  for version in 3.11 3.12 3.13; do
    other=$venv/others/$version
    for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
      "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" \
        >/dev/null 2>&1 || continue
      "$python" -m venv --clear --without-pip "$other" >>"$log" 2>&1 &&
        "$venv/bin/python" -m pip --python "$other/bin/python" install -q \
          -c constraints.txt msgspec >>"$log" 2>&1 && break
      echo "Python $version cannot be used for the tests of a process's end: see $log" >&2
    done
  done
}

if [ -e "$stamp" ] && [ ! pyproject.toml -nt "$stamp" ] && [ ! constraints.txt -nt "$stamp" ]; then
  exit 0
fi
echo "setting up $venv ($profile) ..." >&2
if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  make_venv
fi
if [ "$profile" = dev ]; then
  quietly "$venv/bin/python" -m pip install -q -c constraints.txt -e . --group dev
  make_others
  tools/oldest-botocore.sh >>"$log" 2>&1 ||
    echo "The oldest botocore cannot be had, and its tests are skipped: see $log" >&2
  tools/oldest-vendors.sh >>"$log" 2>&1 ||
    echo "The oldest SDKs of vendors cannot be had, and their tests are skipped: see $log" >&2
else
  quietly "$venv/bin/python" -m pip install -q -c constraints.txt -e .
fi
touch "$stamp"
