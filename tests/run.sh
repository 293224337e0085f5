#!/bin/sh
# Everything: the fast tests on both cores, then those that start real processes, one after the other.
set -eu
cd "$(dirname "$0")/.."
export PYTHONDONTWRITEBYTECODE=1
.venv/bin/python -m pytest -q -n 2 --dist loadfile -m "not whole" "$@"
.venv/bin/python -m pytest -q -m whole "$@"
