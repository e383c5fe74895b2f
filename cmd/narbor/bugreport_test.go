package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRedactor(t *testing.T) {
	t.Setenv("HOME", "/home/alice")
	t.Setenv("USER", "alice")
	r := newRedactor("nas.example.org", "10.1.2.3")
	for in, want := range map[string]string{
		"192.168.1.23:6273 and 127.0.0.1:6272":                           "192.168.1.x:6273 and 127.0.0.1:6272",
		"/ip4/10.62.72.5/tcp/6273/p2p/" + idNAS:                          "/ip4/10.62.72.x/tcp/6273/p2p/peer-1",
		"again " + idNAS + ", other " + idDesk:                           "again peer-1, other peer-2",
		"[fd62:7200::5]:6273 fe80::1%eth0 [::1]:6272":                    "[fd62:7200::x]:6273 fe80::x%eth0 [::1]:6272",
		"2001:db8:1234:5678:9abc:def0:1:2.":                              "2001:db8:1234::x.",
		"at 15:04:05, nix 2.34.7":                                        "at 15:04:05, nix 2.34.7",
		"/home/alice/x /home/bob/y /Users/eve":                           "~/x ~/y ~",
		"/nix/store/0jqd0rlxzra1rs38rdxl43yh6rxchgc6-firefox-141.0/bin":  "/nix/store/0jqd0r…-…/bin",
		"GET /0jqd0rlxzra1rs38rdxl43yh6rxchgc6.narinfo":                  "GET /0jqd0r….narinfo",
		"nas.example.org:6273":                                           "NAME1:6273",
		"https://user:secret@cache.example/x":                            "https://…@cache.example/x",
		"https://token@cache.example/x https://a:b@c@d.example":          "https://…@cache.example/x https://…@d.example",
		"link/ether aa:bb:cc:dd:ee:ff":                                   "link/ether MAC",
		"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=": "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
	} {
		if got := r.text(in); got != want {
			t.Errorf("redacted %q is %q, want %q", in, got, want)
		}
	}
}

func TestBugReportSaysNotWhoYouAre(t *testing.T) {
	cacheDir, socket := t.TempDir(), filepath.Join(t.TempDir(), "s.sock")
	top, key := makeClosure(t, cacheDir)
	holder := started(t, "--cache-dir", cacheDir, "--trusted-key", key)
	startedAt(t, socket, "--trusted-key", key, "--peer", peerArg(t, holder), "--peer", "nas.secret.example", "--peer", "192.0.2.77", "--group-secret-file", "",
		"--upstream", "http://hushhush@127.0.0.1:1", "--upstream", "http://me:hush@hush@127.0.0.1:1")
	for _, what := range [][]string{{"status"}, {"status", "--json"}, {"config", "show"}, {"config", "show", "--json"}, {"why", top.Path.String()}} {
		if out, _, err := narbor(t.Context(), append(what, "--socket", socket)...); strings.Contains(out, "hush") || !strings.Contains(out, "xxxxx@127.0.0.1") && what[0] != "why" {
			t.Errorf("%q says %s, %v, with a token in it or without the upstream", what, out, err)
		}
	}
	if _, _, err := narbor(t.Context(), "why", top.Path.String(), "--socket", socket); err != nil && exit(err) != exitNotFound {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	if out, _, err := narbor(t.Context(), "bugreport", "--to", file, "--socket", socket); err != nil || !strings.Contains(out, file) {
		t.Fatalf("bugreport = %q, %v", out, err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the report has mode %v, %v", st.Mode(), err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	z, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		part, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(h.Name, "narbor-bugreport/"))
		for _, secret := range []string{holder.ID, "nas.secret.example", "192.0.2.77", host, top.Path.Base(), "hush"} {
			if strings.Contains(string(part), secret) {
				t.Errorf("%s has %q in it", h.Name, secret)
			}
		}
	}
	for _, want := range []string{"status.json", "doctor.json", "config.json", "peers.json", "keys.json", "stats.json", "version.json", "nix.txt"} {
		if !slices.Contains(names, want) {
			t.Errorf("the report lacks %s: %q", want, names)
		}
	}
}

func TestConfigShowSaysWhereFrom(t *testing.T) {
	t.Setenv("NARBOR_UPLOAD_RATE", "10MB")
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "narbor.json"), filepath.Join(dir, "s.sock")
	if err := os.WriteFile(file, []byte(`{"spool-size": "100MB", "upload-rate": "20MB", "trusted-key": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	startedAt(t, socket, "--config", file)
	out, _, err := narbor(t.Context(), "config", "show", "--json", "--socket", socket)
	var show ConfigShow
	if err := errors.Join(err, json.Unmarshal([]byte(out), &show)); err != nil {
		t.Fatal(err)
	}
	want := map[string][3]string{"upload-rate": {"10MB", "environment", "NARBOR_UPLOAD_RATE"}, "spool-size": {"100MB", "file", file},
		"port": {"0", "flag", ""}, "share": {"signed", "default", ""}, "no-mdns": {"true", "flag", ""}}
	for _, s := range show.Settings {
		if w, ok := want[s.Name]; ok && [3]string{strings.Join(s.Values, ","), s.Origin, s.From} != w {
			t.Errorf("%s is %+v, want %q", s.Name, s, w)
		}
		delete(want, s.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	if out, _, err := narbor(t.Context(), "config", "nix", "--socket", socket); err != nil || !strings.HasPrefix(out, "extra-substituters = http://127.0.0.1:") {
		t.Errorf("config nix = %q, %v", out, err)
	}
	golden(t, "config", ConfigShow{Settings: []Setting{{Name: "peer", Values: []string{"nas", "10.1.2.3"}, Origin: "flag"},
		{Name: "upload-rate", Values: []string{"10MB"}, Origin: "environment", From: "NARBOR_UPLOAD_RATE"}, {Name: "spool-size", Values: []string{"25%"}, Origin: "file", From: "/etc/narbor.json"},
		{Name: "group-secret-file", Origin: "default"}}}.print)
}
