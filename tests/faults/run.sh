#!/bin/sh
# The failure matrix: in virtual time on both cores, then with real processes, one row after the other.
set -eu
cd "$(dirname "$0")/../.."
export PYTHONDONTWRITEBYTECODE=1
FAULT_SEEDS="${FAULT_SEEDS:-20}"
export FAULT_SEEDS
.venv/bin/python -m pytest -q -n 2 --timeout=7200 tests/faults/test_simulation.py "$@"
.venv/bin/python -m pytest -q -n 0 --timeout=7200 -m faults tests/faults "$@"
