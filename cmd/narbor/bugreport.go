package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/doctor"
)

// maxReportLog is how many lines of the log go into a report, and maxReportPart how many bytes of anything.
const maxReportLog, maxReportPart = "2000", 4 << 20

func bugreportCommand() *cli.Command {
	return &cli.Command{
		Name:  "bugreport",
		Usage: "collect what helps others to help you, without names and addresses",
		Description: "It holds the status, the diagnosis, the settings, the statistics, and the end of the log if there is a journal.\n" +
			"Of each only listed fields are kept: numbers, times, choices and constant texts. Peers, addresses, networks,\n" +
			"interfaces and keys are numbered; names of hosts, users and packages, store paths and files are left out.\n" +
			"Look through it before you send it: tar xzOf FILE | less\n\n" +
			"Example: sudo narbor bugreport --to /tmp/narbor.tar.gz",
		Flags: append(controlFlags(), &cli.StringFlag{Name: "to",
			Usage: "`FILE` to write, or - for standard output (default: narbor-bugreport-<date>.tar.gz here)"}),
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
		}{control.Schema, to, files})
	}
	fmt.Fprintf(c.App.Writer, "%s (%s)\nLook through it before you send it: tar xzOf %s | less\n", to, dashboard.Amount(int64(len(report))),
		to)
	return nil
}

type part struct {
	name string
	text []byte
}

// collect gathers the parts of a report by the rules of reportfields.go. A part that cannot be read has the error
// instead.
func collect(ctx context.Context, ctl control.Client) []part {
	r := newRedactor()
	var parts []part
	add := func(name, text string, err error) {
		if err != nil {
			text = "cannot be had: " + phrases(err.Error()) + "\n"
		}
		parts = append(parts, part{name, []byte(text)})
	}
	addJSON := func(name string, v any, keep keeper, err error) {
		text, err2 := keptOf(r, v, keep)
		add(name, text, errors.Join(err, err2))
	}
	for _, p := range []struct {
		name string
		keep keeper
	}{{"status", statusRule()}, {"config", configRule()}, {"peers", peersRule()}, {"keys", keysRule()}, {"stats", statsRule()}} {
		var v any
		err := ctl.Get(ctx, "/"+p.name, &v)
		addJSON(p.name+".json", v, p.keep, err)
	}
	addJSON("version.json", thisVersion(), versionRule(), nil)
	addJSON("doctor.json", Diagnosis{Schema: control.Schema, Findings: doctor.Diagnose(ctx, ctl, doctor.Checks())}, doctorRule(), nil)
	text, err := doctor.Output(ctx, "nix", "--version")
	add("nix.txt", nixVersion.FindString(string(text))+"\n", err)
	if runtime.GOOS == "linux" {
		text, err = doctor.Output(ctx, "journalctl", "--no-pager", "--output=short-iso", "--no-hostname", "--lines="+maxReportLog,
			"--unit=narbor.service")
		add("log.txt", logText(r, string(text[:min(len(text), maxReportPart)])), err)
	}
	return parts
}

// keptOf prints as JSON what a rule keeps of a value.
func keptOf(r *redactor, v any, keep keeper) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	var plain any
	if err := json.Unmarshal(text, &plain); err != nil {
		return "", err
	}
	kept, err := json.MarshalIndent(keep(r, plain), "", "  ")
	return string(kept) + "\n", err
}

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
