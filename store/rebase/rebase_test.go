package rebase_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"narbor/store/rebase"
)

const (
	selfOnly = hash1 + "-foo-1.0>" + new1 + "-foo-1.0"
	upgrade  = hash1 + "-foo-1.0>" + new1 + "-foo-1.1"
	two      = selfOnly + " " + hash2 + "-bar-2.0>" + new2 + "-bar-2.1"
)

// vectors are inputs and the results that are wanted.
var vectors = []struct{ name, pairs, in, want string }{
	{"empty input", two, "", ""},
	{"no store path", two, "nothing of that kind", "nothing of that kind"},
	{"no pairs", "", "/nix/store/" + hash1 + "-foo-1.0", "/nix/store/" + hash1 + "-foo-1.0"},
	{"no pairs and a run of base 32", "", strings.Repeat("a", 100), strings.Repeat("a", 100)},
	{"self-reference", selfOnly, "/nix/store/" + hash1 + "-foo-1.0/bin/foo", "/nix/store/" + new1 + "-foo-1.0/bin/foo"},
	{"whole input", selfOnly, hash1 + "-foo-1.0", new1 + "-foo-1.0"},
	{"hash part alone is the input", upgrade, hash1, new1},
	{"version", upgrade, "/nix/store/" + hash1 + "-foo-1.0/lib", "/nix/store/" + new1 + "-foo-1.1/lib"},
	{"version without its store path", upgrade, "foo-1.0 " + hash1 + "-foo-1.0", "foo-1.0 " + new1 + "-foo-1.1"},
	{"hash part without name", upgrade, "id=" + hash1 + ";", "id=" + new1 + ";"},
	{"hash part with another name", upgrade, hash1 + "-fob-1.0", new1 + "-fob-1.0"},
	{"hash part with a name cut short", upgrade, hash1 + "-foo-1 ", new1 + "-foo-1 "},
	{"hash part with a name that the end cuts off", upgrade, hash1 + "-foo-1.", new1 + "-foo-1."},
	{"hash part with a dash at the end", upgrade, hash1 + "-", new1 + "-"},
	{"hash part with an underscore", upgrade, hash1 + "_foo-1.0", new1 + "_foo-1.0"},
	{"base name with more behind it", upgrade, hash1 + "-foo-1.0.drv", new1 + "-foo-1.1.drv"},
	{"base name of an output", upgrade, hash1 + "-foo-1.0-lib", new1 + "-foo-1.1-lib"},
	{"new name behind the old hash part", upgrade, hash1 + "-foo-1.1", new1 + "-foo-1.1"},
	{"hash part one character short", selfOnly, hash1[:31] + "-foo-1.0", hash1[:31] + "-foo-1.0"},
	{"hash part one character short at the end", selfOnly, hash1[:31], hash1[:31]},
	{"hash part without its first character", selfOnly, hash1[1:] + "-foo-1.0", hash1[1:] + "-foo-1.0"},
	{"hash part in capitals", selfOnly, strings.ToUpper(hash1), strings.ToUpper(hash1)},
	{"hash part with a character that is not of base 32", selfOnly, hash1[:15] + "e" + hash1[16:], hash1[:15] + "e" + hash1[16:]},
	{"hash part in UTF-16", selfOnly, utf16(hash1), utf16(hash1)},
	{"hash part of another path", selfOnly, hash2 + "-bar-2.0", hash2 + "-bar-2.0"},
	{"two references", two, hash1 + "-foo-1.0:" + hash2 + "-bar-2.0", new1 + "-foo-1.0:" + new2 + "-bar-2.1"},
	{"adjacent paths", two, hash1 + "-foo-1.0" + hash2 + "-bar-2.0", new1 + "-foo-1.0" + new2 + "-bar-2.1"},
	{"adjacent hash parts", two, hash1 + hash2 + hash1, new1 + new2 + new1},
	{"one path twice", selfOnly, hash1 + "-foo-1.0 " + hash1 + "-foo-1.0", new1 + "-foo-1.0 " + new1 + "-foo-1.0"},
	{"two references of one name", hash1 + "-bash>" + new1 + "-bash " + hash2 + "-bash>" + new2 + "-bash",
		hash1 + "-bash " + hash2 + "-bash", new1 + "-bash " + new2 + "-bash"},
	{"two old paths for one new path", hash1 + "-bash>" + new1 + "-bash " + hash2 + "-bash>" + new1 + "-bash",
		hash1 + "-bash " + hash2 + "-bash", new1 + "-bash " + new1 + "-bash"},
	{"base-32 characters before it", upgrade, "0123abcd" + hash1 + "-foo-1.0", "0123abcd" + new1 + "-foo-1.1"},
	{"base-32 characters after it", upgrade, hash1 + "0123abcd", new1 + "0123abcd"},
	{"long run of base-32 characters around it", upgrade, strings.Repeat("z", 99) + hash1 + strings.Repeat("0", 99),
		strings.Repeat("z", 99) + new1 + strings.Repeat("0", 99)},
	{"its own beginning before it", upgrade, hash1[:20] + hash1 + "-foo-1.0", hash1[:20] + new1 + "-foo-1.1"},
	{"its own end after it", upgrade, hash1 + hash1[12:], new1 + hash1[12:]},
	{"chain", hash1 + "-a>" + hash2 + "-a " + hash2 + "-a>" + hash3 + "-a", hash1 + "-a " + hash2 + "-a", hash2 + "-a " + hash3 + "-a"},
	{"exchange", hash1 + "-a>" + hash2 + "-a " + hash2 + "-a>" + hash1 + "-a", hash1 + "-a " + hash2 + "-a", hash2 + "-a " + hash1 + "-a"},
	{"inserted text makes an old hash part", strings.Repeat("a", 32) + "-a>" + strings.Repeat("b", 31) + "c-a " +
		strings.Repeat("b", 32) + "-a>" + strings.Repeat("d", 32) + "-a",
		"b" + strings.Repeat("a", 32) + "b", strings.Repeat("b", 32) + "cb"},
	{"overlapping places", strings.Repeat("a", 32) + "-a>" + strings.Repeat("b", 32) + "-a",
		strings.Repeat("a", 70), strings.Repeat("b", 64) + strings.Repeat("a", 6)},
	{"two pairs overlap and the first place counts",
		"a" + strings.Repeat("b", 31) + "-x>" + new1 + "-x " + strings.Repeat("b", 31) + "c-x>" + new2 + "-x",
		"a" + strings.Repeat("b", 31) + "c-x", new1 + "c-x"},
	{"hash part in a name", hash1 + "-src-" + hash2 + ">" + new1 + "-src-" + hash2 + " " + hash2 + "-x>" + new2 + "-x",
		hash1 + "-src-" + hash2 + " " + hash1 + "-sru-" + hash2, new1 + "-src-" + hash2 + " " + new1 + "-sru-" + new2},
	{"longest name", hash1 + "-" + strings.Repeat("n", 211) + ">" + new1 + "-" + strings.Repeat("m", 211),
		"x" + hash1 + "-" + strings.Repeat("n", 212), "x" + new1 + "-" + strings.Repeat("m", 211) + "n"},
	{"longest name almost", hash1 + "-" + strings.Repeat("n", 211) + ">" + new1 + "-" + strings.Repeat("m", 211),
		hash1 + "-" + strings.Repeat("n", 210) + "!", new1 + "-" + strings.Repeat("n", 210) + "!"},
	{"old hash part in a name that turns out to be another",
		hash1 + "-" + hash2 + "-y>" + new1 + "-" + hash2 + "-z " + hash2 + "-bar-2.0>" + new2 + "-bar-2.1",
		hash1 + "-" + hash2 + "-bar-2.0", new1 + "-" + new2 + "-bar-2.1"},
	{"bytes that are no text", two, "\x00\xff" + hash1 + "\x00\x80" + hash2 + "-bar-2.0\xfe",
		"\x00\xff" + new1 + "\x00\x80" + new2 + "-bar-2.1\xfe"},
	{"new path stays", selfOnly, new1 + "-foo-1.0", new1 + "-foo-1.0"},
	{"executable in an archive", upgrade, string(words(nil, "executable", "", "contents", "#!/nix/store/"+hash1+"-foo-1.0/bin/sh\n")),
		string(words(nil, "executable", "", "contents", "#!/nix/store/"+new1+"-foo-1.1/bin/sh\n"))},
	{"symlink in an archive", upgrade, string(words(nil, "type", "symlink", "target", "/nix/store/"+hash1+"-foo-1.0")),
		string(words(nil, "type", "symlink", "target", "/nix/store/"+new1+"-foo-1.1"))},
	{"name in a directory", upgrade, string(words(nil, "entry", "(", "name", hash1+"-foo-1.0", "node")),
		string(words(nil, "entry", "(", "name", new1+"-foo-1.1", "node"))},
	{"names in a directory keep their order", hash1 + "-a>" + hash3 + "-a " + hash2 + "-a>" + new1 + "-a " + hash3 + "-a>" + hash1 + "-a",
		string(words(nil, "name", hash1+"-a", "name", hash2+"-a", "name", hash3+"-a")),
		string(words(nil, "name", hash3+"-a", "name", new1+"-a", "name", hash1+"-a"))},
	{"compressed file", upgrade, gzipped("/nix/store/" + hash1 + "-foo-1.0"), gzipped("/nix/store/" + hash1 + "-foo-1.0")},
}

