"""Orbit's packages, in a folder of their own that only Orbit's processes see; made on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-orbit"
_WANTED = Path(__file__).with_name("orbit.txt")
_STAMP = FOLDER / "installed.txt"  # written last
_TIMEOUT = 300  # seconds


def install() -> str | None:
    """Makes the folder, unless it is there.

    Returns:
        Why it could not be made, in one line, or None.
    """
    wanted = _WANTED.read_text(encoding="utf-8")
    if _STAMP.exists() and _STAMP.read_text(encoding="utf-8") == wanted:
        return None
    print(f"benchmark: installing Orbit into {FOLDER.name} (once) ...", file=sys.stderr)
    options = ["--disable-pip-version-check", "--no-input", "--quiet", "--no-deps", "--require-hashes"]
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--upgrade",
        "--target",
        FOLDER,
        "-r",
        _WANTED,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"pip took more than {_TIMEOUT} s"
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return lines[-1] if lines else f"pip ended with {done.returncode}"
    _STAMP.write_text(wanted, encoding="utf-8")
    return None
