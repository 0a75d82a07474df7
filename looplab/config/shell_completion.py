"""Completes the command's words in bash; Hydra's own completion does not support `python -m`."""

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
    """Returns the code for bash to evaluate, by Hydra's query: to install completion, or to uninstall it.

    The words of `python -m looplab.train`, `looplab train` and `scripts/train` are completed, by the same
    Python; the Tab key starts no other program. For other words after `python`, the earlier completion stays
    in use.
    """
    return {
        "install=bash": _SCRIPT.strip().replace("PYTHON", shlex.quote(sys.executable)),
        "uninstall=bash": "complete -r python python3 train looplab; unset -f _looplab_complete",
    }


def prepare() -> None:
    """Converts the line to complete, `COMP_LINE`, to words that Hydra understands."""
    command, *words = os.environ.get("COMP_LINE", "looplab.train ").split(" ")
    os.environ["COMP_LINE"] = " ".join([command, *understood(words[:-1]), *words[-1:]])
