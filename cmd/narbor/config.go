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

	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/p2p/discovery"
	"narbor/p2p/peers"
	"narbor/store/upstream"
	"narbor/trust"
)

// maxConfigLen bounds a configuration file. One with every setting takes a few kilobytes.
const maxConfigLen = 1 << 20

// A setting is a flag as a configuration file gives it, in the line that its name is in.
type setting struct {
	name   string
	values []string
	line   int
}

// readConfig reads a configuration file for a command with these flags. Its error has a line for each mistake, with the
// file's name and the line's number.
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
		return nil, exit.With(fmt.Errorf("%s: longer than %s", file, dashboard.Amount(maxConfigLen)), exit.Usage)
	}
	p := configParser{file: file, text: text, dec: json.NewDecoder(bytes.NewReader(text))}
	if p.parse(flags); len(p.errs) > 0 {
		return nil, exit.With(errors.Join(p.errs...), exit.Usage)
	}
	return p.settings, nil
}

// A configParser reads a configuration file. It is strict: a key that is unknown or there twice is an error, as is a
// value of another kind than its flag's. It goes on after such an error, and ends at one of syntax.
type configParser struct {
	file     string
	text     []byte
	dec      *json.Decoder
	settings []setting
	errs     []error
}

func (p *configParser) line() int { return p.lineAt(p.dec.InputOffset()) }

func (p *configParser) lineAt(offset int64) int {
	return 1 + bytes.Count(p.text[:min(offset, int64(len(p.text)))], []byte("\n"))
}

func (p *configParser) fail(line int, err error) {
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %w", p.file, line, err))
}

// failSyntax reports an error of the decoder. The line is taken from the error of Unmarshal: its offsets count from the
// beginning of the file.
func (p *configParser) failSyntax(err error) {
	line := p.line()
	if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(p.text, new(any))); ok {
		line = p.lineAt(syntax.Offset)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		line, err = p.lineAt(int64(len(p.text))), errors.New("the JSON object has no end: EOF")
	}
	p.fail(line, err)
}

func (p *configParser) parse(flags []cli.Flag) {
	known := map[string]cli.Flag{}
	for _, f := range flags {
		if name := f.Names()[0]; name != "config" {
			known[name] = f
		}
	}
	p.dec.UseNumber()
	if t, err := p.dec.Token(); err != nil || t != json.Delim('{') {
		p.fail(p.line(), errors.New(`not a JSON object such as {"upload-rate": "10MiB"}`))
		return
	}
	for p.dec.More() {
		if err := p.parseOne(known); err != nil {
			p.failSyntax(err)
			return
		}
	}
	if _, err := p.dec.Token(); err != nil { // the brace
		p.failSyntax(err)
		return
	}
	if _, err := p.dec.Token(); err != io.EOF {
		p.fail(p.line(), errors.New("there is something after the JSON object"))
	}
}

// parseOne reads a name and its value. Its error is one of syntax.
func (p *configParser) parseOne(known map[string]cli.Flag) error {
	key, err := p.dec.Token()
	if err != nil {
		return err
	}
	name, _ := key.(string)
	line := p.line()
	var v any
	if err := p.dec.Decode(&v); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	f := known[name]
	if f == nil {
		p.fail(line, fmt.Errorf("there is no setting %q%s; see narbor run --help", name, nearest(name, known)))
		return nil
	}
	if slices.ContainsFunc(p.settings, func(s setting) bool { return s.name == name }) {
		p.fail(line, fmt.Errorf("%q is there twice", name))
		return nil
	}
	values, err := configValues(f, v)
	if err != nil {
		p.fail(line, fmt.Errorf("%q must be %w", name, err))
		return nil
	}
	p.settings = append(p.settings, setting{name, values, line})
	return nil
}

// nearest returns a hint at a known setting that differs from name only in case, hyphens, underscores or a final s.
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

// configValues converts a value to the arguments of the flag. The error names the wanted kind of value.
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

