package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/doctor"
	"narbor/cmd/narbor/exit"
)

// completeTimeout bounds how long a running narbor is waited for when its peers are completed.
const completeTimeout = 500 * time.Millisecond

// A candidate is a word that may come next.
type candidate struct {
	value, description string
}

// files stands for names of files, which the shell knows.
var files = candidate{value: ":files"}

// plainWord matches words that none of the three shells needs to quote. Other candidates are left out.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9@%+=:,./_-]+$`)

// complete answers a completion script: it prints the candidates for the last word, and changes nothing. If a peer
// comes next, it asks the running narbor for its peers.
func complete(ctx context.Context, app *cli.App, args []string) error {
	if len(args) < 2 {
		return exit.With(fmt.Errorf("%s takes a shell and words", completeCommand), exit.Usage)
	}
	shell, words := args[0], args[1:]
	last := words[len(words)-1]
	if shell == "bash" {
		words = joinWords(words)
	}
	current := words[len(words)-1]
	// bash replaces only what follows the last = or : of a word.
	strip := 0
	if shell == "bash" {
		strip = len(current) - len(last)
		if strings.Trim(last, "=:") == "" {
			strip = len(current)
		}
	}
	for _, c := range (completer{app: app}).next(ctx, words[:len(words)-1], current) {
		if err := c.print(app.Writer, shell, current, strip); err != nil {
			return err
		}
	}
	return nil
}

