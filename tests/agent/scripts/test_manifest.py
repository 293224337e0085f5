"""yard.toml: what it may say, what is refused in a sentence, and the command line that comes of it."""

from __future__ import annotations

from ast import literal_eval

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.scripts.manifest import BadManifest, Manifest, command_line, entry_of, parse, steps_in

WHOLE = b"""
entry = "src/train.py"
arguments = ["--config", "small.json", "model={size}"]
requirements = "requirements.txt"
outputs = ["out/*.safetensors"]
checkpoints = ["out/ckpt-*"]
resume = ["--resume", "{checkpoint}"]
samples = "pictures"

[parameters.lr]
type = "float"
default = 0.001
minimum = 0.0
maximum = 1.0
label = "Learning rate"

[parameters.size]
type = "choice"
choices = ["small", "large"]
default = "small"

[parameters.amp]
type = "flag"
argument = "--use-amp"
"""


def test_everything_it_says_is_read() -> None:
    manifest = parse(WHOLE)
    assert (manifest.entry, manifest.samples) == ("src/train.py", "pictures")
    assert [(p.name, p.kind, p.default, p.label) for p in manifest.parameters] == [
        ("lr", "float", 0.001, "Learning rate"), ("size", "choice", "small", "size"), ("amp", "flag", None, "amp"),
    ]  # fmt: skip
    assert parse(b"") == Manifest()


def test_the_command_line_places_values_where_they_are_named_and_the_rest_as_flags() -> None:
    manifest = parse(WHOLE)
    values, wrong = manifest.values({"amp": True})
    assert not wrong
    line = command_line(manifest, "src/train.py", None, values)
    assert line == ["src/train.py", "--config", "small.json", "model=small", "--lr", "0.001", "--use-amp"]
    assert command_line(manifest, "src/train.py", ["-x"], {"lr": None, "amp": False}) == ["src/train.py", "-x"]


def line_of(manifest: Manifest, typed: list[str] | None, **given: object) -> list[str]:
    """The command line that comes of what was chosen for the parameters and what was typed."""
    return command_line(manifest, "fit.py", typed, manifest.values(given)[0])


def test_what_was_typed_stands_behind_the_parameters_and_so_wins() -> None:
    manifest = parse(
        b'arguments = ["--quiet"]\n[parameters.lr]\ntype = "float"\ndefault = 0.02\n'
        b'[parameters.steps]\ntype = "int"\ndefault = 40\n'
    )
    parameters = ["--lr", "0.02", "--steps", "40"]
    assert line_of(manifest, None) == ["fit.py", "--quiet", *parameters]
    assert line_of(manifest, ["--steps", "20"]) == ["fit.py", *parameters, "--steps", "20"]
    # A form that sends the defaults and a machine that only has the file come to the same.
    assert line_of(manifest, ["--steps", "20"], lr=0.02, steps=40) == ["fit.py", *parameters, "--steps", "20"]
    assert line_of(manifest, ["--steps=20"], lr=0.1) == ["fit.py", "--lr", "0.1", "--steps", "40", "--steps=20"]


def test_typed_arguments_take_the_place_of_those_that_hold_a_parameter() -> None:
    manifest = parse(WHOLE)
    assert line_of(manifest, ["model={size}"]) == ["fit.py", "--lr", "0.001", "model=small"]
    # `model={size}` is gone with the others, and the script need not know a flag for what nobody has chosen.
    assert line_of(manifest, ["-x"], size="small") == ["fit.py", "--lr", "0.001", "-x"]
    # What somebody has chosen is never lost without a word.
    assert line_of(manifest, ["-x"], size="large") == ["fit.py", "--lr", "0.001", "--size", "large", "-x"]


def test_a_flag_may_be_written_with_its_value() -> None:
    manifest = parse(b'[parameters.lr]\ntype = "float"\ndefault = 0.5\nargument = "--lr="\n')
    assert command_line(manifest, "train.py", None, manifest.values({})[0]) == ["train.py", "--lr=0.5"]


@pytest.mark.parametrize(
    ("value", "line"), [({}, ["--amp"]), ({"amp": False}, ["--no-amp"]), ({"amp": True}, ["--amp"])]
)
def test_a_flag_that_is_on_of_itself_is_switched_off_by_its_other_name(value: dict[str, bool], line: list[str]) -> None:
    manifest = parse(b'[parameters.amp]\ntype = "flag"\ndefault = true\nargument = "--amp/--no-amp"\n')
    assert line_of(manifest, None, **value) == ["fit.py", *line]


