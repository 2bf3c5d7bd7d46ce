"""`cas completion`: shell completion of commands, options and IDs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_BASH = r"""_cas_completion() {
    local line=${COMP_LINE:0:COMP_POINT} words word before breaks= type value
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[-1]} before=
    # Bash begins a new word after each of these, so the text before it is on the line already.
    [[ $COMP_WORDBREAKS == *:* ]] && breaks+=:
    [[ $COMP_WORDBREAKS == *=* ]] && breaks+==
    [[ -n $breaks ]] && before=${word%"${word##*[$breaks]}"}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done < <(COMP_WORDS=$line COMP_CWORD=$((${#words[@]} - 1)) _CAS_COMPLETE=bash_complete "$1")
}
complete -o nosort -F _cas_completion cas
"""
"""Click's own script does not handle words with colons."""
_ALL_COMMAS = ('string split ","', 'string split --max 1 ","')
"""Click's own script for fish drops the text after a second comma."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print a shell completion script.

    Add it to ~/.bashrc or ~/.zshrc, or for fish, save it as ~/.config/fish/completions/cas.fish.

    \b
    eval "$(cas completion bash)"
    cas completion fish > cas.fish
    """
    kind = get_completion_class(shell)
    if shell == "bash" or kind is None:
        print(_BASH, end="")
    else:
        source = kind(ctx.find_root().command, {}, "cas", "_CAS_COMPLETE").source()
        print(source.replace(*_ALL_COMMAS))
