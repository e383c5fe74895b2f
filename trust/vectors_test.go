package trust_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"narbor/store"
	"narbor/trust"
)

// A vector is a claim that testdata/gen has made with real Nix, what must come of it, and what Nix 2.8 thought.
type vector struct {
	name      string
	keys      []string
	want      string // one of the outcomes that judge returns
	nix       string // "yes", "no: why" or "dies: how"
	why       string // given exactly where Nix and narbor differ
	narinfo   string
	nar       []byte
	hasNAR    bool
	passedOn  string // the claim that narbor passes on, which Nix has accepted
	hasPassed bool
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	for _, f := range files {
		ar, err := txtar.ParseFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range ar.Files {
			v := parseVector(t, string(entry.Data))
			v.name = strings.TrimSuffix(filepath.Base(f), ".txtar") + "/" + entry.Name
			vs = append(vs, v)
		}
	}
	return vs
}

func parseVector(t testing.TB, text string) vector {
	var v vector
	section, body := "", map[string]string{}
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]\n")
			body[section] = ""
		} else {
			body[section] += line
		}
	}
	for line := range strings.Lines(body[""]) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "keys":
			v.keys = strings.Fields(value)
		case "want":
			v.want = value
		case "nix":
			v.nix = value
		case "why":
			v.why = value
		default:
			t.Fatalf("%q is no line of a vector", line)
		}
	}
	v.narinfo = unquote(t, body["narinfo"])
	v.passedOn, v.hasPassed = body["passed on, and Nix accepts it"]
	var encoded string
	encoded, v.hasNAR = body["nar"]
	var err error
	if v.nar, err = base64.StdEncoding.DecodeString(encoded); err != nil {
		t.Fatal(err)
	}
	return v
}

// unquote undoes how a narinfo is written that would not survive as plain text.
func unquote(t testing.TB, s string) string {
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	s, err := strconv.Unquote(strings.TrimSuffix(s, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A memNAR is an archive in memory.
type memNAR struct{ *bytes.Reader }

func (memNAR) Close() error { return nil }

// judge does with a vector what narbor does with a claim and then with the archive.
func (v vector) judge() (outcome string, m trust.Mapping) {
	keys, err := trust.ParseKeys(v.keys)
	if err != nil {
		return "key refused", m
	}
	info, err := store.ParseInfo(v.narinfo)
	if err != nil {
		return "malformed", m
	}
	if m, err = keys.Check(info); err != nil {
		if !errors.Is(err, trust.ErrUntrusted) {
			return err.Error(), m
		}
		return "untrusted", m
	}
	if v.hasNAR {
		if sha256.Sum256(v.nar) != m.NarHash() { // the spool's part of the work
			return "NAR refused", m
		}
		if err := m.CheckNAR(memNAR{bytes.NewReader(v.nar)}); err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				return err.Error(), m
			}
			return "NAR refused", m
		}
	}
	if m.SignedBy() == "" {
		return "content-addressed", m
	}
	return "signed by " + m.SignedBy(), m
}

func (v vector) accepted() bool {
	return v.want == "content-addressed" || strings.HasPrefix(v.want, "signed by ")
}

func TestVectors(t *testing.T) {
	vs := readVectors(t)
	if len(vs) < 500 {
		t.Fatalf("read %d vectors: some are missing", len(vs))
	}
	for _, v := range vs {
		got, m := v.judge()
		if got != v.want {
			t.Errorf("%s: %s, want %s; Nix: %s; narinfo:\n%s", v.name, got, v.want, v.nix, v.narinfo)
		} else if v.accepted() && m.Info().String() != v.passedOn {
			t.Errorf("%s: passes on\n%swant what Nix accepted:\n%s", v.name, m.Info(), v.passedOn)
		}
	}
}

// TestNixBelievesWhatWeBelieve reads what Nix said when the vectors were made: whatever narbor accepts and passes on,
// Nix accepted, and where their verdicts on the claim itself differ, there is a reason.
func TestNixBelievesWhatWeBelieve(t *testing.T) {
	for _, v := range readVectors(t) {
		if v.accepted() != v.hasPassed {
			t.Errorf("%s: accepted is %v, but Nix was asked about what is passed on: %v", v.name, v.accepted(), v.hasPassed)
		}
		if differ := v.accepted() != (v.nix == "yes"); differ != (v.why != "") {
			t.Errorf("%s: want %s, Nix says %s, and the reason for a difference is %q", v.name, v.want, v.nix, v.why)
		}
		if v.want == "content-addressed" && !v.hasNAR {
			t.Errorf("%s: has no archive, so half of the proof is not tested", v.name)
		}
	}
}

// TestPassedOnIsAFixedPoint feeds what narbor passes on to the next narbor.
func TestPassedOnIsAFixedPoint(t *testing.T) {
	for _, v := range readVectors(t) {
		if !v.accepted() {
			continue
		}
		first, m := v.judge()
		v.narinfo = v.passedOn
		second, again := v.judge()
		if first != second || !reflect.DeepEqual(again.Info(), m.Info()) {
			t.Errorf("%s: %s, and passed on it is %s", v.name, first, second)
		}
	}
}
