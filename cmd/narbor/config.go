package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/p2p"
	"narbor/store"
	"narbor/trust"
)

// maxConfigLen bounds a configuration file. One with all that there is to say takes a few kilobytes.
const maxConfigLen = 1 << 20

// configFlag names a file with settings: a JSON object, whose keys are the names of the other flags of `narbor run`, and
// whose values are strings, whole numbers, true and false, and for what is repeatable lists of strings.
func configFlag() cli.Flag {
	return stringFlag("config", "", categoryLog, "read further settings from `FILE`: a JSON object with names of flags, as in {\"peer\": [\"nas\"], \"upload-rate\": \"10MiB\"}; "+
		"flags and the environment have precedence")
}

// A setting is a flag as a configuration file gives it.
type setting struct {
	name   string
	values []string
}

// readConfig reads a configuration file for a command with these flags.
func readConfig(file string, flags []cli.Flag) ([]setting, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigLen+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxConfigLen {
		return nil, codedError{fmt.Errorf("%s: longer than %s", file, amount(maxConfigLen)), exitUsage}
	}
	settings, err := parseConfig(text, flags)
	if err != nil {
		return nil, codedError{fmt.Errorf("%s: %w", file, err), exitUsage}
	}
	return settings, nil
}

// parseConfig is strict: a key that is unknown or there twice is an error, as is a value of another kind than its flag's.
func parseConfig(text []byte, flags []cli.Flag) (settings []setting, err error) {
	known := map[string]cli.Flag{}
	for _, f := range flags {
		if name := f.Names()[0]; name != "config" {
			known[name] = f
		}
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New(`not a JSON object such as {"upload-rate": "10MiB"}`)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := key.(string)
		f := known[name]
		if f == nil {
			return nil, fmt.Errorf("there is no setting %q%s; see narbor run --help", name, nearest(name, known))
		}
		if slices.ContainsFunc(settings, func(s setting) bool { return s.name == name }) {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		var v any
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		values, err := configValues(f, v)
		if err != nil {
			return nil, fmt.Errorf("%q must be %w", name, err)
		}
		settings = append(settings, setting{name, values})
	}
	if _, err := dec.Token(); err != nil { // the brace
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("there is something after the JSON object")
	}
	return settings, nil
}

// nearest suggests the setting that somebody meant who wrote name.
func nearest(name string, known map[string]cli.Flag) string {
	plain := func(s string) string {
		return strings.TrimRight(strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)), "s")
	}
	for other := range known {
		if plain(other) == plain(name) {
			return fmt.Sprintf(", but %q", other)
		}
	}
	return ""
}

// configValues turns a value into what would be written after the flag. Its error says what it must be.
func configValues(f cli.Flag, v any) ([]string, error) {
	switch f.(type) {
	case *cli.BoolFlag:
		if b, ok := v.(bool); ok {
			return []string{fmt.Sprint(b)}, nil
		}
		return nil, errors.New("true or false")
	case *cli.StringSliceFlag:
		list, ok := v.([]any)
		out := []string{}
		for _, one := range list {
			s, isText := one.(string)
			ok = ok && isText && s != "" && !strings.Contains(s, ",") // which the cli package splits at
			out = append(out, s)
		}
		if !ok {
			return nil, errors.New("a list of strings without commas")
		}
		return out, nil
	}
	switch s := v.(type) {
	case string:
		return []string{s}, nil
	case json.Number:
		if !strings.ContainsAny(s.String(), ".eE-") {
			return []string{s.String()}, nil
		}
	}
	return nil, errors.New("a string or a whole number")
}

// applyConfig gives the flags that are set neither on the command line nor in the environment what the file of --config
// says, if there is one.
func applyConfig(c *cli.Context) error {
	file := c.String("config")
	if file == "" {
		return nil
	}
	settings, err := readConfig(file, c.Command.Flags)
	if err != nil {
		return err
	}
	for _, s := range settings {
		if c.IsSet(s.name) {
			continue
		}
		for _, v := range s.values {
			if err := c.Set(s.name, v); err != nil {
				return codedError{fmt.Errorf("%s: %q: %w", file, s.name, err), exitUsage}
			}
		}
	}
	return nil
}

