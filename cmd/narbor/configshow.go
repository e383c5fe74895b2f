package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
)

// settingsOf returns the settings of a command with the source of each; line has the names of those that no file has
// set. In place of a user and a password in a URL there is xxxxx.
func settingsOf(c *cli.Context, line []string) []control.Setting {
	var all []control.Setting
	for _, f := range c.Command.Flags {
		name := f.Names()[0]
		if name == "help" {
			continue
		}
		s := control.Setting{Name: name, Values: []string{}, Origin: "default"}
		if _, several := f.(*cli.StringSliceFlag); several {
			s.Values = append(s.Values, c.StringSlice(name)...)
		} else if v := fmt.Sprint(c.Value(name)); v != "" {
			s.Values = []string{v}
		}
		variable := setVariable(f)
		switch {
		case variable != "" && sameValue(os.Getenv(variable), s.Values):
			s.Origin, s.From = "environment", variable
		case slices.Contains(line, name):
			s.Origin = "flag"
		case c.IsSet(name):
			s.Origin, s.From = "file", c.String("config")
		}
		for i, v := range s.Values {
			s.Values[i] = control.HideLogin(v, "xxxxx")
		}
		all = append(all, s)
	}
	return all
}

// sameValue reports whether a variable's text means these values: the cli package does not record the origin of a
// value.
func sameValue(text string, values []string) bool {
	if b, err := strconv.ParseBool(text); err == nil && slices.Equal(values, []string{strconv.FormatBool(b)}) {
		return true
	}
	return text == strings.Join(values, ",")
}

// setVariable returns the environment variable that sets a flag, or "".
func setVariable(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	for _, v := range d.GetEnvVars() {
		if os.Getenv(v) != "" {
			return v
		}
	}
	return ""
}

func configShowCommand() *cli.Command {
	return &cli.Command{
		Name:  "show",
		Usage: "what the narbor that runs here goes by, and where each setting comes from",
		Description: "A flag has precedence over the environment, and that over the file of --config.\n\n" +
			"Example: narbor config show --json | jq '.settings[] | select(.origin != \"default\")'",
		Flags: controlFlags(),
		Action: func(c *cli.Context) error {
			settings, err := askRunning[control.ConfigShow](c, "/config")
			if err != nil {
				return err
			}
			return show(c, settings, func(s screen) { printConfig(settings, s) })
		},
	}
}

func printConfig(show control.ConfigShow, s screen) {
	var rows [][]string
	for _, set := range show.Settings {
		value := strings.Join(set.Values, ", ")
		if value == "" {
			value = "-"
		}
		rows = append(rows, []string{set.Name, strings.TrimSpace(set.Origin + " " + set.From), value})
	}
	s.table([]string{"SETTING", "FROM", "VALUE"}, rows, 1)
}
