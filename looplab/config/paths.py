"""Finds the folders of configurations: the working directory's, those of trusted packages, looplab's own."""

from pathlib import Path

from looplab.config.project_settings import trusted_folders


def directory() -> Path:
    """Returns the configuration folder shipped with looplab: `looplab/conf` in a wheel, otherwise `conf`."""
    inside = Path(__file__).resolve().parents[1] / "conf"
    return inside if inside.is_dir() else inside.parents[1] / "conf"


def of_packages() -> dict[str, Path]:
    """Returns the `conf/` of each trusted package that has one, by the package's name."""
    found = {name: folder / "conf" for name, folders in trusted_folders().items() for folder in folders}
    return {name: folder for name, folder in found.items() if folder.is_dir()}


def folders() -> list[Path]:
    """Returns all folders in the order of the search: the first one that has an option wins."""
    return [Path.cwd() / "conf", directory(), *of_packages().values()]
