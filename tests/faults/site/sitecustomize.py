"""Read by every Python of a yard or an agent under fire, before anything else; no part of the product knows of it.

`FAULTS` in the environment is a JSON object: `recipes` is a folder whose module `counting` becomes a recipe, `constants`
is `{module: {name: value}}` and replaces waits that would make a test long (`{"seconds": n}` is a duration), `faster`
shortens the schedule of the clock, `clock` is a file with the seconds by which the wall clock is wrong here.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys

_WANTED = json.loads(os.environ.get("FAULTS") or "{}")


def _set_constants(module, values):
    import datetime

    for name, value in values.items():
        if not hasattr(module, name):
            raise RuntimeError(f"tests/faults replaces {module.__name__}.{name}, which is not there any more")
        setattr(module, name, datetime.timedelta(**value) if isinstance(value, dict) else value)


def _add_recipe(module, folder):
    import dataclasses

    sys.path.append(folder)
    own = (
        module.Parameter("lines", "int", "Lines", "Printed in each step.", minimum=0, maximum=100_000),
        module.Parameter("pause", "float", "Pause", "Seconds from step to step.", minimum=0, maximum=600),
        module.Parameter("at", "int", "At", "The step at which it goes wrong.", minimum=1, maximum=1e9),
        module.Parameter("weights", "int", "Weights", "Bytes of what is made.", minimum=8, maximum=1e9),
        module.Parameter(
            "trouble",
            "choice",
            "Trouble",
            "What goes wrong.",
            choices=("none", "segfault", "killed", "memory", "torn", "deaf", "brood", "full"),
        ),
    )
    like, name = module.LANGUAGE, "counting"

    def settle(given, base_model):
        filled, faults = like.settle(given, base_model)
        return {**filled, **{one.name: given[one.name] for one in own}}, faults

    module.CATALOG[name] = dataclasses.replace(
        like, name=name, label="Counting", module=name, parameters=(*like.parameters, *own), settle=settle
    )


def _hurry(module, factor):
    import dataclasses

    module.SCHEDULE[:] = [
        dataclasses.replace(entry, seconds=entry.seconds * factor) if entry.seconds <= 5 else entry
        for entry in module.SCHEDULE
    ]


def _wrong_clock(module, file):
    import datetime

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            with open(file) as told:
                return datetime.datetime.now(tz) + datetime.timedelta(seconds=float(told.read()))

    module.datetime = Wrong


def _after(module):
    name = module.__name__
    if name in _WANTED.get("constants", {}):
        _set_constants(module, _WANTED["constants"][name])
    if name == "agent.recipes" and "recipes" in _WANTED:
        _add_recipe(module, _WANTED["recipes"])
    if name == "services.clock" and "faster" in _WANTED:
        _hurry(module, _WANTED["faster"])
    if name == "models.base" and "clock" in _WANTED:
        _wrong_clock(module, _WANTED["clock"])


def _shift_time(file):
    import time

    right = time.time

    def wrong():
        with open(file) as told:
            return right() + float(told.read())

    time.time = wrong


class _Touched(importlib.abc.Loader):
    """Loads as the module's own loader does, and touches what was loaded."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        _after(module)

    def __getattr__(self, name):
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds as everybody does, wherever the program lies: in a folder or in the zip that was downloaded."""

    def find_spec(self, name, path, target=None):
        if name not in _TOUCHED:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None and spec.loader is not None:
                    spec.loader = _Touched(spec.loader)
                    return spec
        return None


_TOUCHED = {*_WANTED.get("constants", {}), "agent.recipes", "services.clock", "models.base"}
if _WANTED:
    sys.meta_path.insert(0, _Finder())
    if "clock" in _WANTED:
        _shift_time(_WANTED["clock"])