func utf16(s string) string { return strings.Join(strings.Split(s, ""), "\x00") + "\x00" }

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

func TestWriterReplacesStorePaths(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			pairs := pairsOf(t, v.pairs)
			if got := rewrite(t, pairs, v.in); got != v.want {
				t.Errorf("%q became\n%q, want\n%q", v.in, got, v.want)
			}
			if got := slow(pairs, v.in); got != v.want {
				t.Errorf("the slow way %q became\n%q, want\n%q", v.in, got, v.want)
			}
		})
	}
}

func TestWriterReplacesTheHashPartAloneIfNamesDifferInLength(t *testing.T) {
	for _, name := range []string{"ba", "barx"} {
		pairs := pairsOf(t, hash1+"-foo>"+new1+"-"+name)
		if got, want := rewrite(t, pairs, hash1+"-foo/bin"), new1+"-foo/bin"; got != want {
			t.Errorf("with the new name %s the result is %q, want %q", name, got, want)
		}
	}
}

// Each input is cut at each place, at each two places if it is short, and into pieces of one length.
func TestWriterResultIsTheSameHoweverTheInputIsCut(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			pairs := pairsOf(t, v.pairs)
			check := func(pieces ...string) {
				if got := rewrite(t, pairs, pieces...); got != v.want {
					t.Fatalf("%q became\n%q, want\n%q", pieces, got, v.want)
				}
			}
			for i := range len(v.in) + 1 {
				check(v.in[:i], v.in[i:])
				for j := i; j <= len(v.in) && len(v.in) <= 90; j++ {
					check(v.in[:i], v.in[i:j], v.in[j:])
				}
			}
			for size := 1; size <= 70; size++ {
				var pieces []string
				for piece := range slices.Chunk([]byte(v.in), size) {
					pieces = append(pieces, string(piece))
				}
				check(pieces...)
			}
		})
	}
}

