#!/bin/sh
# The failure matrix: rows in virtual time behind those with real processes, which mostly wait; then, with the machine to
# themselves, the rows of the web process, which measure its share of a core.
set -eu
cd "$(dirname "$0")/../.."
export PYTHONDONTWRITEBYTECODE=1
FAULT_SEEDS="${FAULT_SEEDS:-20}"
export FAULT_SEEDS
played="$(mktemp)"
nice -n 19 .venv/bin/python -m pytest -q -n 2 --timeout=7200 tests/faults/test_simulation.py "$@" > "$played" 2>&1 &
virtual=$!
trap 'kill $virtual 2> /dev/null || true; rm -f "$played"' EXIT
trap 'exit 130' INT TERM
failed=0
.venv/bin/python -m pytest -q -n 0 --timeout=7200 -m faults tests/faults --ignore tests/faults/test_web.py "$@" || failed=1
wait "$virtual" || failed=1
cat "$played"
.venv/bin/python -m pytest -q -n 0 --timeout=7200 -m faults tests/faults/test_web.py "$@" || failed=1
exit "$failed"