def test_values_that_do_not_fit_get_a_sentence_each() -> None:
    _, wrong = parse(WHOLE).values({"lr": 2, "size": "huge", "amp": "yes", "speed": 1})
    assert wrong == {
        "lr": "Learning rate must be a number from 0 to 1.",
        "size": "size must be one of small, large.",
        "amp": "amp must be true or false.",
        "speed": "yard.toml declares no parameter speed. It declares: amp, lr, size.",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("entry = ", "not valid TOML"),
        ("entrance = 'train.py'", "there is no key 'entrance'"),
        (
            "entry = '../train.py'",
            "does not lie below the script's folder. Name it from there, such as train.py or src/train.py.",
        ),
        ("entry = '/etc/train.py'", "does not lie below"),
        ("entry = 'run.sh'", "no Python file"),
        ("entry = 3", "entry must be a text"),
        ("arguments = 'a b'", "arguments must be a list"),
        ("outputs = ['../*']", "does not lie below"),
        ("outputs = ['..\\\\secrets']", "does not lie below"),
        (f"checkpoints = {['a/*'] * 201}", "checkpoints: These are 201 patterns; at most 20 are taken"),
        ("resume = '--resume'", "resume must be a list"),
        ("parameters = 3", "parameters must be"),
        ("[parameters.lr]\ntype = 'number'", "type must be one of"),
        ("[parameters.lr]\ntype = 'float'\ndefault = 'x'", "default: lr must be a number"),
        ("[parameters.lr]\ntype = 'float'\nminimum = nan", "minimum must be a number"),
        ("[parameters.lr]\ntype = 'float'\nminimum = 1" + "0" * 400, "minimum is too large"),
        ("[parameters.lr]\ntype = 'int'\ndefault = 1" + "0" * 5_000, "is not valid TOML"),
        ("[parameters.m]\ntype = 'choice'", "needs choices"),
        ("[parameters.m]\nkind = 'int'", "there is no key 'kind'"),
        ("[parameters.'a b']", "a parameter is a table with a name"),
        ("x = " + "[" * 5000, "yard.toml"),
        ("#" * 70_000, "larger than 64 KiB"),
    ],
)
def test_what_is_wrong_is_named(text: str, told: str) -> None:
    with pytest.raises(BadManifest, match=r"yard\.toml") as refusal:
        parse(text.encode())
    assert told in str(refusal.value)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_manifest_or_a_refusal(data: bytes) -> None:
    try:
        assert isinstance(parse(data), Manifest)
    except BadManifest as refusal:
        assert str(refusal)


def test_the_script_is_chosen_declared_or_found() -> None:
    files = {"train.py", "main.py", "lib/util.py", "other.py"}
    assert entry_of(Manifest(), files) == "train.py"
    assert entry_of(Manifest(), files - {"train.py"}) == "main.py"
    assert entry_of(Manifest(entry="other.py"), files) == "other.py"
    assert entry_of(Manifest(entry="other.py"), files, "lib/util.py") == "lib/util.py"
    assert entry_of(Manifest(), {"lib/only.py", "README.md"}) == "lib/only.py"


@pytest.mark.parametrize(
    ("files", "chosen", "told"),
    [
        ({"a.py", "b.py"}, None, "Choose one of a.py, b.py."),
        ({"README.md"}, None, "no Python file in it at all"),
        ({"a.py"}, "b.py", "There is no file b.py in the script's folder. Choose a.py."),
        ({f"s{number:02}.py" for number in range(20)}, None, "and 10 more"),
    ],
)
def test_a_script_that_is_not_found_is_asked_for_with_the_choices(
    files: set[str], chosen: str | None, told: str
) -> None:
    with pytest.raises(BadManifest) as refusal:
        entry_of(Manifest(), files, chosen)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "steps"),
    [
        (["train.py", "--max_iters=300"], 300),
        (["train.py", "--device=cpu", "--max-steps", "300", "--lr=1"], 300),
        (["train.py", "max_steps=300"], 300),
        (["train.py", "--max_iters", "--compile"], None),
        (["train.py", "--max_iters=many", "--num_epochs=3"], None),
        (["train.py", "--max_iters=-1", "--steps"], None),
        (["train.py"], None),
        (["train.py", "--max_iters=99999999999999"], None),
        (["train.py", "--steps", "40", "--steps=20"], 20),
    ],
)
def test_a_command_line_tells_how_many_steps_it_asks_for(line: list[str], steps: int | None) -> None:
    assert steps_in(line) == steps


def test_what_macos_leaves_beside_a_script_is_no_script() -> None:
    assert entry_of(parse(b""), ["learn.py", "._learn.py"]) == "learn.py"


def test_what_is_written_with_its_value_is_what_nanogpts_configurator_reads() -> None:
    """It takes `--key=value` alone, reads the value as Python does, and insists on the type of the default."""
    kinds = {
        "compile": ("flag", "true"),
        "eval_only": ("flag", "false"),
        "dropout": ("float", "0"),
        "seed": ("int", "7"),
    }
    tables = [
        f'[parameters.{name}]\ntype = "{kind}"\ndefault = {default}\nargument = "--{name}="\n'
        for name, (kind, default) in kinds.items()
    ]
    manifest = parse("".join(tables).encode())

    def read(**chosen: object) -> dict[str, object]:
        line = line_of(manifest, None, **chosen)[1:]
        return {key: literal_eval(value) for key, _, value in (text.removeprefix("--").partition("=") for text in line)}

    for chosen in ({"compile": True, "eval_only": False}, {"compile": False, "eval_only": True}):
        found = read(**chosen)
        assert found == {**chosen, "dropout": 0.0, "seed": 7}
        assert [type(value) for value in found.values()] == [bool, bool, float, int]
