package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"narbor/store"
)

// archiveVectors are forged archives: the claim is content-addressed and true, and NarHash and NarSize are those of an
// archive which is not the one that Nix makes of the file.
func archiveVectors(m material) []vector {
	var vs []vector
	for _, x := range []struct {
		name string
		genuine
	}{{"flat", m.file}, {"text", m.note}} {
		for _, f := range forgeries(fileText) {
			vs = append(vs, forged(x.genuine, x.name+": "+f.name, f.nar, narRefused, f.why))
		}
		vs = append(vs, forged(x.genuine, x.name+": genuine", regular(fileText), contentAddressed, ""))
	}
	for _, x := range []struct {
		name string
		genuine
		contents string
	}{{"no padding", m.file8, "8 bytes\n"}, {"empty", m.empty, ""}} {
		executable := nar("(", "type", "regular", "executable", "", "contents", x.contents, ")")
		vs = append(vs,
			forged(x.genuine, x.name+": genuine", regular(x.contents), contentAddressed, ""),
			forged(x.genuine, x.name+": executable", executable, narRefused, followsLinks),
			forged(x.genuine, x.name+": more contents", regular(x.contents+"x"), narRefused, ""),
			forged(x.genuine, x.name+": one byte of padding less", regular(x.contents)[:len(regular(x.contents))-1], narRefused, ""))
	}
	// Trees are settled by NarHash, so these are refused before any archive comes.
	tree := m.tree
	for _, f := range forgeries(fileText)[:4] {
		vs = append(vs, forged(tree, "tree: "+f.name, f.nar, untrusted, ""))
	}
	// A signature settles everything; the archive's content is the upstream's business.
	signed := m.signedFile
	signed.text = m.upstreamSigns(forged(signed, "", forgeries(fileText)[1].nar, "", "").text)
	return append(vs, vector{name: "signed: executable where the content address says otherwise", base: signed, text: signed.text,
		nar: forgeries(fileText)[1].nar, want: signedByUpstream})
}

// upstreamSigns replaces all signatures by one of the upstream key. There must be no references.
func (m material) upstreamSigns(t text) text {
	for strings.Contains(string(t), "\nSig: ") {
		t = t.line("Sig")
	}
	return t.add("Sig", m.upstream.sign(fmt.Sprintf("1;%s;%s;%s;", t.field("StorePath"), t.field("NarHash"), t.field("NarSize"))))
}

// Why narbor refuses archives that Nix takes.
const (
	followsLinks = "Nix 2.8 compares what it reads at the path, through links and whatever the permissions"
	oneArchive   = "Nix 2.8 is lenient in parsing; there is one archive of a file, and this is not it"
)

type forgery struct {
	name string
	nar  []byte
	why  string
}

func forgeries(contents string) []forgery {
	genuine := regular(contents)
	at := len(nar("(", "type", "regular", "contents")) // of the length
	edit := func(from, to int, with ...byte) []byte {
		return slices.Replace(slices.Clone(genuine), from, to, with...)
	}
	length := func(n uint64) []byte { return edit(at, at+8, binary.LittleEndian.AppendUint64(nil, n)...) }
	n := uint64(len(contents))
	end := at + 8 + len(contents) // of the contents, where padding begins
	return []forgery{
		{"symbolic link to such a file", nar("(", "type", "symlink", "target", "../../target", ")"), followsLinks},
		{"executable", nar("(", "type", "regular", "executable", "", "contents", contents, ")"), followsLinks},
		{"directory with the file in it", nar("(", "type", "directory", "entry", "(", "name", "file", "node",
			"(", "type", "regular", "contents", contents, ")", ")", ")"), ""},
		{"symbolic link with the contents as its target", nar("(", "type", "symlink", "target", contents, ")"), ""},
		{"empty directory", nar("(", "type", "directory", ")"), ""},
		{"contents before executable", nar("(", "type", "regular", "contents", contents, "executable", "", ")"), oneArchive},
		{"executable with a value", nar("(", "type", "regular", "executable", "x", "contents", contents, ")"), oneArchive},
		{"no contents", nar("(", "type", "regular", ")"), ""},
		{"contents twice", nar("(", "type", "regular", "contents", "other", "contents", contents, ")"), oneArchive},
		{"type twice", nar("(", "type", "regular", "type", "regular", "contents", contents, ")"), oneArchive},
		{"another file", regular(strings.ToUpper(contents)), ""},
		{"a byte less", regular(contents[:len(contents)-1]), ""},
		{"a byte more", regular(contents + "\x00"), ""},
		{"stated one byte too short", length(n - 1), ""},
		{"stated one byte too long", length(n + 1), ""},
		{"stated as far too long", length(n + 8), ""},
		{"stated as 2^63", length(1 << 63), ""},
		{"stated as 2^64-1", length(1<<64 - 1), ""},
		{"stated as 2^64-8", length(1<<64 - 8), ""},
		{"first byte of padding not zero", edit(end, end+1, 'x'), oneArchive},
		{"last byte of padding not zero", edit(len(genuine)-17, len(genuine)-16, 'x'), oneArchive},
		{"padding left out", edit(end, len(genuine)-16), ""},
		{"eight bytes of padding more", edit(end, end, make([]byte, 8)...), ""},
		{"a byte after the end", append(slices.Clone(genuine), 0), oneArchive},
		{"eight bytes after the end", append(slices.Clone(genuine), make([]byte, 8)...), oneArchive},
		{"another archive after the end", append(slices.Clone(genuine), genuine...), oneArchive},
		{"last token missing", genuine[:len(genuine)-16], ""},
		{"last token another", edit(len(genuine)-8, len(genuine)-7, '('), ""},
		{"last token with another padding", edit(len(genuine)-1, len(genuine), 'x'), oneArchive},
		{"another magic", edit(8+12, 8+13, '2'), ""},
		{"first byte not a length", edit(7, 8, 1), ""},
		{"cut in the head", genuine[:50], ""},
		{"the file itself", []byte(contents), ""},
		{"a single byte", []byte{0}, ""},
	}
}

// forged puts an archive in the place of the one that a claim is about.
func forged(g genuine, name string, archive []byte, want, why string) vector {
	t := g.set("NarHash", store.Hash(sha256.Sum256(archive)).String()).set("NarSize", fmt.Sprint(len(archive)))
	return vector{name: name, base: g, text: t.set("URL", "nar/vector.nar"), nar: archive, want: want, why: why}
}

// regular is the archive of a plain file.
func regular(contents string) []byte { return nar("(", "type", "regular", "contents", contents, ")") }

// nar strings tokens together, after the magic.
func nar(tokens ...string) []byte {
	var b bytes.Buffer
	for _, s := range append([]string{"nix-archive-1"}, tokens...) {
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		b.WriteString(s)
		b.Write(make([]byte, -len(s)&7))
	}
	return b.Bytes()
}
