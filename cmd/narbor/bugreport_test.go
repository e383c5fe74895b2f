package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/doctor"
	"narbor/cmd/narbor/exit"
	"narbor/narserve/stats"
	"narbor/store/storetest"
)

func TestRedactorNumbersPeersAndAddresses(t *testing.T) {
	r := newRedactor()
	for _, c := range []struct{ in, want string }{
		{"/ip4/192.168.1.23/tcp/6273", "IPv4 private, network 1, machine 1, port 6273"},
		{"192.168.1.24:6274", "IPv4 private, network 1, machine 2, port 6274"},
		{"/ip4/192.168.1.23/tcp/6273/p2p/" + idNAS, "IPv4 private, network 1, machine 1, port 6273"},
		{"/ip6zone/eth0/ip6/fe80::1234/tcp/6273", "IPv6 link-local, network 2, machine 3, port 6273"},
		{"[2001:db8::1]:6273", "IPv6 public, network 3, machine 4, port 6273"},
		{"203.0.113.7", "IPv4 public, network 4, machine 5"},
		{"127.0.0.1:6272", "IPv4 loopback, port 6272"},
		{"nas.example.org", "name 1"},
		{"vsock:3:6273", "vsock 1"},
	} {
		if got := r.address(c.in); got != c.want {
			t.Errorf("address(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	if got := []string{r.peer(idNAS), r.peer(idDesk), r.peer(idNAS)}; !slices.Equal(got, []string{"peer-1", "peer-2", "peer-1"}) {
		t.Errorf("peers are %q", got)
	}
	if got := []string{r.iface("enx001122334455"), r.iface("alices-net"), r.key("desk-1"), r.key("cache.nixos.org-1")}; !slices.Equal(got,
		[]string{"enx 1", "other 2", "key-1", "cache.nixos.org-1"}) {
		t.Errorf("interfaces and keys are %q", got)
	}
	if got := phrases("open /home/alice/x: permission denied"); got != "permission denied" {
		t.Errorf("phrases = %q", got)
	}
}

// marks are names as they may be anywhere in what narbor knows: each in the form of one kind of thing.
var marks = []string{"markhost.example.net", "markuser", "markpkg-1.2", "markgroup", "markkey-1", "/home/markuser/markdir", "198.51.100.77",
	"2001:db8:6d61::726b", "12D3KooWMarkMarkMarkMarkMarkMarkMarkMarkMarkMarkMark",
	"0jqd0rlxzra1rs38rdxl43yh6rxchgc6-markpkg-1.2", "markif0"}

// unmarked fails the test if a part of a report has a mark in it.
func unmarked(t *testing.T, name string, text []byte) {
	t.Helper()
	low := strings.ToLower(string(text))
	for _, mark := range []string{"mark", "198.51.100", "2001:db8", "0jqd0r"} {
		if at := strings.Index(low, mark); at >= 0 {
			t.Errorf("%s has %q in it: …%s…", name, mark, low[max(0, at-60):min(len(low), at+60)])
		}
	}
}

// fill sets every string, list and map below v, with marks in turn.
func fill(v reflect.Value, n *int) {
	mark := func() string { *n++; return marks[*n%len(marks)] }
	switch v.Kind() {
	case reflect.String:
		v.SetString(mark())
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), len(marks), len(marks)))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range marks {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(value, n)
			v.SetMapIndex(key, value)
		}
	}
}

