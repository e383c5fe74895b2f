package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/doctor"
	"narbor/cmd/narbor/exit"
	"narbor/store/nixconf"
)

func configNixCommand() *cli.Command {
	return &cli.Command{
		Name:  "nix",
		Usage: "print the line for nix.conf, or change nix.conf safely",
		Description: "The line belongs below any substituters line, which would undo it; nix-daemon reads it when it is restarted.\n" +
			"--add and --remove change the file that Nix reads last, as a whole and keeping its mode, owner and links. They\n" +
			"refuse a file of another tool, and put the file back if any other setting of Nix would change by it.\n\n" +
			"Example: sudo narbor config nix --add \"$(narbor config nix)\"",
		Flags: append(controlFlags(),
			&cli.StringFlag{Name: "add", Usage: "add `LINE`, which is extra-substituters or extra-trusted-public-keys with one value"},
			&cli.StringFlag{Name: "remove", Usage: "take out the line at `FILE:NUMBER`, which sets require-sigs"}),
		Action: func(c *cli.Context) error {
			switch {
			case c.IsSet("add") && c.IsSet("remove"):
				return exit.With(errors.New("--add and --remove are two changes: make them one by one"), exit.Usage)
			case c.IsSet("add"):
				return addLine(c, c.String("add"))
			case c.IsSet("remove"):
				return dropLine(c, c.String("remove"))
			}
			return printNixLine(c)
		},
	}
}

func printNixLine(c *cli.Context) error {
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	url := doctor.NixURL
	var st control.Status
	if err := ctl.Get(c.Context, "/status", &st); err == nil && len(st.HTTP) > 0 {
		url = "http://" + st.HTTP[0]
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, struct {
			Schema int               `json:"schema"`
			Lines  map[string]string `json:"lines"`
		}{control.Schema, map[string]string{"extra-substituters": url}})
	}
	_, err = fmt.Fprintln(c.App.Writer, "extra-substituters =", url)
	return err
}

// addLine adds a line to the system's configuration of Nix, or to the file that [addToNix] chooses, such as the
// caller's own nix.conf if that sets the list.
func addLine(c *cli.Context, line string) error {
	words := strings.Fields(line)
	if len(words) != 3 || words[0] != "extra-substituters" && words[0] != "extra-trusted-public-keys" || words[1] != "=" ||
		strings.ContainsAny(line, "#\n\r") {
		return exit.With(fmt.Errorf("--add %q: give a line such as %q", line, "extra-substituters = "+doctor.NixURL),
			exit.Usage)
	}
	comment := ""
	if words[0] == "extra-substituters" {
		comment = confMark
	}
	edit, err := nixconf.AddTo(words[0], words[2], comment)
	if err != nil {
		return err
	}
	return tellEdit(c, edit)
}

func dropLine(c *cli.Context, at string) error {
	colon := strings.LastIndexByte(at, ':')
	n, err := strconv.Atoi(at[colon+1:])
	if colon < 0 || err != nil {
		return exit.With(fmt.Errorf("--remove %q: give a file and a line, such as %s:3", at, doctor.NixConfFile), exit.Usage)
	}
	edit, sets, err := nixconf.RemoveLine(at[:colon], n, "require-sigs")
	if err != nil {
		return err
	}
	if !sets {
		return exit.With(fmt.Errorf("the line at %s does not set require-sigs", at), exit.Usage)
	}
	return tellEdit(c, edit)
}

// tellEdit makes an edit, and says which file it changed.
func tellEdit(c *cli.Context, edit nixconf.Edit) error {
	file, err := edit.Apply(c.Context)
	switch {
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		return fmt.Errorf("%w: run this as root", err)
	case err != nil:
		return err
	case file == "":
		_, err = fmt.Fprintf(c.App.Writer, "%s is so already\n", edit.File)
	default:
		_, err = fmt.Fprintf(c.App.Writer, "changed %s\n", file)
	}
	return err
}