// applyConfig gives the flags that are set neither on the command line nor in the environment the values in the file of
// --config, if there is one. It returns where each of these is set, as FILE:LINE.
func applyConfig(c *cli.Context) (places map[string]string, err error) {
	file := c.String("config")
	if file == "" {
		return nil, nil
	}
	settings, err := readConfig(file, c.Command.Flags)
	if err != nil {
		return nil, err
	}
	places = map[string]string{}
	var errs []error
	for _, s := range settings {
		if c.IsSet(s.name) {
			continue
		}
		places[s.name] = fmt.Sprintf("%s:%d", file, s.line)
		for _, v := range s.values {
			if err := c.Set(s.name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %q: %w", places[s.name], s.name, err))
			}
		}
	}
	if len(errs) > 0 {
		return nil, exit.With(errors.Join(errs...), exit.Usage)
	}
	return places, nil
}

// checkValues reports all errors in the values of `narbor run` that can be found on any machine, each with the place
// where the flag is set if that is a file.
func checkValues(c *cli.Context, places map[string]string) error {
	var errs []error
	for _, e := range valueErrors(c) {
		if place := places[e.name]; place != "" {
			e.err = fmt.Errorf("%s: %w", place, e.err)
		}
		errs = append(errs, e.err)
	}
	if len(errs) == 0 {
		return nil
	}
	return exit.With(errors.Join(errs...), exit.Usage)
}

func valueErrors(c *cli.Context) (out []valueError) {
	check := func(name string, err error) {
		if err != nil {
			out = append(out, valueError{name, err})
		}
	}
	if c.Uint("port") > 65535 {
		check("port", fmt.Errorf("--port %d is not a TCP port", c.Uint("port")))
	}
	for _, addr := range c.StringSlice("listen") {
		check("listen", checkListen(addr))
	}
	out = append(out, logErrors(c)...)
	_, err := spoolSize(c, "")
	check("spool-size", err)
	_, err = diskSize(c, "min-free", "")
	check("min-free", err)
	_, err = uploadRate(c)
	check("upload-rate", err)
	_, err = downloadRate(c)
	check("download-rate", err)
	if _, err := parseShare(c.String("share")); err != nil {
		check("share", fmt.Errorf("--share: %w", err))
	}
	if _, err := parseShareSources(c.String("share-sources"), false); err != nil {
		check("share-sources", fmt.Errorf("--share-sources: %w", err))
	}
	if name := c.String("name"); name != "" {
		if err := peers.CheckName(name); err != nil {
			check("name", fmt.Errorf("--name %.70q %w", name, err))
		}
	}
	if _, err := trust.ParseKeys(c.StringSlice("trusted-key")); err != nil {
		check("trusted-key", fmt.Errorf("--trusted-key: %w", err))
	}
	for _, flag := range []string{"share-key", "circle-key"} {
		for _, name := range c.StringSlice(flag) {
			if name == "" || strings.ContainsAny(name, ": ") {
				check(flag, fmt.Errorf("--%s %q is not the name of a key: give what stands before the colon, such as cache.example.org-1",
					flag, name))
			}
		}
	}
	if _, err := gitRefs(c); err != nil {
		check("git-refs", err)
	}
	for _, url := range c.StringSlice("upstream") {
		check("upstream", checkUpstream(url))
	}
	check("peer", discovery.Config{Peers: c.StringSlice("peer")}.Check())
	check("interface", discovery.Config{AllowInterfaces: c.StringSlice("interface")}.Check())
	check("no-interface", discovery.Config{DenyInterfaces: c.StringSlice("no-interface")}.Check())
	return out
}

func checkListen(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("--listen %q: %w: give an address with a port, such as 127.0.0.1:6272", addr, err)
	}
	return nil
}

// checkUpstream connects to nothing.
func checkUpstream(url string) error {
	u, err := upstream.Open(upstream.Config{URL: url})
	if err != nil {
		return fmt.Errorf("--upstream: %w", err)
	}
	_ = u.Close() // it has done nothing
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
		Description: "Unknown settings, values of the wrong kind and impossible values are errors; each is printed with its line. " +
			"Whether files, addresses\n" +
			"and interfaces exist is not looked at: the file may be for another machine.\n\n" +
			"Example: narbor config check narbor.json",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return exit.With(fmt.Errorf("check which file? Say one, not %q", c.Args().Slice()), exit.Usage)
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
	places, err := applyConfig(c)
	if err != nil {
		return err
	}
	return checkValues(c, places)
}
