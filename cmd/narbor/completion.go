package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/exit"
)

// completeCommand is the first argument of a question from a completion script: narbor __complete SHELL WORD…, with the
// words after the program's name up to the cursor, as they are typed. See [complete].
const completeCommand = "__complete"

// The scripts run the program with [completeCommand] and nothing else, and never evaluate a word or an answer.
const (
	bashCompletion = `_narbor() {
  local line
  COMPREPLY=()
  while IFS= read -r line; do
    case $line in
      '') ;;
      :files) compopt -o default 2>/dev/null ;;
      *) COMPREPLY+=("$line") ;;
    esac
  done <<<"$(command "${COMP_WORDS[0]}" ` + completeCommand + ` bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)"
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
    compopt -o nospace 2>/dev/null
  fi
}
complete -F _narbor narbor
`
	zshCompletion = `#compdef narbor
_narbor() {
  local line files
  local -a next open
  for line in "${(@f)$(command "${(Q)words[1]}" ` + completeCommand + ` zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
    case $line in
      '') ;;
      :files) files=1 ;;
      *=:*) open+=("$line") ;;
      *) next+=("$line") ;;
    esac
  done
  if (( $#next + $#open )); then
    _describe narbor next -- open -S ''
  elif [[ -n $files ]]; then
    _files
  fi
}
if [[ ${funcstack[1]} == _narbor ]]; then
  _narbor "$@"
else
  compdef _narbor narbor
fi
`
	fishCompletion = `function __narbor_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (command $words[1] ` + completeCommand + ` fish $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path "$current"
        else
            printf '%s\n' "$line"
        end
    end
end
complete -c narbor -e
complete -c narbor -f -a '(__narbor_complete)'
`
)

// shells are those that there is a script for.
func shells() map[string]string {
	return map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: "Commands, flags and their values are completed; peers are those of the narbor that runs here.\n\n" +
			"bash: narbor completion bash > /etc/bash_completion.d/narbor\n" +
			"zsh:  narbor completion zsh > \"${fpath[1]}/_narbor\"\n" +
			"fish: narbor completion fish > ~/.config/fish/completions/narbor.fish",
		Action: func(c *cli.Context) error {
			script, ok := shells()[c.Args().First()]
			if !ok {
				return exit.With(fmt.Errorf("%q is none of bash, zsh, fish", c.Args().First()), exit.Usage)
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}
