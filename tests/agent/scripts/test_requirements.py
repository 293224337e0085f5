"""What a requirements file means: its own text, that of the files it includes, and where it lies if it names what lies there."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest

from agent.scripts.requirements import DEEPEST, MOST_INCLUDED_BYTES, BadRequirements, meaning, unmet


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "-e .",
        "--editable=.",
        ".[all]",
        "./mylib",
        "libs/mylib",
        "/opt/mylib",
        "file:mylib",
        "mylib @ file:///opt/mylib",
        "mylib-1.0-py3-none-any.whl",
        "--find-links wheels\nmylib",
        "-r base.txt",
        "--requirement base.txt",
        "torch\n-rbase.txt  # as ever",
        "-c base.txt",
        "--constraint=base.txt",
    ],
)
def test_where_a_file_lies_counts_if_it_names_what_lies_beside_it(tmp_path: Path, text: str) -> None:
    for name in ("one", "other"):
        write(tmp_path / name / "base.txt", "numpy\n")
        write(tmp_path / name / "requirements.txt", text)
    one, other = tmp_path / "one" / "requirements.txt", tmp_path / "other" / "requirements.txt"
    assert meaning(one) == meaning(one) != meaning(other)


@pytest.mark.parametrize(
    "text",
    [
        "torch==2.1 ; python_version > '3.8'\nnumpy>=1  # ./not/a/path\n# -e .\n",
        "--extra-index-url https://example.com/simple\n--require-hashes\ntorch",
        "git+https://example.com/mylib.git\nmylib @ https://example.com/mylib.whl",
        "",
    ],
)
def test_where_a_file_lies_does_not_count_if_it_names_nothing_there(tmp_path: Path, text: str) -> None:
    one, other = (write(tmp_path / name / "requirements.txt", text) for name in ("one", "other"))
    assert meaning(one) == meaning(other)


@pytest.mark.parametrize(
    "line", ["-r more/base.txt", "-c more/base.txt", '--requirement="${WHERE}/base.txt"', "-r \\\nmore/base.txt"]
)
def test_what_is_included_counts_and_what_that_includes(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE", "more")
    requirements = write(tmp_path / "requirements.txt", f"{line}\n")
    write(tmp_path / "more" / "base.txt", "-r ../requirements.txt\n-r deep.txt\n")
    deep = write(tmp_path / "more" / "deep.txt", "numpy==1\n")
    before = meaning(requirements)
    deep.write_text("numpy==2\n")
    assert meaning(requirements) != before


def test_an_include_that_is_not_there_is_named(tmp_path: Path) -> None:
    requirements = write(tmp_path / "requirements.txt", "numpy\n-r base.txt\n")
    with pytest.raises(BadRequirements, match="requirements.txt includes base.txt, and there is no such file."):
        meaning(requirements)
    (tmp_path / "base.txt").mkdir()
    with pytest.raises(BadRequirements, match="no such file"):
        meaning(requirements)


def test_an_include_from_an_address_is_left_to_the_installer(tmp_path: Path) -> None:
    assert meaning(write(tmp_path / "requirements.txt", "-r https://example.com/base.txt\n"))


def test_there_is_an_end_to_what_is_included(tmp_path: Path) -> None:
    for number in range(DEEPEST + 1):
        write(tmp_path / f"{number}.txt", f"-r {number + 1}.txt\n")
    write(tmp_path / f"{DEEPEST + 1}.txt", "")
    with pytest.raises(BadRequirements, match=f"more than {DEEPEST} deep"):
        meaning(tmp_path / "0.txt")
    assert meaning(tmp_path / "1.txt")
    write(tmp_path / "1.txt", "#" * MOST_INCLUDED_BYTES)
    with pytest.raises(BadRequirements, match="larger than 256 KiB"):
        meaning(tmp_path / "0.txt")


@pytest.mark.parametrize(
    "text",
    [
        "--index-url https://example.com/simple\n-i https://example.com\npytest",
        "--extra-index-url=https://download.pytorch.org/whl/cpu\n--trusted-host example.com\n--no-index\npytest>=1",
        "--find-links wheels\n-f wheels\n-fwheels\n--pre\n--prefer-binary\n--only-binary :all:\n--require-hashes\npytest",
        "pytest>=1 \\\n    --hash=sha256:00 \\\r\n    --hash=sha256:01\n    # via -r base.in\npackaging",
        "pytest ; python_version > '3' --hash=sha256:00",
        "no-such-package ; python_version < '3'\n\n  # nothing\npytest  # the tests",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_what_is_here_is_not_missed_however_the_file_is_written(text: str, encoding: str) -> None:
    begin = b"\xfe\xff" if encoding == "utf-16-be" else b""
    assert unmet(BytesIO(begin + text.encode(encoding))) == []


def test_what_is_not_here_or_not_followed_is_named_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret-of-the-server")
    lines = [
        "no-such-package==1", "pytest<1", "-r base.txt", "-c base.txt", "-e .", "./mylib",
        "pytest @ https://example.com/pytest.whl", "--unknown", "${TOKEN}",
    ]  # fmt: skip
    assert unmet(BytesIO("\n".join(["pytest", *lines]).encode("utf-16"))) == lines
    assert unmet(BytesIO(b"no-such-package==1 \\\n  --hash=sha256:00")) == ["no-such-package==1"]


def test_a_long_list_with_sums_is_read_to_its_end() -> None:
    sums = "".join(f" \\\n    --hash=sha256:{number:064x}" for number in range(1000))
    assert unmet(BytesIO(f"pytest{sums}\nno-such-package\n".encode())) == ["no-such-package"]
