// Gen makes the vectors in trust/testdata/vectors with the help of the real Nix: it builds store paths, lets Nix sign
// them and write their narinfo files, mutates these, and asks Nix what it thinks of each. It takes a minute or two
// and needs nix-store, nix and the right to make user namespaces. From the top of the repository:
//
//	go run ./trust/testdata/gen
//
// The keys in trust/testdata/keys are for this alone. Where they exist they are used again, so that a second run
// changes nothing but what has changed.
package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"narbor/store"
	"narbor/trust"
)

const testdata = "trust/testdata"

// A vector is a claim, the archive that comes with it, and what trust must say to them.
type vector struct {
	name string
	base genuine  // what was mutated
	text text     // the claim as a narinfo
	nar  []byte   // nil is base's; kept only where trust looks at it
	keys []string // nil is upstream-1 alone
	want string
	why  string // where Nix thinks otherwise, why that is right
}

func main() {
	dir, err := os.MkdirTemp("", "narbor-vectors-")
	check(err)
	defer os.RemoveAll(dir)
	check(os.MkdirAll(filepath.Join(testdata, "vectors"), 0o755))
	keys, err := filepath.Abs(filepath.Join(testdata, "keys"))
	check(err)
	m := gather(world{dir}, keys)
	for _, group := range []struct {
		name    string
		vectors []vector
	}{
		{"genuine", genuineVectors(m)},
		{"fields", fieldVectors(m)},
		{"values", valueVectors(m)},
		{"signatures", signatureVectors(m)},
		{"content", contentVectors(m)},
		{"archives", archiveVectors(m)},
	} {
		var b strings.Builder
		fmt.Fprintf(&b, "Made by go run ./%s/gen with real Nix; see there. Don't edit.\n", testdata)
		for _, v := range group.vectors {
			v.write(&b, m)
		}
		check(os.WriteFile(filepath.Join(testdata, "vectors", group.name+".txtar"), []byte(b.String()), 0o644))
		fmt.Println(group.name, len(group.vectors))
	}
}

// write asks Nix and appends the vector in the form that vectors_test.go reads.
func (v vector) write(b *strings.Builder, m material) {
	keep := v.nar != nil
	if !keep {
		v.nar = v.base.nar
	}
	if v.keys == nil {
		v.keys = []string{m.upstream.public}
	}
	path := v.base.path
	if p, err := store.ParsePath(v.text.field("StorePath")); err == nil {
		path = p.String() // give Nix the best chance to like it
	}
	verdict := m.ask(v.base, path, string(v.text), v.nar, v.keys)
	fmt.Fprintf(b, "-- %s --\nkeys: %s\nwant: %s\nnix: %s\n", v.name, strings.Join(v.keys, " "), v.want, verdict)
	accepted := strings.HasPrefix(v.want, "signed") || v.want == "content-addressed"
	if accepted != (verdict == "yes") {
		if v.why == "" {
			fmt.Printf("%s: want %s, but Nix says %s\n", v.name, v.want, verdict)
		}
		fmt.Fprintf(b, "why: %s\n", v.why)
	}
	section(b, "narinfo", string(v.text))
	if v.want == contentAddressed || v.want == narRefused || keep {
		fmt.Fprintf(b, "[nar]\n%s\n", wrap(base64.StdEncoding.EncodeToString(v.nar)))
	}
	if !accepted {
		return
	}
	passed, err := passOn(string(v.text), v.keys)
	if err != nil {
		fmt.Printf("%s: want %s, but narbor says %v\n", v.name, v.want, err)
		return
	}
	if verdict := m.ask(v.base, path, passed+"URL: nar/vector.nar\nCompression: none\n", v.nar, v.keys); verdict != "yes" {
		fmt.Printf("%s: Nix does not believe what narbor passes on: %s\n", v.name, verdict)
		return
	}
	section(b, "passed on, and Nix accepts it", passed)
}

// passOn returns what narbor says of a claim after checking it.
func passOn(narinfo string, keys []string) (string, error) {
	k, err := trust.ParseKeys(keys)
	if err != nil {
		return "", err
	}
	info, err := store.ParseInfo(narinfo)
	if err != nil {
		return "", err
	}
	m, err := k.Check(info)
	return m.Info().String(), err
}

// section writes a text as it is, or as one Go string literal if it would not survive that.
func section(b *strings.Builder, name, s string) {
	plain := strings.HasSuffix(s, "\n") && !strings.ContainsAny(s, "\r\x00\"") && !strings.Contains(s, "\n\n") &&
		!strings.HasPrefix(s, "\n") && strconv.Quote(s) == `"`+strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(s)+`"`
	if plain {
		fmt.Fprintf(b, "[%s]\n%s", name, s)
	} else {
		fmt.Fprintf(b, "[%s]\n%s\n", name, strconv.Quote(s))
	}
}

func wrap(s string) string {
	const width = 116
	var lines []string
	for len(s) > width {
		lines, s = append(lines, s[:width]), s[width:]
	}
	return strings.Join(append(lines, s), "\n")
}
