package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/urfave/cli/v2"
)

// maxReportLog is how many lines of the log go into a report, and maxReportPart how many bytes of anything.
const maxReportLog, maxReportPart = "2000", 4 << 20

func bugreportCommand() *cli.Command {
	return &cli.Command{
		Name:  "bugreport",
		Usage: "collect what somebody needs who is to help you, without what says who you are",
		Description: "It holds the status, the diagnosis, the settings, the accounts, and the end of the log if there is a journal.\n" +
			"Names of hosts, users and packages are taken out, home directories too; of addresses the network is left,\n" +
			"and peers are numbered. Look through it before you send it: tar xzOf FILE | less\n\n" +
			"Example: sudo narbor bugreport --to /tmp/narbor.tar.gz",
		Flags: append(controlFlags(), &cli.StringFlag{Name: "to", Usage: "`FILE` to write, or - for standard output (default: narbor-bugreport-<date>.tar.gz here)"}),
		Action: func(c *cli.Context) error {
			ctl, err := newControl(c)
			if err != nil {
				return err
			}
			var b bytes.Buffer
			files, err := writeReport(&b, collect(c.Context, ctl))
			if err != nil {
				return err
			}
			return saveReport(c, b.Bytes(), files)
		},
	}
}

func saveReport(c *cli.Context, report []byte, files []string) error {
	to := c.String("to")
	if to == "-" {
		_, err := c.App.Writer.Write(report)
		return err
	}
	if to == "" {
		to = "narbor-bugreport-" + time.Now().Format("20060102-150405") + ".tar.gz"
	}
	if err := os.WriteFile(to, report, 0o600); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, struct {
			Schema int      `json:"schema"`
			File   string   `json:"file"`
			Parts  []string `json:"parts"`
		}{jsonSchema, to, files})
	}
	fmt.Fprintf(c.App.Writer, "%s (%s)\nLook through it before you send it: tar xzOf %s | less\n", to, amount(int64(len(report))), to)
	return nil
}

// A part is a file of a report.
type part struct {
	name string
	text []byte
}

// collect gathers what there is, redacted. What cannot be had says why.
func collect(ctx context.Context, ctl control) []part {
	var list PeerList
	var show ConfigShow
	_ = ctl.get(ctx, "/peers", &list) // the parts say that it failed
	_ = ctl.get(ctx, "/config", &show)
	var given []string
	for _, n := range list.Named {
		given = append(given, n.Text)
	}
	for _, s := range show.Settings {
		if s.Name == "peer" || s.Name == "allow-host" {
			given = append(given, s.Values...)
		}
	}
	r := newRedactor(given...)
	var parts []part
	add := func(name string, text []byte, err error) {
		if err != nil {
			text = []byte(err.Error() + "\n")
		}
		parts = append(parts, part{name, []byte(r.text(string(text[:min(len(text), maxReportPart)])))})
	}
	for name, v := range map[string]any{"version.json": thisVersion(), "doctor.json": diagnose(ctx, ctl, checks())} {
		text, err := json.MarshalIndent(v, "", "  ")
		add(name, text, err)
	}
	for _, what := range []string{"status", "config", "peers", "keys", "stats"} {
		var v any
		err := ctl.get(ctx, "/"+what, &v)
		text, _ := json.MarshalIndent(v, "", "  ")
		add(what+".json", text, err)
	}
	text, err := output(ctx, "nix", "--version")
	add("nix.txt", text, err)
	if runtime.GOOS == "linux" {
		text, err = output(ctx, "journalctl", "--no-pager", "--output=short-iso", "--no-hostname", "--lines="+maxReportLog, "--unit=narbor.service")
		add("log.txt", text, err)
	}
	return parts
}

// writeReport packs the parts, and returns their names.
func writeReport(w io.Writer, parts []part) (names []string, err error) {
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, p := range parts {
		h := &tar.Header{Name: "narbor-bugreport/" + p.name, Mode: 0o644, Size: int64(len(p.text)), ModTime: time.Now()}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(p.text); err != nil {
			return nil, err
		}
		names = append(names, p.name)
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	return names, z.Close()
}