// A long input takes the ways that copy nothing.
func TestWriterReplacesInLongWrites(t *testing.T) {
	pairs := pairsOf(t, two)
	stretch := strings.Repeat("nothing here but text, 0123456789abcdf\n", 1000)
	in := hash1 + "-foo-1.0" + stretch + hash2 + "-bar-2.0" + stretch + hash1 + stretch + hash2 + "-bar-2."
	want := new1 + "-foo-1.0" + stretch + new2 + "-bar-2.1" + stretch + new1 + stretch + new2 + "-bar-2."
	for _, size := range []int{len(in), 64 << 10, 32<<10 - 1, 4096, 4095, 40} {
		var pieces []string
		for piece := range slices.Chunk([]byte(in), size) {
			pieces = append(pieces, string(piece))
		}
		if got := rewrite(t, pairs, pieces...); got != want {
			t.Errorf("in writes of %d bytes, the result differs from what is wanted", size)
		}
	}
}

// A recorder keeps the slices that it was given.
type recorder struct{ writes [][]byte }

func (r *recorder) Write(p []byte) (int, error) {
	r.writes = append(r.writes, p)
	return len(p), nil
}

func TestWriterPassesLongStretchesOnWithoutACopy(t *testing.T) {
	var r recorder
	p := []byte(strings.Repeat("no store path! ", 10_000))
	w := rebase.NewWriter(&r, pairsOf(t, two))
	for range 2 {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.writes) != 2 || &r.writes[0][0] != &p[0] || &r.writes[1][0] != &p[0] {
		t.Errorf("two writes of %d bytes became %d, want the same two slices", len(p), len(r.writes))
	}
}

