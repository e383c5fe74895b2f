package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"narbor/store"
)

// contentVectors are claims without a signature about content-addressed paths, each a little off.
func contentVectors(m material) []vector {
	var vs []vector
	for _, x := range []struct {
		name string
		genuine
	}{{"tree", m.tree}, {"tree with references", m.caApp}, {"flat", m.file}, {"text", m.note}, {"text with references", m.page},
		{"derivation", m.drv}} {
		g := x.genuine
		v := func(name string, t text, want, why string) {
			vs = append(vs, vector{name: x.name + ": " + name, base: g, text: t, want: want, why: why})
		}
		contentMutations(m, g, v)
		if x.name == "tree" || x.name == "flat" || x.name == "text with references" {
			addresses(g, v)
		}
	}
	return append(append(vs, wrongKinds(m)...), selfReferences(m)...)
}

func contentMutations(m material, g genuine, v func(name string, t text, want, why string)) {
	flat := !strings.HasPrefix(g.field("CA"), "fixed:r:")
	// The NarHash of a tree is its content address. That of a file is not, so a wrong one is only found when the
	// archive has come.
	wrongNAR, whyNAR := untrusted, ""
	if flat {
		wrongNAR = narRefused
	}
	name := g.path[len("/nix/store/")+33:]
	v("another name", text(strings.Replace(string(g.text), g.path, g.path[:len(g.path)-len(name)]+"x"+name, 1)), untrusted, "")
	v("another hash part", g.set("StorePath", g.path[:11]+flipDigit(g.path[11])+g.path[12:]), untrusted, "")
	v("the path of another", g.set("StorePath", m.file8.path), untrusted, "")
	v("the content address of another", g.set("CA", m.file8.field("CA")), untrusted, "")
	v("no content address", g.line("CA"), untrusted, "")
	v("two content addresses", g.add("CA", g.field("CA")), malformed, "")
	v("another NarHash", g.set("NarHash", m.dep.field("NarHash")), wrongNAR, whyNAR)
	v("another NarSize", g.set("NarSize", g.field("NarSize")+"0"), narRefused, "")
	v("a signature that is none", g.add("Sig", "upstream-1:AAAA"), contentAddressed, "")
	v("another reference", g.set("References", strings.TrimSpace(g.field("References")+" "+m.tree.path[len("/nix/store/"):])), untrusted,
		"")
	v("a reference to itself", g.set("References", strings.TrimSpace(g.field("References")+" "+g.path[len("/nix/store/"):])), untrusted,
		"no path that refers to itself is believed without a signature")
	if refs := g.field("References"); refs != "" {
		v("no references", g.set("References", ""), untrusted, "")
		v("a reference of another name", g.set("References", refs+"x"), untrusted, "")
	}
}

func flipDigit(c byte) string {
	if c == '0' {
		return "1"
	}
	return "0"
}

// addresses are other spellings of the content address, and other kinds with the same hash.
func addresses(g genuine, v func(name string, t text, want, why string)) {
	ca := g.field("CA")
	kind, b32, _ := strings.Cut(ca, "sha256:")
	h, err := store.ParseHash("sha256:" + b32)
	check(err)
	b64 := base64.StdEncoding.EncodeToString(h[:])
	const oneSpelling = "a content address has one spelling here, the one that Nix writes"
	for _, x := range []struct{ name, ca, why string }{
		{"base 16", kind + "sha256:" + hex.EncodeToString(h[:]), oneSpelling},
		{"base 64", kind + "sha256:" + b64, oneSpelling},
		{"SRI", kind + "sha256-" + b64, ""},
		{"space after it", ca + " ", ""},
		{"capitals", strings.ToUpper(kind) + "sha256:" + b32, ""},
		{"no algorithm", kind + b32, ""},
		{"too short", ca[:len(ca)-1], ""},
		{"too long", ca + "0", ""},
		{"no kind", "sha256:" + b32, ""},
		{"something before it", "x" + ca, ""},
		{"git", "fixed:git:sha256:" + b32, ""},
		{"nar", "fixed:nar:sha256:" + b32, ""},
	} {
		v("content address: "+x.name, g.set("CA", x.ca), untrusted, x.why)
	}
	for _, other := range []string{"fixed:r:", "fixed:", "text:"} {
		if other != kind {
			v("content address: "+strings.TrimSuffix(other, ":")+" instead", g.set("CA", other+"sha256:"+b32), untrusted, "")
		}
	}
}

