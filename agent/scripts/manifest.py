"""`yard.toml`: what a script may say about itself, so that nobody has to type it for each training.

    entry = "train.py"                  # else train.py or main.py is taken
    arguments = ["--config", "small.json"]
    requirements = "requirements.txt"
    outputs = ["out/*.safetensors"]     # what is kept; anything else stays
    checkpoints = ["out/ckpt-*"]        # the newest is given back on resume
    resume = ["--resume", "{checkpoint}"]   # or ["--init_from=resume"], when it finds the checkpoint itself
    samples = "samples"

    [parameters.lr]                     # a field of the form, and `--lr 0.001` on the command line
    type = "float"                      # int, float, text, choice or flag
    default = 0.001
    minimum = 0.0
    maximum = 1.0
    label = "Learning rate"
    argument = "--learning-rate"        # `"--lr="` is written `--lr=0.001`, a flag `--compile=True` or `--compile=False`;
                                        # a flag's `"--amp/--no-amp"` is the one or the other

Everything is optional, and so is the file. Arguments that somebody types take the place of `arguments` and stand behind the
parameters, on a member's machine as on the server: the last one counts, so what was typed wins.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

from ..recipes.parameters import Kind, Parameter
from ..recipes.script_settings import A_SCRIPT, path_fault, patterns_fault
from .archive import is_of_finder

NAME = "yard.toml"
MOST_BYTES = 65_536
MOST_PARAMETERS = 100
FOUND_FIRST = ("train.py", "main.py")
REQUIREMENTS = "requirements.txt"
KINDS = ("int", "float", "text", "choice", "flag")
CHECKPOINT = "{checkpoint}"
STEPS = {
    "max_iters", "max_iter", "max_iterations", "num_iterations", "iterations", "n_iters", "iters", "max_steps", "num_steps",
    "total_steps", "train_steps", "max_train_steps", "num_train_steps", "n_steps", "steps",
}  # fmt: skip

_KNOWN = ("entry", "arguments", "requirements", "outputs", "checkpoints", "resume", "samples", "parameters")
_PARAMETER_KNOWN = ("type", "default", "minimum", "maximum", "choices", "label", "explanation", "argument")
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,59}")


class BadManifest(Exception):
    """The file cannot be used; `str()` names the key and says what is expected."""


@dataclass(frozen=True)
class Manifest:
    """What `yard.toml` says, or its silence. `flags` holds the command line's name of each parameter."""

    entry: str | None = None
    arguments: tuple[str, ...] = ()
    requirements: str | None = None
    outputs: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    samples: str = "samples"
    parameters: tuple[Parameter, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)

    def values(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The value of each declared parameter, and a sentence for each that does not fit or is not declared."""
        known = {parameter.name for parameter in self.parameters}
        errors = {
            name: f"{NAME} declares no parameter {name}. It declares: {', '.join(sorted(known)) or 'none'}."
            for name in given
            if name not in known
        }
        values = {}
        for parameter in self.parameters:
            value = given.get(parameter.name, parameter.default)
            try:
                values[parameter.name] = None if value is None else parameter.checked(value)
            except ValueError as refusal:
                errors[parameter.name] = str(refusal)
        return values, errors


def parse(data: bytes) -> Manifest:
    """Read the file's content. Raises BadManifest."""
    if len(data) > MOST_BYTES:
        raise BadManifest(f"{NAME} is larger than {MOST_BYTES // 1024} KiB.")
    try:
        given = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        raise BadManifest(f"{NAME} is not valid TOML: {error}.") from None
    unknown = sorted(set(given) - set(_KNOWN))
    if unknown:
        raise BadManifest(f"{NAME}: there is no key {unknown[0]!r}. The keys are {', '.join(_KNOWN)}.")
    parameters = _parameters(given.get("parameters", {}))
    manifest = Manifest(
        entry=_path(given, "entry"),
        arguments=_texts(given, "arguments"),
        requirements=_path(given, "requirements"),
        outputs=_patterns(given, "outputs"),
        checkpoints=_patterns(given, "checkpoints"),
        resume=_texts(given, "resume"),
        samples=_path(given, "samples") or "samples",
        parameters=tuple(parameter for parameter, _ in parameters),
        flags={parameter.name: flag for parameter, flag in parameters},
    )
    if manifest.entry and not manifest.entry.endswith(".py"):
        raise BadManifest(f"{NAME}: entry is {manifest.entry!r}, which is no Python file.")
    return manifest


def entry_of(manifest: Manifest, files: Collection[str], chosen: str | None = None) -> str:
    """The script that is started: chosen, declared, or found among `files` (paths below the folder, with /).

    Raises BadManifest with the scripts there are to choose from.
    """
    entry = chosen or manifest.entry
    if entry:
        if entry in files:
            return entry
        raise BadManifest(f"There is no file {entry} in the script's folder.{_choices(files)}")
    for name in FOUND_FIRST:
        if name in files:
            return name
    scripts = _scripts(files)
    if len(scripts) == 1:
        return scripts[0]
    raise BadManifest(f"Which script trains? There is no {' and no '.join(FOUND_FIRST)}.{_choices(files)}")


def requirements_of(manifest: Manifest, is_there: Callable[[str], bool]) -> str | None:
    """The file that lists what the script needs: declared, or requirements.txt where it is there.

    Raises BadManifest when a declared one is not.
    """
    if manifest.requirements is None:
        return REQUIREMENTS if is_there(REQUIREMENTS) else None
    if not is_there(manifest.requirements):
        raise BadManifest(f"{NAME}: requirements: there is no file {manifest.requirements} in the script's folder.")
    return manifest.requirements


def command_line(manifest: Manifest, entry: str, typed: list[str] | None, values: Mapping[str, Any]) -> list[str]:
    """The script and what follows it. A parameter stands where an argument says `{name}`, else as a flag: behind the
    manifest's own arguments, in front of typed ones, so that the typed ones win."""
    arguments = [_filled(text, values) for text in (manifest.arguments if typed is None else typed)]
    flags = _flags(manifest, typed, values)
    return [entry, *arguments, *flags] if typed is None else [entry, *flags, *arguments]


def _flags(manifest: Manifest, typed: list[str] | None, values: Mapping[str, Any]) -> list[str]:
    """The parameters that no argument places. Where typed arguments replace the one that placed a parameter, its default
    is gone with it: the script may know no flag for it. What somebody has chosen is kept."""
    placed = _placed(manifest.arguments if typed is None else typed, values)
    replaced = _placed(manifest.arguments, values)
    defaults = {parameter.name: parameter.default for parameter in manifest.parameters}
    line = []
    for name, value in values.items():
        if name not in placed and not (name in replaced and value == defaults[name]):
            line += _flagged(manifest.flags[name], value)
    return line


def steps_in(line: Sequence[str]) -> int | None:
    """How many steps a command line asks for, in the names that scripts give them (`--max_iters=300`, `--max-steps 300`);
    None when it does not say. Of one name the last counts, as it does for the script."""
    found = {}
    for text, behind in pairwise([*line, ""]):
        name, _, value = text.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name in STEPS and (steps := _digits(value or behind)):
            found[name] = steps
    return next(iter(found.values()), None)


def _digits(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _filled(text: str, values: Mapping[str, Any]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", "" if value is None else str(value))
    return text


def _placed(arguments: Sequence[str], names: Collection[str]) -> set[str]:
    """Which of the names an argument holds as `{name}`."""
    return {name for name in names for text in arguments if f"{{{name}}}" in text}


def _flagged(flag: str, value: Any) -> list[str]:
    if value is None:
        return []
    if flag.endswith("="):
        return [f"{flag}{value}"]
    if isinstance(value, bool):
        on, _, off = flag.partition("/")
        return [one for one in [on if value else off] if one]
    return [flag, str(value)]


def _scripts(files: Collection[str]) -> list[str]:
    """Python files at the top, else anywhere."""
    python = sorted(name for name in files if name.endswith(".py") and not name.endswith("__init__.py"))
    python = [name for name in python if not is_of_finder(name)]
    return [name for name in python if "/" not in name] or python


def _choices(files: Collection[str]) -> str:
    scripts = _scripts(files)
    if not scripts:
        return " There is no Python file in it at all."
    if len(scripts) == 1:
        return f" Choose {scripts[0]}."
    more = f" and {len(scripts) - 10} more" if len(scripts) > 10 else ""
    return f" Choose one of {', '.join(scripts[:10])}{more}."


def _path(given: dict[str, Any], key: str) -> str | None:
    text = given.get(key)
    if text is None:
        return None
    if not isinstance(text, str) or not text.isprintable():
        raise BadManifest(f"{NAME}: {key} must be a text.")
    if fault := path_fault(text, A_SCRIPT) if key == "entry" else path_fault(text):
        raise BadManifest(f"{NAME}: {key}: {fault}")
    return text.removeprefix("./")


def _texts(given: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = given.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise BadManifest(f'{NAME}: {key} must be a list of texts, such as {key} = ["--epochs", "3"].')
    return tuple(texts)


def _patterns(given: dict[str, Any], key: str) -> tuple[str, ...]:
    patterns = _texts(given, key)
    if fault := patterns_fault(patterns):
        raise BadManifest(f"{NAME}: {key}: {fault}")
    return patterns


def _parameters(given: Any) -> list[tuple[Parameter, str]]:
    if not isinstance(given, dict) or len(given) > MOST_PARAMETERS:
        raise BadManifest(f"{NAME}: parameters must be at most {MOST_PARAMETERS} tables such as [parameters.lr].")
    return [_parameter(name, table) for name, table in given.items()]


def _parameter(name: str, table: Any) -> tuple[Parameter, str]:
    where = f"{NAME}: parameters.{name[:60]}"
    if not _PARAMETER_NAME.fullmatch(name) or not isinstance(table, dict):
        raise BadManifest(f"{where}: a parameter is a table with a name of letters, digits, _, . and -.")
    unknown = sorted(set(table) - set(_PARAMETER_KNOWN))
    if unknown:
        raise BadManifest(f"{where}: there is no key {unknown[0]!r}. The keys are {', '.join(_PARAMETER_KNOWN)}.")
    kind = table.get("type", "text")
    if kind not in KINDS:
        raise BadManifest(f"{where}: type must be one of {', '.join(KINDS)}.")
    choices = table.get("choices", [])
    if kind == "choice" and not (isinstance(choices, list) and choices and all(isinstance(c, str) for c in choices)):
        raise BadManifest(f"{where}: a choice needs choices, a list of texts.")
    parameter = Parameter(
        name=name,
        kind=cast(Kind, kind),
        label=_told(table, "label", where) or name,
        explanation=_told(table, "explanation", where) or "",
        minimum=_bound(table, "minimum", where),
        maximum=_bound(table, "maximum", where),
        choices=tuple(choices) if kind == "choice" else (),
    )
    flag = _told(table, "argument", where) or f"--{name}"
    return Parameter(**{**parameter.__dict__, "default": _default(parameter, table.get("default"), where)}), flag


def _default(parameter: Parameter, value: Any, where: str) -> Any:
    if value is None:
        return None
    try:
        return parameter.checked(value)
    except ValueError as refusal:
        raise BadManifest(f"{where}: default: {refusal}") from None


def _told(table: dict[str, Any], key: str, where: str) -> str | None:
    text = table.get(key)
    if text is not None and not (isinstance(text, str) and text.isprintable() and len(text) <= 300):
        raise BadManifest(f"{where}: {key} must be a text of one line.")
    return text


def _bound(table: dict[str, Any], key: str, where: str) -> float | None:
    bound = table.get(key)
    if bound is None:
        return None
    try:
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise BadManifest(f"{where}: {key} must be a number.")
        return float(bound)
    except OverflowError:
        raise BadManifest(f"{where}: {key} is too large.") from None
