"""Builds the documentation site; `scripts/docs` starts it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from documentation.build import build, reference
from documentation.names import Undocumented

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    """Reads the arguments and builds; returns 0, or 1 if the site has a warning."""
    parser = argparse.ArgumentParser(
        prog="scripts/docs",
        description="Build the documentation site. A broken link or reference fails the build.",
        epilog="To read the site in a browser: python -m http.server --directory site",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "site", help="the folder of the site (default: site)"
    )
    output = parser.parse_args().output.absolute()
    try:
        generated = reference(ROOT)
    except Undocumented as error:
        print(f"scripts/docs: {error}", file=sys.stderr)
        return 1
    if not build(ROOT, output, generated):
        print(
            "scripts/docs: the site has the problems above; correct each, and build again.", file=sys.stderr
        )
        return 1
    print(f"scripts/docs: open {output / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
