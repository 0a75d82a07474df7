"""Lists everything that looplab uses of other packages beyond their public interfaces, and what it replaces.

A test reads looplab's source and requires that each such name is listed here and is still used. The test of
an entry fails when the name, or what it does, changes in a release of the other package.
"""

from __future__ import annotations

from looplab.compat.keras_fit_uses import KERAS_FIT
from looplab.compat.keras_uses import KERAS
from looplab.compat.private_use import TESTS, PrivateUse
from looplab.compat.tensorflow_uses import TENSORFLOW

_CONFIGURATION = (
    PrivateUse(
        owner="hydra._internal.utils",
        names=("create_automatic_config_search_path",),
        modules=("looplab.config.compose",),
        why="Gives Hydra's search path outside of its decorator.",
        test=TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="hydra._internal.utils",
        names=("get_args_parser",),
        modules=("looplab.cli.arguments",),
        why="Gives Hydra's own options outside of its decorator.",
        test=TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="hydra._internal.hydra.Hydra",
        names=("create_main_hydra2",),
        modules=("looplab.config.compose",),
        why="Makes the loader of configurations as Hydra's decorator does.",
        test=TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="hydra._internal.config_loader_impl.ConfigLoaderImpl",
        names=("_parse_overrides_and_create_caching_repo", "load_configuration"),
        modules=("looplab.config.compose",),
        why="Composes with Hydra's own section; returns the parsed words of a command line and the files.",
        test=TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="hydra._internal.defaults_list",
        names=("create_defaults_list",),
        modules=("looplab.config.compose",),
        why="Returns the files of which a configuration is composed, so that messages can name them.",
        test=TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="omegaconf.Container",
        names=("_get_node", "_get_root", "_value"),
        modules=("looplab.config.validation",),
        why="Returns a value as it was written, since a secret is refused there, and the root of a section.",
        test=TESTS + "test_omegaconf_gives_values_as_they_were_written",
    ),
    PrivateUse(
        owner="argparse.ArgumentParser",
        names=("_option_string_actions",),
        modules=("looplab.cli.arguments",),
        why="Returns the valid options, to suggest the nearest one for a misspelt option.",
        test=TESTS + "test_argparse_knows_its_options",
    ),
)

PRIVATE_USES = (*KERAS, *KERAS_FIT, *TENSORFLOW, *_CONFIGURATION)