// print writes a candidate if it begins with current, as the script of that shell wants it.
func (c candidate) print(w io.Writer, shell, current string, strip int) error {
	line := c.value
	if c != files {
		if !strings.HasPrefix(c.value, current) || !plainWord.MatchString(c.value) {
			return nil
		}
		switch description, _, _ := strings.Cut(c.description, "\n"); shell {
		case "bash":
			line = c.value[strip:]
		case "zsh":
			line = strings.ReplaceAll(c.value, ":", `\:`) + ":" + description
		case "fish":
			line = c.value + "\t" + description
		}
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// joinWords undoes that bash splits words at = and :, which it takes for words of their own.
func joinWords(words []string) []string {
	var out []string
	glue := false
	for _, w := range words {
		sign := w != "" && strings.Trim(w, "=:") == ""
		if (glue || sign) && len(out) > 0 {
			out[len(out)-1] += w
		} else {
			out = append(out, w)
		}
		glue = sign
	}
	return out
}

type completer struct {
	app  *cli.App
	path []string // names of the command
	cmd  *cli.Command
	args []string          // that are no flags
	set  map[string]string // flags, by their first name
}

// next returns what may follow the words, if current is how it begins.
func (c completer) next(ctx context.Context, words []string, current string) []candidate {
	c.set = map[string]string{}
	only := false // arguments from here on
	for i := 0; i < len(words); i++ {
		word := words[i]
		switch {
		case word == "--" && !only:
			only = true
		case !only && len(word) > 1 && word[0] == '-':
			name, value, given := strings.Cut(strings.TrimLeft(word, "-"), "=")
			f := c.flag(name)
			if f == nil {
				continue
			}
			if takesValue([]cli.Flag{f})[name] && !given {
				if i++; i == len(words) {
					return c.values(f.Names()[0])
				}
				value = words[i]
			}
			c.set[f.Names()[0]] = value
		case !c.enter(word):
			c.args = append(c.args, word)
		}
	}
	if !only && strings.HasPrefix(current, "-") {
		return c.flags(current)
	}
	return c.arguments(ctx)
}

// enter goes to a command of the command, if there is one of that name.
func (c *completer) enter(name string) bool {
	if len(c.args) > 0 {
		return false
	}
	for _, sub := range c.commands() {
		if sub.HasName(name) {
			c.cmd, c.path = sub, append(c.path, sub.Name)
			return true
		}
	}
	return false
}

func (c completer) commands() []*cli.Command {
	if c.cmd == nil {
		return c.app.Commands
	}
	return c.cmd.Subcommands
}

func (c completer) flag(name string) cli.Flag {
	if c.cmd == nil {
		return nil
	}
	for _, f := range c.cmd.Flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// flags returns flags that can still be given, or if current is --flag=…, values.
func (c completer) flags(current string) (out []candidate) {
	if name, _, given := strings.Cut(strings.TrimLeft(current, "-"), "="); given {
		if f := c.flag(name); f != nil {
			for _, v := range c.values(f.Names()[0]) {
				if v != files {
					v.value = "--" + name + "=" + v.value
				}
				out = append(out, v)
			}
		}
		return out
	}
	if c.cmd != nil {
		for _, f := range c.cmd.Flags {
			d, ok := f.(cli.DocGenerationFlag)
			_, given := c.set[f.Names()[0]]
			_, several := f.(*cli.StringSliceFlag)
			if ok && (!given || several) {
				out = append(out, candidate{"--" + f.Names()[0], strings.ReplaceAll(d.GetUsage(), "`", "")})
			}
		}
	} else {
		out = append(out, candidate{"--version", "print the version"})
	}
	return append(out, candidate{"--help", "show help"})
}

func (c completer) arguments(ctx context.Context) (out []candidate) {
	if len(c.args) == 0 {
		for _, sub := range c.commands() {
			if !sub.Hidden {
				out = append(out, candidate{sub.Name, sub.Usage})
			}
		}
	}
	switch strings.Join(c.path, " ") {
	case "doctor":
		for _, ch := range doctor.Checks() {
			if !slices.Contains(c.args, ch.Code) {
				out = append(out, candidate{ch.Code, ch.What})
			}
		}
	case "fetch":
		out = append(out, files)
	}
	if len(c.args) > 0 {
		return out
	}
	switch strings.Join(c.path, " ") {
	case "why", "share explain", "config check", "circle join":
		out = append(out, files)
	case "completion":
		out = append(out, candidate{"bash", "script for bash"}, candidate{"zsh", "script for zsh"}, candidate{"fish", "script for fish"})
	case "ping", "peers block", "peers unblock", "peers rm":
		out = append(out, c.peers(ctx)...)
	}
	return out
}

func (c completer) values(flag string) (out []candidate) {
	words := func(pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, candidate{pairs[i], pairs[i+1]})
		}
	}
	switch command := strings.Join(c.path, " "); flag {
	case "log-level":
		words("debug", "everything", "info", "changes", "warn", "problems", "error", "problems that keep narbor from working")
	case "log-format":
		words("auto", "console, coloured on a terminal", "console", "text", "json", "a JSON object a line")
	case "share":
		words("signed", "what an upstream has signed", "none", "nothing")
	case "share-sources":
		words("group", "members of the group", "all", "every neighbour", "none", "no machine")
	case "git-refs":
		words("refs/heads/*", "all branches", "refs/heads/nixos-*", "branches that begin with nixos-", "refs/tags/*", "all tags")
	case "by":
		words("day", "by day", "peer", "by neighbour", "name", "by package")
	case "for":
		if command == "wait" {
			words("running", "narbor answers", "settled", "it has looked for neighbours", "peers=", "so many neighbours")
		} else {
			words("15m", "a quarter of an hour", "1h", "an hour", "8h", "eight hours", "24h", "a day")
		}
	case "upstream":
		words("https://cache.nixos.org", "the cache of NixOS")
	case "interface", "no-interface":
		all, _ := net.Interfaces() // without them there is nothing to choose from
		for _, i := range all {
			words(i.Name, "network interface")
		}
	case "config", "file", "key", "group-secret-file", "socket", "state-dir", "cache-dir", "git-dir", "to":
		out = append(out, files)
	}
	return out
}

// peers returns the peers that a command takes, as the running narbor knows them.
func (c completer) peers(ctx context.Context) (out []candidate) {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.String("socket", c.set["socket"], "")
	set.String("state-dir", c.set["state-dir"], "")
	ctl, err := newControl(cli.NewContext(c.app, set, nil))
	if err != nil {
		return nil
	}
	ctl.Timeout = completeTimeout
	var list control.PeerList
	if err := ctl.Get(ctx, "/peers", &list); err != nil {
		return nil
	}
	switch c.path[len(c.path)-1] {
	case "rm":
		for _, n := range list.Named {
			if n.From == "added" {
				out = append(out, candidate{n.Text, "added"})
			}
		}
	case "unblock":
		for _, id := range list.Blocked {
			out = append(out, candidate{id, "blocked"})
		}
		for _, b := range list.Banned {
			out = append(out, candidate{b.ID, "banned"})
		}
	default:
		for _, n := range list.Neighbours {
			out = append(out, candidate{n.ID, shortAddr(n.Addr)})
		}
	}
	return out
}
