"""Completion of the command's words in bash; Hydra's own knows nothing of `python -m`."""

from __future__ import annotations

import os
import shlex
import sys

from looplab.config.compose import understood

_SCRIPT = r"""
_looplab_complete() {
    local line=${COMP_LINE:0:COMP_POINT} word reply
    local ours='(python[0-9.]*( .*)? -m looplab(\.| +)train|scripts/train|^([^ ]*/)?looplab +train)( .*)$'
    if ! [[ $line =~ $ours ]]; then
        [ -z "$_looplab_before" ] || "$_looplab_before" "$@"
        return
    fi
    line=looplab.train${BASH_REMATCH[5]} word=${line##* } COMPREPLY=()
    while read -r reply; do
        [[ $reply != "$word"* ]] || COMPREPLY+=("$reply")
    done < <(COMP_LINE=$line PYTHON -m looplab.train -sc query=bash 2>/dev/null | tr ' ' '\n')
    # Bash replaces only what stands after the last =, unless = has been taken out of COMP_WORDBREAKS.
    if [[ $COMP_WORDBREAKS == *=* && $word == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
}
if [[ $(complete -p python 2>/dev/null) =~ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != _looplab_complete ]]; then
    _looplab_before=${BASH_REMATCH[1]}
fi
complete -o nospace -o default -F _looplab_complete python python3 train looplab
"""


def scripts() -> dict[str, str]:
    """Returns what bash is to evaluate, by what is asked for: to complete words, and to stop that.

    Words are completed for `python -m looplab.train`, `looplab train` and `scripts/train`, by this very
    Python: the Tab key starts nothing else. Other words after `python` are left to what completed them
    before.
    """
    return {
        "install=bash": _SCRIPT.strip().replace("PYTHON", shlex.quote(sys.executable)),
        "uninstall=bash": "complete -r python python3 train looplab; unset -f _looplab_complete",
    }


def prepare() -> None:
    """Puts the line that is to be completed, `COMP_LINE`, into the words that Hydra understands."""
    command, *words = os.environ.get("COMP_LINE", "looplab.train ").split(" ")
    os.environ["COMP_LINE"] = " ".join([command, *understood(words[:-1]), *words[-1:]])
