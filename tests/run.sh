#!/bin/sh
# Everything, made for two cores: three processes, because what starts a yard waits more than it works (tests/turns.py says
# who goes together), then those whose standard library is gevent's, then those that measure under fire, with the machine to
# themselves.
set -eu
cd "$(dirname "$0")/.."
# A thread of torch that waits for another spins by default; beside other tests that made one training take 50 s instead of 4.
export OMP_WAIT_POLICY=passive
.venv/bin/python -m pytest -q -n 3 --dist loadgroup -m "not faults" "$@"
.venv/bin/python -m pytest -q -n 0 -p tests.greenlets.patched tests/greenlets
.venv/bin/python -m pytest -q -m faults_quick tests/faults "$@"