// claim returns a narinfo for a path with a hash part that is computed as Nix does, from wrong input.
func claim(g genuine, ca, kind, inner string) vector {
	name := g.path[len("/nix/store/")+33:]
	sum := sha256.Sum256([]byte(kind + ":sha256:" + inner + ":/nix/store:" + name))
	var short [20]byte
	for i, b := range sum {
		short[i%20] ^= b
	}
	path := "/nix/store/" + string(store.HashPartFromBytes(short)) + "-" + name
	return vector{base: g, text: g.set("StorePath", path).set("CA", ca)}
}

// wrongKinds are paths that follow from the content address in a way that is not the one Nix has for its kind.
func wrongKinds(m material) []vector {
	hexOf := func(ca string) string {
		h, err := store.ParseHash(ca[strings.Index(ca, "sha256:"):])
		check(err)
		return hex.EncodeToString(h[:])
	}
	fixed := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:])
	}
	tree, file, note := m.tree.field("CA"), m.file.field("CA"), m.note.field("CA")
	var vs []vector
	for _, x := range []struct {
		name            string
		g               genuine
		ca, kind, inner string
	}{
		{"tree as other fixed outputs", m.tree, tree, "output:out", fixed("fixed:out:r:sha256:" + hexOf(tree) + ":")},
		{"tree as a text", m.tree, tree, "text", hexOf(tree)},
		{"tree as an output", m.tree, tree, "output:out", hexOf(tree)},
		{"file as a source", m.file, file, "source", hexOf(file)},
		{"file as another output", m.file, file, "output:doc", fixed("fixed:doc:sha256:" + hexOf(file) + ":")},
		{"file as a recursive one", m.file, file, "output:out", fixed("fixed:out:r:sha256:" + hexOf(file) + ":")},
		{"file without the last colon", m.file, file, "output:out", fixed("fixed:out:sha256:" + hexOf(file))},
		{"text as a source", m.note, note, "source", hexOf(note)},
		{"text with a reference that is not stated", m.note, note, "text:" + m.tree.path, hexOf(note)},
	} {
		v := claim(x.g, x.ca, x.kind, x.inner)
		v.name, v.want = "computed otherwise: "+x.name, untrusted
		vs = append(vs, v)
	}
	// The address is honest, and the archive is another: a neighbour has swapped NarHash.
	v := claim(m.tree, "fixed:r:"+m.caDep.field("NarHash"), "source", hexOf(m.caDep.field("CA")))
	v.name, v.want = "tree with another's NarHash", untrusted
	return append(vs, v)
}

// selfReferences are refused even where they are true: what the hash is over is not what NarHash is over.
func selfReferences(m material) []vector {
	const why = "only SHA-256 without self-reference counts as proof"
	g := m.caLib
	return []vector{
		{name: "self-reference: genuine", base: g, text: g.text, want: untrusted, why: why},
		{name: "self-reference: not stated", base: g, text: g.set("References", strings.Fields(g.field("References"))[1]), want: untrusted},
		{name: "self-reference: NarHash as the content address", base: g, text: g.set("CA", "fixed:r:"+g.field("NarHash")),
			want: untrusted},
		{name: "self-reference: content address as NarHash", base: g,
			text: g.set("NarHash", strings.TrimPrefix(g.field("CA"), "fixed:r:")), want: untrusted},
	}
}