func TestWriterHoldsBackLessThanABaseName(t *testing.T) {
	base := hash1 + "-" + strings.Repeat("n", 211)
	pairs := pairsOf(t, base+">"+new1+"-"+strings.Repeat("m", 211))
	for in, held := range map[string]int{
		"text ":                 0,
		"text 0123abc":          7,
		"text e":                0,
		hash1[:31]:              31,
		hash1:                   32,
		hash1 + "-nnn":          36,
		hash1 + "-nn!":          0,
		base[:len(base)-1]:      len(base) - 1,
		base:                    0,
		strings.Repeat("a", 99): 31,
	} {
		var out bytes.Buffer
		w := rebase.NewWriter(&out, pairs)
		if _, err := w.Write([]byte(in)); err != nil || len(in)-out.Len() != held {
			t.Errorf("after Write(%q) %d bytes are held back, want %d: %v", in, len(in)-out.Len(), held, err)
		}
		if err := w.Close(); err != nil || out.Len() != len(in) {
			t.Errorf("after Close %d bytes of %q were passed on: %v", out.Len(), in, err)
		}
	}
}

func TestWriterLeavesItsInputAsItIs(t *testing.T) {
	in := []byte(hash1 + "-foo-1.0 " + hash2 + "-bar-2.0")
	before := bytes.Clone(in)
	w := rebase.NewWriter(io.Discard, pairsOf(t, two))
	if _, err := w.Write(in); err != nil || !bytes.Equal(in, before) {
		t.Errorf("Write changed its input to %q: %v", in, err)
	}
}

// A full is a writer with room for some bytes.
type full struct{ room int }

var errFull = errors.New("no room")

func (f *full) Write(p []byte) (int, error) {
	if len(p) > f.room {
		return 0, errFull
	}
	f.room -= len(p)
	return len(p), nil
}

func TestWriterReportsErrors(t *testing.T) {
	pairs := pairsOf(t, two)
	for _, p := range []string{hash1 + "-foo-1.0", strings.Repeat("!", 10_000)} {
		w := rebase.NewWriter(&full{}, pairs)
		if n, err := w.Write([]byte(p)); n != 0 || !errors.Is(err, errFull) {
			t.Errorf("Write(%d bytes) = %d, %v, want 0, %v", len(p), n, err, errFull)
		}
		if _, err := w.Write(nil); !errors.Is(err, errFull) {
			t.Errorf("Write after an error = %v, want %v", err, errFull)
		}
		if err := w.Close(); !errors.Is(err, errFull) {
			t.Errorf("Close after an error = %v, want %v", err, errFull)
		}
	}
	w := rebase.NewWriter(&full{}, pairs)
	if _, err := w.Write([]byte(hash1)); err != nil {
		t.Errorf("Write of what is held back = %v", err)
	}
	if err := w.Close(); !errors.Is(err, errFull) {
		t.Errorf("Close = %v, want %v", err, errFull)
	}
}

func TestWriterIsClosedOnce(t *testing.T) {
	var out bytes.Buffer
	w := rebase.NewWriter(&out, pairsOf(t, two))
	if _, err := w.Write([]byte(hash1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Close(); err != nil || out.String() != new1 {
			t.Errorf("Close() = %v, after which %q was passed on, want %q", err, out.String(), new1)
		}
	}
	if _, err := w.Write([]byte("more")); err == nil || out.String() != new1 {
		t.Errorf("Write after Close = %v, and passed on %q", err, out.String())
	}
}

func TestWriterAllocatesNothingPerWrite(t *testing.T) {
	w := rebase.NewWriter(io.Discard, pairsOf(t, two))
	p := []byte(strings.Repeat("text "+hash1+"-foo-1.0 "+hash2, 100))
	if n := testing.AllocsPerRun(100, func() { _, _ = w.Write(p) }); n != 0 {
		t.Errorf("a Write allocates %v times", n)
	}
}
