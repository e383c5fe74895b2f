package main

import (
	"fmt"
	"net/http"

	"github.com/urfave/cli/v2"
)

// parseShare says whether neighbours may have what an upstream has signed, or nothing.
func parseShare(what string) (on bool, err error) {
	switch what {
	case "signed", "none":
		return what == "signed", nil
	}
	return false, fmt.Errorf("%.20q is neither signed nor none", what)
}

func shareCommand() *cli.Command {
	return &cli.Command{
		Name:      "share",
		Usage:     "change what neighbours may have from the narbor that runs here",
		ArgsUsage: "none|signed",
		Description: "none: nothing, from this moment on. Transfers to neighbours end with the block that is being sent.\n" +
			"signed: what an upstream key of this machine's Nix has signed.\n\n" +
			"It lasts until narbor is restarted, which goes by --share of `narbor run`. Nix on this machine gets from\n" +
			"neighbours what it got before. Only root and the user that runs narbor may change it.",
		Flags: []cli.Flag{stateFlag(), socketFlag()},
		Action: func(c *cli.Context) error {
			on, err := parseShare(c.Args().First())
			if err != nil || c.NArg() != 1 {
				return codedError{fmt.Errorf("share what? Say none or signed, not %q", c.Args().Slice()), exitUsage}
			}
			paths, err := socketPaths(c)
			if err != nil {
				return err
			}
			if _, err := callControl(c.Context, paths, http.MethodPut, "/share", c.Args().First()); err != nil {
				return err
			}
			if on {
				fmt.Fprintln(c.App.Writer, "Neighbours may have what an upstream has signed, until narbor is restarted.")
			} else {
				fmt.Fprintln(c.App.Writer, "Neighbours get nothing any more, until narbor is restarted.")
			}
			return nil
		},
	}
}
