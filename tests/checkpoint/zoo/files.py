"""What is no file of looplab's, or no file of the checkpoint's own: row 33."""

import os
import pickle
import zipfile

import numpy as np

from tests.checkpoint.zoo.catalogue import arrays_of, family, manifest_of, specimen

FILES = {"arrays": arrays_of, "manifest": manifest_of}


class Canary:
    """Unpickled it makes a folder in the working directory, which no test may find."""

    def __reduce__(self):
        return os.mkdir, ("canary",)


@specimen(33)
def the_arrays_are_a_pickle(path):
    arrays_of(path).write_bytes(pickle.dumps(Canary()))


@specimen(33)
def the_arrays_are_pickled_objects_of_numpy(path):
    with arrays_of(path).open("wb") as file:
        np.save(file, np.array([Canary()]), allow_pickle=True)


@specimen(33)
def the_arrays_are_a_zip_that_swells(path):
    with zipfile.ZipFile(arrays_of(path), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kernel.npy", bytes(2**26))
        archive.writestr("../../canary", b"")


def elsewhere(path, file):
    """Moves a file out of the checkpoints, and links to it."""
    moved = path.parent.parent / f"elsewhere-{file.name}"
    file.rename(moved)
    file.symlink_to(moved)
    return moved


def link(path, file_of):
    elsewhere(path, file_of(path))


def device(path, file_of):
    file_of(path).unlink()
    file_of(path).symlink_to("/dev/zero")


def pipe(path, file_of):
    file_of(path).unlink()
    os.mkfifo(file_of(path))


def folder(path, file_of):
    file_of(path).unlink()
    file_of(path).mkdir()


family("a_link_to_elsewhere_stands_for_the_{}", link, FILES, 33)
family("a_link_to_an_endless_device_stands_for_the_{}", device, FILES, 33)
family("a_pipe_stands_for_the_{}", pipe, FILES, 33)
family("a_folder_stands_for_the_{}", folder, FILES, 33)


@specimen(33)
def the_folder_is_a_link_to_elsewhere(path):
    elsewhere(path, path)


@specimen(33)
def the_folder_is_a_link_to_nowhere(path):
    elsewhere(path, path).rename(path.parent.parent / "gone")


@specimen(33)
def the_folder_is_a_link_to_itself(path):
    elsewhere(path, path)
    path.unlink()
    path.symlink_to(path.name)