// Every string that narbor tells is a mark, and so is all that other programs print: none is in the report.
func TestReportHasNoNames(t *testing.T) {
	n := 0
	mux := http.NewServeMux()
	for path, v := range map[string]any{"/status": new(control.Status), "/peers": new(control.PeerList), "/keys": new(control.KeyList),
		"/config": new(control.ConfigShow),
		"/stats":  new(stats.Account)} {
		mux.HandleFunc(path, control.Answer(func(*http.Request) (any, error) {
			fill(reflect.ValueOf(v).Elem(), &n) // with other marks in the same fields each time
			if show, ok := v.(*control.ConfigShow); ok {
				for _, f := range runFlags() {
					show.Settings = append(show.Settings,
						control.Setting{Name: f.Names()[0], Values: marks, Origin: "file", From: marks[5]})
				}
			}
			return v, nil
		}))
	}
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })

	bin := t.TempDir()
	all := strings.Join(marks, " ")
	journal := `2026-11-28T08:00:00+0000 narbor[9]: INFO  p2p  neighbour joined  {"peer": "` + marks[8] +
		`", "addr": "/ip4/198.51.100.77/tcp/6273", "via": "mdns", "path": "` + marks[9] + `"}
2026-11-28T08:00:01+0000 narbor[9]: WARN  p2p  peer struck  {"peer": "` + marks[8] + `", "reason": "` + all +
		`", "strikes": 2, "interface": "markif0", "err": "` + all + `: connection refused"}
2026-11-28T08:00:02+0000 narbor[9]: DEBUG  mdns  ` + all + `
2026-11-28T08:00:02+0000 narbor[9]: WARN  http.server  http: ` + all + `
2026-11-28T08:00:03+0000 narbor[9]:   store       ` + all + `
2026-11-28T08:00:04+0000 narbor[9]: panic: ` + all + `
2026-11-28T08:00:04+0000 narbor[9]: narbor/p2p.(*Node).Fetch(0xc000123, "markpkg")
2026-11-28T08:00:04+0000 narbor[9]: 	/home/markuser/narbor/p2p/fetch.go:12 +0x1d
2026-11-28T08:00:05+0000 markhost systemd[1]: ` + all + "\n"
	for name, text := range map[string]string{"nix": "nix (Nix) 2.34.7 " + all, "journalctl": journal} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\ncat <<'END'\n"+text+"\nEND\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for range len(marks) {
		parts := collect(t.Context(), control.Client{Paths: []string{socket}, Timeout: control.Timeout})
		for _, p := range parts {
			unmarked(t, p.name, p.text)
			for name, want := range map[string][]string{"nix.txt": {"nix (Nix) 2.34.7"},
				"status.json": {`"strikes": 7`, `"id": "peer-`, `"network`},
				"log.txt": {`INFO  p2p  neighbour joined  {"addr":"IPv4 public, network `, "connection refused", "narbor/p2p.(*Node).Fetch",
					`"strikes":2`}} {
				for _, w := range want {
					if p.name == name && runtime.GOOS == "linux" && !strings.Contains(string(p.text), w) {
						t.Errorf("%s lacks %s:\n%s", name, w, p.text)
					}
				}
			}
		}
	}
	l.Close()
	for _, p := range collect(t.Context(),
		control.Client{Paths: []string{filepath.Join(bin, "markdir", "none.sock")}, Timeout: control.Timeout}) {
		unmarked(t, p.name+" of a narbor that does not run", p.text)
	}
}

// A report has log messages in it as they are, so each must be a constant.
func TestLogMessagesAreConstants(t *testing.T) {
	var files []string
	for _, dir := range []string{".", "../../p2p", "../../narserve", "../../store", "../../trust"} {
		before := len(files)
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == "testdata" {
				return filepath.SkipDir
			}
			if strings.HasSuffix(path, ".go") {
				files = append(files, path)
			}
			return err
		})
		if err != nil || len(files) == before {
			t.Fatalf("%s: %v", dir, err)
		}
	}
	calls := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Debug", "Info", "Warn", "Error", "Log"}, sel.Sel.Name) || len(call.Args) == 0 {
				return true
			}
			logger := types.ExprString(sel.X)
			if logger = logger[strings.LastIndexByte(logger, '.')+1:]; logger != "log" && logger != "Log" {
				return true
			}
			message := call.Args[0]
			if sel.Sel.Name == "Log" {
				message = call.Args[1]
			}
			calls++
			if lit, ok := message.(*ast.BasicLit); !ok || lit.Kind != token.STRING {
				t.Errorf("%s: the message is not a string literal", fset.Position(call.Pos()))
			}
			return true
		})
	}
	if calls < 50 {
		t.Errorf("only %d calls of a logger were found", calls)
	}
}

