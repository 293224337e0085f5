"""The environment made for a script's requirements: whole or not there, and made of what lies beside the script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from agent.scripts import interpreter

# Builds a package of one module without setuptools and without a network. The first build takes a while.
BACKEND = """
    import os, pathlib, time, zipfile

    def build_wheel(folder, config_settings=None, metadata_directory=None):
        name = pathlib.Path.cwd().name
        pathlib.Path("given").write_text("\\n".join(os.environ))
        begun = pathlib.Path("begun")
        if pathlib.Path("is-slow").exists() and not begun.exists():
            begun.touch()
            time.sleep(2)
        with zipfile.ZipFile(pathlib.Path(folder, f"{name}-1.0-py3-none-any.whl"), "w") as wheel:
            wheel.write("module.py", f"{name}.py")
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
            wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
        return f"{name}-1.0-py3-none-any.whl"
"""
MAKER = """
import os, pathlib, sys
from agent.scripts import interpreter

def say(message):
    if pathlib.Path(sys.argv[3]).exists():
        os._exit(9)

interpreter.for_requirements(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), (), say)
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def package(folder: Path) -> Path:
    """A package in `folder` with one module of that name."""
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    write(folder / "pyproject.toml", build)
    write(folder / "backend.py", BACKEND)
    write(folder / "module.py", f"print('this is {folder.name}')\n")
    return folder


def printed(python: Path, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False).stdout


def test_an_environment_whose_maker_was_killed_is_made_again(tmp_path: Path) -> None:
    mine = package(tmp_path / "mine")
    (mine / "is-slow").touch()
    requirements = write(tmp_path / "requirements.txt", f"{mine}\n")
    line = [sys.executable, "-c", MAKER, requirements, tmp_path / "environments", mine / "begun"]
    assert subprocess.run(line, check=False).returncode == 9
    said: list[str] = []
    python = interpreter.for_requirements(requirements, tmp_path / "environments", (), said.append)
    assert "Another job is making the same environment." in said  # the installer outlives its maker for a moment
    assert printed(python, "import mine") == "this is mine\n"


def test_what_lies_beside_the_requirements_is_installed_and_what_the_agent_has_is_no_excuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, agents_own = tmp_path / "project", tmp_path / "site-packages"
    write(project / "requirements.txt", "--no-index\n-r more/base.txt\n-c limits.txt\n./beside\n")
    write(project / "more" / "base.txt", "--find-links ../wheels\nlisted\n")
    write(project / "limits.txt", "listed<2\n")
    write(project / "random.py", "raise SystemExit('the installer has imported a file of the script')")
    package(project / "beside")
    (project / "wheels").mkdir()
    build = [sys.executable, "-c", "import backend; backend.build_wheel('../wheels')"]
    subprocess.run(build, cwd=package(project / "listed"), check=True)
    write(agents_own / "listed-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: listed\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHONPATH", str(agents_own))
    python = interpreter.for_requirements(project / "requirements.txt", tmp_path / "environments", (), lambda _: None)
    assert printed(python, "import listed, beside") == "this is listed\nthis is beside\n"


def test_what_is_installed_sees_no_secret_that_was_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "GITHUB_TOKEN", "CFLAGS"):
        monkeypatch.setenv(name, "-O2")
    mine = package(tmp_path / "mine")
    requirements = write(tmp_path / "requirements.txt", f"{mine}\n")
    interpreter.for_requirements(requirements, tmp_path / "environments", ("GITHUB_TOKEN",), lambda _: None)
    given = (mine / "given").read_text().splitlines()
    assert "WANDB_API_KEY" not in given and {"GITHUB_TOKEN", "CFLAGS"} <= set(given)
