#!/usr/bin/env python3
"""Run the demo or the checks in a private environment, `.venv`, made when needed.

Usage:
    python3 dev.py demo                  analyse and run attention on real data
    python3 dev.py test [pytest args]    ruff, mypy, lint-imports, pytest
    python3 dev.py test --slow [args]    only the tests marked slow
"""

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# First, and in syntax that older Pythons read too, so that they say what is wrong.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("dev.py: Python 3.11 or newer is needed, this is " + sys.version.split()[0])

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(BIN / "python")
STAMP = VENV / "installed.txt"  # first line: the key; then one line for each install done

EXAMPLE = "examples/attention.cascade"
DATA = "examples/data/minilm_layer0.npz"
CASCADE = str(BIN / "cascade")
DEMO = [
    ("analyse", [CASCADE, "analyse", EXAMPLE, "--inputs", DATA]),
    (
        "run",
        [CASCADE, "run", EXAMPLE, "--inputs", DATA, "--check", "-o", "attention_output.npz"],
    ),
]
CHECKS = [
    ("ruff check", [PYTHON, "-m", "ruff", "check", "."]),
    ("ruff format", [PYTHON, "-m", "ruff", "format", "--check", "."]),
    ("mypy", [PYTHON, "-m", "mypy"]),
    ("lint-imports", [str(BIN / "lint-imports")]),
]
PYTEST = [PYTHON, "-m", "pytest"]

Step = tuple[str, list[str]]


def main(arguments: list[str]) -> int:
    if arguments == ["demo"]:
        install(".[plot,safetensors]")
        return run_all(DEMO)
    if arguments[:1] == ["test"]:
        install(".[dev]")
        return run_all(test_steps(arguments[1:]))
    asked = arguments in (["-h"], ["--help"])
    print(__doc__, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def test_steps(arguments: list[str]) -> list[Step]:
    workers = ["-n", "2"] if (os.cpu_count() or 1) > 1 else []
    if "--slow" in arguments:
        rest = [argument for argument in arguments if argument != "--slow"]
        return [("pytest, slow", [*PYTEST, *workers, "-m", "slow", *rest])]
    return [*CHECKS, ("pytest", [*PYTEST, *workers, *arguments])]


def install(requirement: str) -> None:
    """Make `.venv` hold the project, editable. Does nothing while pyproject.toml is unchanged."""
    content = (ROOT / "pyproject.toml").read_bytes()
    interpreter = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    key = f"{interpreter} {ROOT} {hashlib.sha256(content).hexdigest()}"
    done = STAMP.read_text().splitlines() if STAMP.exists() else []
    if done[:1] == [key] and any(entry.startswith(requirement) for entry in done[1:]):
        return  # ".[dev]" holds all of "."
    if not done or not done[0].startswith(f"{interpreter} {ROOT} "):
        say(f"making {VENV.name} with {interpreter}")
        quietly([sys.executable, "-m", "venv", "--clear", str(VENV)])
    say(f"installing {requirement} (some minutes the first time)")
    STAMP.unlink(missing_ok=True)
    quietly([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "-e", requirement])
    kept = done if done[:1] == [key] else [key]
    STAMP.write_text("\n".join([*kept, requirement]) + "\n")


def quietly(command: list[str]) -> None:
    """Run a command that must succeed; show its output only if it fails."""
    result = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        print(result.stdout, file=sys.stderr)
        sys.exit(f"dev.py: failed: {shlex.join(command)}")


def run_all(steps: Sequence[Step]) -> int:
    """Run every step, then say how each ended. Returns the exit code of the first that failed."""
    codes = []
    for _, command in steps:
        say(shlex.join(command).replace(f"{ROOT}{os.sep}", ""))
        codes.append(subprocess.run(command, cwd=ROOT).returncode)
    print()
    for (name, _), code in zip(steps, codes, strict=True):
        say(f"{name:12} {'ok' if code == 0 else f'FAILED (exit {code})'}")
    return next((code for code in codes if code), 0)


def say(text: str) -> None:
    print(f"[dev] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
