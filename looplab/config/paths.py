"""Where looplab's own configurations are."""

from pathlib import Path


def directory() -> Path:
    """Returns the configuration tree shipped with looplab: in a wheel `looplab/conf`, else `conf`."""
    inside = Path(__file__).resolve().parents[1] / "conf"
    return inside if inside.is_dir() else inside.parents[1] / "conf"
