"""A plugin for pytest: the standard library as the web processes have it, before anything else is imported."""

from gevent import monkey

monkey.patch_all()
