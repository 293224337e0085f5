"""These tests run in a process of their own: `pytest -n 0 -p tests.greenlets.patched tests/greenlets`."""

from gevent import monkey

collect_ignore_glob = [] if monkey.is_module_patched("socket") else ["test_*.py"]
