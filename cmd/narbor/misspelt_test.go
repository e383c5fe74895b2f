package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestMisspeltVariablesHaveANearestName(t *testing.T) {
	commands := []*cli.Command{{Name: "run", Flags: runFlags()},
		{Name: "config", Subcommands: []*cli.Command{{Name: "x", Flags: controlFlags()}}}}
	for variable, want := range map[string]string{
		"NARBOR_UPLOAD_RATE=1MB": "[]", "NARBOR_SOCKET=/s": "[]", "NARBOR_JSON=true": "[]", "PATH=/bin": "[]", "XNARBOR_PROT=1": "[]",
		"NARBOR_UPLOAD_RAET=1MB": "NARBOR_UPLOAD_RATE", "NARBOR_PEERS=nas": "NARBOR_PEER", "NARBOR_UPLOADRATE=1MB": "NARBOR_UPLOAD_RATE",
		"NARBOR_PROT=1": "NARBOR_PORT", "NARBOR_SPOOLSIZE": "NARBOR_SPOOL_SIZE", "NARBOR_TRUSTED_KEYS=": "NARBOR_TRUSTED_KEY",
	} {
		got := fmt.Sprint(misspeltIn([]string{variable}, commands, runFlags()))
		if want == "[]" && got != want || want != "[]" && !strings.HasSuffix(got, " "+want+"}]") {
			t.Errorf("misspeltIn(%s) = %s, want %s", variable, got, want)
		}
	}
}

func TestStatusReportsMisspeltVariables(t *testing.T) {
	t.Setenv("NARBOR_UPLOAD_RAET", "1MB")
	for _, h := range started(t).Health {
		if h.Code == "misspelt" && strings.Contains(h.Text, "NARBOR_UPLOAD_RAET (the nearest name is NARBOR_UPLOAD_RATE)") {
			return
		}
	}
	t.Error("status does not report NARBOR_UPLOAD_RAET")
}

func TestRunWarnsOfMisspeltVariable(t *testing.T) {
	cmd := exec.Command(os.Args[0], "run", "--state-dir", t.TempDir(), "--no-mdns", "--listen", "127.0.0.1:0", "--port", "0",
		"--group-secret-file", "/nowhere")
	cmd.Env = append(os.Environ(), "NARBOR_TEST_IS_NARBOR=1", "NARBOR_UPLOAD_RAET=1MB")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // it ends with the error of --group-secret-file
	if !strings.Contains(out.String(), `{"name": "NARBOR_UPLOAD_RAET", "nearest": "NARBOR_UPLOAD_RATE"}`) {
		t.Errorf("run says %q, want a warning of NARBOR_UPLOAD_RAET", out.String())
	}
}
