package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func manCommand() *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page",
		Description: "Examples:\n   narbor man | man -l -\n   narbor man > /usr/local/share/man/man8/narbor.8",
		Action: func(c *cli.Context) error {
			describe(c.App.Commands)
			page, err := c.App.ToManWithSection(8)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.App.Writer, page)
			return err
		},
	}
}

// describe puts descriptions, with exit codes and examples, where the page is made from.
func describe(commands []*cli.Command) {
	for _, c := range commands {
		c.UsageText = c.Description
		describe(c.Subcommands)
	}
}