// checkValues reports what is wrong with the values of `narbor run`, as far as that can be told anywhere.
func checkValues(c *cli.Context) error {
	if c.Uint("port") > 65535 {
		return codedError{fmt.Errorf("--port %d is not a TCP port", c.Uint("port")), exitUsage}
	}
	for _, addr := range c.StringSlice("listen") {
		_, port, err := net.SplitHostPort(addr)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return codedError{fmt.Errorf("--listen %q: %w: give an address with a port, such as 127.0.0.1:6272", addr, err), exitUsage}
		}
	}
	if _, err := newLogs(c, io.Discard); err != nil {
		return err
	}
	if _, _, err := spoolLimits(c, ""); err != nil {
		return err
	}
	if _, err := uploadRate(c); err != nil {
		return err
	}
	if _, err := parseShare(c.String("share")); err != nil {
		return codedError{fmt.Errorf("--share: %w", err), exitUsage}
	}
	if _, err := trust.ParseKeys(c.StringSlice("trusted-key")); err != nil {
		return codedError{fmt.Errorf("--trusted-key: %w", err), exitUsage}
	}
	for _, name := range c.StringSlice("share-key") {
		if name == "" || strings.ContainsAny(name, ": ") {
			return codedError{fmt.Errorf("--share-key %q is not the name of a key: give what stands before the colon, such as cache.example.org-1", name), exitUsage}
		}
	}
	for _, url := range c.StringSlice("upstream") {
		u, err := store.OpenUpstream(store.UpstreamConfig{URL: url}) // nobody is asked
		if err != nil {
			return codedError{fmt.Errorf("--upstream: %w", err), exitUsage}
		}
		_ = u.Close() // it has done nothing
	}
	if err := (p2p.Config{Peers: c.StringSlice("peer"), AllowInterfaces: c.StringSlice("interface"), DenyInterfaces: c.StringSlice("no-interface")}).Check(); err != nil {
		return codedError{err, exitUsage}
	}
	return nil
}

func configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "look at settings",
		Description: "A configuration file is a JSON object with names of flags of `narbor run`.\n\n" +
			"Examples:\n   narbor config show\n   narbor config check /etc/narbor.json",
		Subcommands: []*cli.Command{configShowCommand(), configCheckCommand(), configNixCommand()},
	}
}

func configCheckCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "say whether a file would do for --config of `narbor run`",
		ArgsUsage: "FILE",
		Description: "Unknown settings, values of the wrong kind and values that cannot be meant are errors. Whether files, addresses\n" +
			"and interfaces exist is not looked at: the file may be for another machine.\n\n" +
			"Example: narbor config check narbor.json",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return codedError{fmt.Errorf("check which file? Say one, not %q", c.Args().Slice()), exitUsage}
			}
			if err := checkConfig(c.App, c.Args().First()); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.App.Writer, "%s: all well\n", c.Args().First())
			return err
		},
	}
}

// checkConfig reads a file as `narbor run` would with nothing else set.
func checkConfig(app *cli.App, file string) error {
	flags := runFlags()
	for _, f := range flags {
		switch f := f.(type) { // the environment here is not that of the service
		case *cli.StringFlag:
			f.EnvVars = nil
		case *cli.StringSliceFlag:
			f.EnvVars = nil
		case *cli.BoolFlag:
			f.EnvVars = nil
		case *cli.UintFlag:
			f.EnvVars = nil
		}
	}
	set := flag.NewFlagSet("run", flag.ContinueOnError)
	for _, f := range flags {
		if err := f.Apply(set); err != nil {
			return err
		}
	}
	c := cli.NewContext(app, set, nil)
	c.Command = &cli.Command{Name: "run", Flags: flags}
	if err := c.Set("config", file); err != nil {
		return err
	}
	if err := applyConfig(c); err != nil {
		return err
	}
	if err := checkValues(c); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