// Each code of a finding that stands in the program's text is kept in a report.
func TestReportKnowsEveryCode(t *testing.T) {
	files, err := filepath.Glob("*.go")
	checks, err2 := filepath.Glob("doctor/*.go")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	rule, seen := findingsRule(), 0
	for _, file := range append(files, checks...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			pair, ok := n.(*ast.KeyValueExpr)
			if !ok || types.ExprString(pair.Key) != "Code" {
				return true
			}
			code := types.ExprString(pair.Value)
			if lit, ok := pair.Value.(*ast.BasicLit); ok {
				code = strings.Trim(lit.Value, `"`)
			} else if code == "doctor.CodeOtherKeys" {
				code = doctor.CodeOtherKeys
			} else {
				t.Errorf("%s: the code %s is no literal: name it in this test", file, code)
			}
			seen++
			kept, _ := json.Marshal(rule(nil, []any{map[string]any{"code": code}}))
			if string(kept) != `[{"code":"`+code+`"}]` {
				t.Errorf("%s: a report has %s of a finding with the code %s; add it to findingsRule", file, kept, code)
			}
			return true
		})
	}
	if seen < 12 {
		t.Errorf("only %d codes were found", seen)
	}
}

func TestReportOfRunningNarborHasNoNames(t *testing.T) {
	cacheDir, socket := t.TempDir(), filepath.Join(t.TempDir(), "s.sock")
	top, key := makeClosure(t, cacheDir)
	holder := started(t, "--cache-dir", cacheDir, "--trusted-key", key)
	startedAt(t, socket, "--trusted-key", key, "--peer", peerArg(t, holder), "--peer", "nas.secret.example", "--peer", "192.0.2.77",
		"--group-secret-file", "",
		"--upstream", "http://hushhush@127.0.0.1:1", "--upstream", "http://me:hush@hush@127.0.0.1:1")
	for _, what := range [][]string{{"status"}, {"status", "--json"}, {"config", "show"}, {"config", "show", "--json"},
		{"why", top.Path.String()}} {
		if out, _, err := narbor(t.Context(), append(what, "--socket", socket)...); strings.Contains(out, "hush") ||
			!strings.Contains(out, "xxxxx@127.0.0.1") && what[0] != "why" {
			t.Errorf("%q says %s, %v, with a token in it or without the upstream", what, out, err)
		}
	}
	if _, _, err := narbor(t.Context(), "why", top.Path.String(), "--socket", socket); err != nil && exit.Code(err) != exit.NotFound {
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
	for _, want := range []string{"status.json", "doctor.json", "config.json", "peers.json", "keys.json", "stats.json", "version.json",
		"nix.txt"} {
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
	var show control.ConfigShow
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
	if out, _, err := narbor(t.Context(), "config", "nix", "--socket", socket); err != nil ||
		!strings.HasPrefix(out, "extra-substituters = http://127.0.0.1:") {
		t.Errorf("config nix = %q, %v", out, err)
	}
	shown := control.ConfigShow{Settings: []control.Setting{{Name: "peer", Values: []string{"nas", "10.1.2.3"}, Origin: "flag"},
		{Name: "upload-rate", Values: []string{"10MB"}, Origin: "environment", From: "NARBOR_UPLOAD_RATE"},
		{Name: "spool-size", Values: []string{"25%"}, Origin: "file", From: "/etc/narbor.json"},
		{Name: "group-secret-file", Origin: "default"}}}
	golden(t, "config", func(s screen) { printConfig(shown, s) })
}

// Every code that the health of narbor has is kept in a report.
func TestReportKeepsTheCodesOfFindings(t *testing.T) {
	for _, m := range regexp.MustCompile(`Code(?:: | = control.SeverityInfo, )"([a-z-]+)"`).FindAllStringSubmatch(storetest.ReadText(t,
		"health.go"), -1) {
		got, err := keptOf(newRedactor(), []map[string]string{{"code": m[1]}}, findingsRule())
		if err != nil || !strings.Contains(got, m[1]) {
			t.Errorf("of the code %s a report has %s, %v", m[1], got, err)
		}
	}
}
