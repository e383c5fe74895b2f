package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// The program completes itself: asked with --generate-bash-completion it lists what may come next.
const (
	bashCompletion = `_narbor() {
  local words current="${COMP_WORDS[$COMP_CWORD]}" given=("${COMP_WORDS[@]:0:$COMP_CWORD}")
  [[ $current != -* ]] || given+=("$current")
  words=$("${given[@]}" --generate-bash-completion 2>/dev/null)
  COMPREPLY=($(compgen -W "${words}" -- "$current"))
}
complete -o bashdefault -o default -F _narbor narbor
`
	zshCompletion = `#compdef narbor
_narbor() {
  local -a next given
  given=(${words[1,CURRENT-1]})
  [[ ${words[CURRENT]} != -* ]] || given+=(${words[CURRENT]})
  next=("${(@f)$(${given} --generate-bash-completion 2>/dev/null)}")
  _describe 'narbor' next || _files
}
compdef _narbor narbor
`
)

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: "bash: narbor completion bash > /etc/bash_completion.d/narbor\n" +
			"zsh:  narbor completion zsh > \"${fpath[1]}/_narbor\"\n" +
			"fish: narbor completion fish > ~/.config/fish/completions/narbor.fish",
		Action: func(c *cli.Context) error {
			var script string
			switch shell := c.Args().First(); shell {
			case "bash":
				script = bashCompletion
			case "zsh":
				script = zshCompletion
			case "fish":
				var err error
				if script, err = c.App.ToFishCompletion(); err != nil {
					return err
				}
			default:
				return codedError{fmt.Errorf("%q is none of bash, zsh, fish", shell), exitUsage}
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}
