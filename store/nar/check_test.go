package nar_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"narbor/store"
	"narbor/store/nar"
	"narbor/store/storetest"
)

// These stand in nearly every line of the tables below.
var (
	words, archive, file    = storetest.Words, storetest.Archive, storetest.File
	entry, directory, files = storetest.Entry, storetest.Directory, storetest.Files
)

func link(target string) string { return words("(", "type", "symlink", "target", target, ")") }

// nested is a node below so many directories.
func nested(depth int, node string) string {
	return strings.Repeat(words("(", "type", "directory", "entry", "(", "name", "d", "node"), depth) + node +
		strings.Repeat(words(")", ")"), depth)
}

// number is a length on its own.
func number(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

// unpadded is a string with other bytes than zeros behind it.
func unpadded(s, padding string) string { return number(uint64(len(s))) + s + padding }

var (
	startOfFile  = words("(", "type", "regular")
	startOfEntry = words("(", "type", "directory", "entry", "(", "name")
)

// goodNodes are unusual, and what Nix could have made.
var goodNodes = map[string]string{
	"file":             file("hello"),
	"empty file":       file(""),
	"executable":       words("(", "type", "regular", "executable", "", "contents", "#!", ")"),
	"file of NARs":     file(archive(file("x")) + archive(file("y"))),
	"empty directory":  directory(),
	"symlink":          link("/etc/passwd"),
	"longest symlink":  link(strings.Repeat("x", 4095)),
	"shortest symlink": link("."),
	"deepest":          nested(63, file("leaf")),
	"deepest is empty": nested(63, directory()),
	"longest name":     files(strings.Repeat("n", 255)),
	"odd names":        files("\n", " ", "!", "(", ")", "...", "..a", ".a", "\\", "\xff", "\xff\x01"),
	"keywords":         files("(", ")", "contents", "entry", "name", "node", "type"),
	"sorted by bytes":  files("A", "Z", "a", "a-", "a.", "aa", "b", "\x80", "\xff"),
	"case hack":        files("A", "a", "a~nix~case~hac", "a~nix~case~hack", "a~nix~case~hack-1", "a~nix~case~hack~1", "~nix~case~hack~1"),
	"cases":            files("README", "Readme", "readme"),
	"siblings":         directory(entry("a", files("z")), entry("b", files("a")), entry("c", link("a"))),
	"same name below":  directory(entry("a", files("a")), entry("b", files("a", "b"))),
}

// evilNodes must be refused wherever in an archive they are, for this reason.
var evilNodes = map[string]struct{ node, why string }{
	"too deep":                {nested(64, file("")), "deeper than 64"},
	"directory too deep":      {nested(64, directory()), "deeper than 64"},
	"a hundred thousand deep": {nested(100_000, file("")), "deeper than 64"},
	"deep and open":           {strings.Repeat(words("(", "type", "directory", "entry", "(", "name", "d", "node"), 5000), "deeper than 64"},

	"name empty":          {files(""), "no file's"},
	"name .":              {files("."), "no file's"},
	"name ..":             {files(".."), "no file's"},
	"name .. after a":     {files("a", ".."), "no file's"},
	"name with /":         {files("a/b"), "no file's"},
	"name /":              {files("/"), "no file's"},
	"name /etc":           {files("/etc/passwd"), "no file's"},
	"name ../x":           {files("../x"), "no file's"},
	"name ends in /":      {files("a/"), "no file's"},
	"name with NUL":       {files("a\x00b"), "no file's"},
	"name NUL":            {files("\x00"), "no file's"},
	"name ..NUL":          {files("..\x00"), "no file's"},
	"name of 256":         {files(strings.Repeat("n", 256)), "more than 255"},
	"name of 5000":        {files(strings.Repeat("n", 5000)), "more than 255"},
	"name of a directory": {directory(entry("..", directory())), "no file's"},
	"name of a symlink":   {directory(entry("..", link("x"))), "no file's"},

	"unsorted":                {files("b", "a"), `"a" after "b"`},
	"unsorted by case":        {files("a", "B"), `"B" after "a"`},
	"unsorted by length":      {files("aa", "a"), `"a" after "aa"`},
	"unsorted bytes":          {files("\xff", "a"), "after"},
	"duplicate":               {files("a", "a"), `"a" after "a"`},
	"duplicate of another":    {directory(entry("a", link("/etc")), entry("a", directory(entry("b", file(""))))), `"a" after "a"`},
	"duplicate, not adjacent": {files("a", "b", "a"), `"a" after "b"`},
	"unsorted after a child":  {directory(entry("b", files("x", "y")), entry("a", file(""))), `"a" after "b"`},
	"unsorted after deeper":   {directory(entry("b", nested(3, files("a", "z"))), entry("b", file(""))), `"b" after "b"`},
	"unsorted in a child":     {directory(entry("a", files("z", "y")), entry("b", file(""))), `"y" after "z"`},

	"target empty":     {link(""), "no file's"},
	"target of 4096":   {link(strings.Repeat("x", 4096)), "more than 4095"},
	"target of 1 MiB":  {link(strings.Repeat("x", 1<<20)), "more than 4095"},
	"target with NUL":  {link("a\x00b"), "no file's"},
	"target NUL":       {link("\x00"), "no file's"},
	"no target":        {words("(", "type", "symlink", ")"), `want "target"`},
	"two targets":      {words("(", "type", "symlink", "target", "a", "target", "b", ")"), `want ")"`},
	"target of a file": {words("(", "type", "regular", "target", "a", ")"), `"target" in a file`},

	"padding of contents": {startOfFile + words("contents") + unpadded("abc", "\x00\x00\x00\x00\x01") + words(")"), "not zero"},
	"padding of 7":        {startOfFile + words("contents") + unpadded("a", "\x01\x00\x00\x00\x00\x00\x00") + words(")"), "not zero"},
	"padding of a name": {startOfEntry + unpadded("abc", "\x00\x00\x00\x00x") + words("node") + file("") + words(")", ")"),
		"not zero"},
	"padding of a target":    {words("(", "type", "symlink", "target") + unpadded("abcdefg", "h") + words(")"), "not zero"},
	"padding of a word":      {unpadded("(", "\x00\x00\x00)\x00\x00\x00") + words("type", "regular", "contents", "", ")"), "not zero"},
	"padding of the end":     {words("(", "type", "regular", "contents", "") + unpadded(")", "\x00\x00\x00\x00\x00\x00\x01"), "not zero"},
	"no padding":             {startOfFile + words("contents") + unpadded("abc", "") + words(")"), ""},
	"padding of whole words": {startOfFile + words("contents") + number(8) + "12345678" + number(0) + words(")"), `want ")"`},

	"contents beyond the end":  {startOfFile + words("contents") + number(1<<20) + words(")"), "bytes are left"},
	"contents of 2^63":         {startOfFile + words("contents") + number(1<<63) + words(")"), "bytes are left"},
	"contents of 2^63-1":       {startOfFile + words("contents") + number(math.MaxInt64) + words(")"), "bytes are left"},
	"contents of 2^64-1":       {startOfFile + words("contents") + number(math.MaxUint64) + words(")"), "bytes are left"},
	"contents of 2^64-8":       {startOfFile + words("contents") + number(math.MaxUint64-7) + words(")"), "bytes are left"},
	"name of 2^64-1":           {startOfEntry + number(math.MaxUint64) + "a", "bytes are left"},
	"name of 2^32":             {startOfEntry + number(1<<32) + "a", "bytes are left"},
	"target of 2^63":           {words("(", "type", "symlink", "target") + number(1<<63) + "a", "bytes are left"},
	"word of 2^64-1":           {number(math.MaxUint64) + "(", "bytes are left"},
	"type of 17":               {words("(", "type", "regularregularreg", "contents", "", ")"), "more than 16"},
	"contents that end in pad": {startOfFile + words("contents") + number(3) + "abc", ""},

	"unknown type":          {words("(", "type", "fifo", ")"), `"fifo" is none`},
	"type empty":            {words("(", "type", "", ")"), `"" is none`},
	"type )":                {words("(", "type", ")"), `")" is none`},
	"type with NUL":         {words("(", "type", "regular\x00", "contents", "", ")"), "is none"},
	"type in capitals":      {words("(", "type", "Regular", "contents", "", ")"), "is none"},
	"no type":               {words("(", "contents", "", ")"), `want "type"`},
	"two types":             {words("(", "type", "regular", "type", "regular", "contents", "", ")"), `"type" in a file`},
	"type changes":          {words("(", "type", "symlink", "target", "a", "type", "directory", ")"), `want ")"`},
	"nothing in it":         {words("(", ")"), `want "type"`},
	"node empty":            {words(""), `want "("`},
	"not opened":            {words("type", "regular", "contents", "", ")"), `want "("`},
	"not closed":            {words("(", "type", "regular", "contents", ""), ""},
	"closed twice":          {words("(", "type", "regular", "contents", "", ")", ")"), ""},
	"file without contents": {words("(", "type", "regular", ")"), `")" in a file`},
	"contents twice":        {words("(", "type", "regular", "contents", "", "contents", "", ")"), `want ")"`},
	"executable after":      {words("(", "type", "regular", "contents", "", "executable", "", ")"), `want ")"`},
	"executable twice": {words("(", "type", "regular", "executable", "", "executable", "", "contents", "", ")"),
		`"executable" in a file`},
	"executable with a value": {words("(", "type", "regular", "executable", "1", "contents", "", ")"), `want ""`},
	"executable directory":    {words("(", "type", "directory", "executable", "", ")"), `"executable" in a directory`},
	"contents of a directory": {words("(", "type", "directory", "contents", "", ")"), `"contents" in a directory`},
	"entry of a file": {words("(", "type", "regular", "entry", "(", "name", "a", "node") + file("") + words(")", ")"),
		`"entry" in a file`},
	"entry without a name": {words("(", "type", "directory", "entry", "(", "node") + file("") + words(")", ")"), `want "name"`},
	"entry without a node": {words("(", "type", "directory", "entry", "(", "name", "a", ")", ")"), `want "node"`},
	"entry with two nodes": {words("(", "type", "directory", "entry", "(", "name", "a", "node") + file("") + words("node") + file("") +
		words(")", ")"), `want ")"`},
	"entry with two names": {words("(", "type", "directory", "entry", "(", "name", "a", "name", "b", "node") + file("") +
		words(")", ")"), `want "node"`},
	"node before the name": {words("(", "type", "directory", "entry", "(", "node") + file("") + words("name", "a", ")", ")"),
		`want "name"`},
	"entry not opened":     {words("(", "type", "directory", "entry", "name", "a", "node") + file("") + words(")", ")"), `want "("`},
	"entry not closed":     {words("(", "type", "directory", "entry", "(", "name", "a", "node") + file("") + words(")"), ""},
	"entry is empty":       {words("(", "type", "directory", "entry", "(", ")", ")"), `want "name"`},
	"directory not closed": {words("(", "type", "directory"), ""},
}

// evilArchives are wrong as a whole.
var evilArchives = map[string]struct{ nar, why string }{
	"empty":                    {"", "ends within"},
	"one byte":                 {"\x0d", "ends within"},
	"magic alone":              {words("nix-archive-1"), "ends within"},
	"magic of the future":      {words("nix-archive-2") + file(""), `want "nix-archive-1"`},
	"magic with NUL":           {words("nix-archive-1\x00") + file(""), `want "nix-archive-1"`},
	"magic is shorter":         {words("nix-archive-") + file(""), `want "nix-archive-1"`},
	"magic is missing":         {file(""), `want "nix-archive-1"`},
	"magic twice":              {words("nix-archive-1") + archive(file("")), `want "("`},
	"magic is badly padded":    {unpadded("nix-archive-1", "\x00\x00\x01") + file(""), "not zero"},
	"magic is big-endian":      {"\x00\x00\x00\x00\x00\x00\x00\x0dnix-archive-1\x00\x00\x00" + file(""), "bytes are left"},
	"a zip file":               {"PK\x03\x04" + strings.Repeat("\x00", 200), "bytes are left"},
	"nothing but zeros":        {strings.Repeat("\x00", 5000), `"", want`},
	"a byte follows":           {archive(file("")) + "\x00", "1 bytes follow"},
	"eight zeros follow":       {archive(file("")) + number(0), "8 bytes follow"},
	"an archive follows":       {archive(file("")) + archive(file("")), "bytes follow"},
	"a node follows":           {archive(directory()) + directory(), "bytes follow"},
	"an entry follows":         {archive(directory()) + entry("a", file("")), "bytes follow"},
	"a megabyte follows":       {archive(link("x")) + strings.Repeat("x", 1<<20), "1048576 bytes follow"},
	"root is an entry":         {words("nix-archive-1") + entry("a", file("")), `want "("`},
	"export, not an archive":   {number(1) + archive(file("")), `want "nix-archive-1"`},
	"last byte of padding off": {archive(file(""))[:len(archive(file("")))-1], "ends within"},
}

func checkNAR(text string) error { return nar.Check(strings.NewReader(text), int64(len(text))) }

// places are archives around a node: with the node at every offset of a window, or nearly, and at other depths.
func places(node string) map[string]string {
	nars := map[string]string{"root": archive(node), "child": archive(directory(entry("n", node))),
		"before others": archive(directory(entry("n", node), entry("o", file("x")))),
		"deep":          archive(nested(31, node))}
	for _, size := range []int{1, 8, 3500, 3900, 4000, 4096, 5000, 100_000} {
		nars[fmt.Sprintf("after a file of %d", size)] = archive(directory(entry("a", file(strings.Repeat("x", size))), entry("n", node)))
	}
	for _, n := range []int{15, 16, 17, 18, 200} { // small files fill a window
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("%03d%s", i, strings.Repeat("x", i%8*8)))
		}
		nars[fmt.Sprintf("after %d files", n)] = archive(directory(entry("a", files(names...)), entry("n", node)))
	}
	return nars
}

func TestCheckNARAccepts(t *testing.T) {
	for name, node := range goodNodes {
		for place, nar := range places(node) {
			if deep := strings.HasPrefix(name, "deepest") && place != "root"; deep {
				continue
			}
			if err := checkNAR(nar); err != nil {
				t.Errorf("%s, %s: Check = %v, want nil", name, place, err)
			}
		}
	}
}

func TestCheckNARRefuses(t *testing.T) {
	if n := len(evilNodes) + len(evilArchives); n < 60 {
		t.Errorf("%d vectors", n)
	}
	for name, v := range evilNodes {
		for place, data := range places(v.node) {
			// A node without an end may take the next bytes for it, and one that ends early makes a fault of them.
			if err := checkNAR(data); !errors.Is(err, store.ErrMalformed) || place == "root" && !strings.Contains(err.Error(), v.why) {
				t.Errorf("%s, %s: Check = %v, want ErrMalformed because of %q", name, place, err, v.why)
			}
		}
	}
	for name, v := range evilArchives {
		if err := checkNAR(v.nar); !errors.Is(err, store.ErrMalformed) || !strings.Contains(err.Error(), v.why) {
			t.Errorf("%s: Check = %v, want ErrMalformed because of %q", name, err, v.why)
		}
	}
	if err := nar.Check(strings.NewReader(""), -1); !errors.Is(err, store.ErrMalformed) {
		t.Errorf("Check of -1 bytes = %v, want ErrMalformed", err)
	}
	if err := nar.Check(strings.NewReader(archive(file(""))), math.MaxInt64); !errors.Is(err, store.ErrMalformed) {
		t.Errorf("Check of MaxInt64 bytes = %v, want ErrMalformed", err)
	}
}

// TestCheckNARAgreesWithAnotherReader cuts, extends and alters archives at every byte.
func TestCheckNARAgreesWithAnotherReader(t *testing.T) {
	node := directory(entry("a", file("hello")), entry("b", words("(", "type", "regular", "executable", "", "contents", "12345678", ")")),
		entry("c", directory(entry("x", link("../a")), entry("y", directory()))), entry("d", file(strings.Repeat("z", 5000))),
		entry("e", file("")))
	for name, nar := range map[string]string{"root": archive(node), "after a window": places(node)["after a file of 3900"]} {
		if !agree(t, nar) {
			t.Fatalf("%s: refused", name)
		}
		for i := range nar {
			if agree(t, nar[:i]) {
				t.Errorf("%s: the first %d bytes of %d are accepted", name, i, len(nar))
			}
			if strings.HasPrefix(nar[i:], "xxxxxxxx") || strings.HasPrefix(nar[i:], "zz") {
				continue // contents
			}
			for _, c := range []byte{nar[i] ^ 1, nar[i] ^ 128, nar[i] + 8, 0, '/', '.'} {
				agree(t, nar[:i]+string([]byte{c})+nar[i+1:])
			}
			agree(t, nar[:i]+nar[i+1:])
			agree(t, nar[:i]+"\x00"+nar[i:])
			if i%8 == 0 {
				agree(t, nar[:i]+nar[min(i+8, len(nar)):])
				agree(t, nar[:i]+nar[i:min(i+16, len(nar))]+nar[i:])
			}
		}
	}
}

// agree says what [nar.Check] and [isCanonical] think of an archive, and fails if they differ.
func agree(t *testing.T, nar string) bool {
	t.Helper()
	err, want := checkNAR(nar), isCanonical(nar)
	if (err == nil) != want || err != nil && !errors.Is(err, store.ErrMalformed) {
		t.Errorf("Check(%q) = %v, and reading and writing it again says %v", nar, err, want)
	}
	return want
}

// isCanonical reads an archive without care and writes it again: padding, lengths and order of words are right if the
// same comes out.
func isCanonical(nar string) bool {
	r := &loose{rest: nar, ok: true}
	again := words(r.word()) + r.node(0)
	return r.ok && again == nar && strings.HasPrefix(nar, words("nix-archive-1"))
}

type loose struct {
	rest string
	ok   bool
}

func (r *loose) word() string {
	if !r.ok || len(r.rest) < 8 {
		r.ok = false
		return ""
	}
	n := binary.LittleEndian.Uint64([]byte(r.rest))
	if r.rest = r.rest[8:]; n > uint64(len(r.rest)) {
		r.ok = false
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[min(uint64(len(r.rest)), (n+7)&^7):]
	return s
}

// node reads a node as if there were no other words than the right ones, and writes it with these.
func (r *loose) node(depth int) string {
	r.ok = r.ok && depth < 64
	r.word()
	r.word()
	switch r.word() {
	case "regular":
		first, second := r.word(), r.word()
		if first == "executable" {
			r.word()
			contents := r.word()
			r.word()
			return words("(", "type", "regular", "executable", "", "contents", contents, ")")
		}
		r.word()
		return file(second)
	case "symlink":
		r.word()
		target := r.word()
		r.word()
		r.ok = r.ok && len(target) > 0 && len(target) < 4096 && !strings.Contains(target, "\x00")
		return link(target)
	case "directory":
		var names, entries []string
		for r.ok && r.word() == "entry" {
			r.word()
			r.word()
			name := r.word()
			r.word()
			entries = append(entries, entry(name, r.node(depth+1)))
			r.word()
			r.ok = r.ok && len(name) < 256 && !slices.Contains([]string{"", ".", ".."}, name) &&
				!strings.ContainsAny(name, "/\x00")
			names = append(names, name)
		}
		r.ok = r.ok && slices.IsSorted(names) && len(slices.Compact(slices.Clone(names))) == len(names)
		return directory(entries...)
	}
	r.ok = false
	return ""
}

func FuzzCheckNAR(f *testing.F) {
	for _, node := range goodNodes {
		f.Add([]byte(archive(node)))
	}
	for _, v := range evilNodes {
		if len(v.node) < 10_000 {
			f.Add([]byte(archive(v.node)))
		}
	}
	for _, v := range evilArchives {
		if len(v.nar) < 10_000 {
			f.Add([]byte(v.nar))
		}
	}
	f.Fuzz(func(t *testing.T, nar []byte) { agree(t, string(nar)) })
}

// TestCheckNARAcceptsWhatNixDumps has real trees, as Nix and as we archive them.
func TestCheckNARAcceptsWhatNixDumps(t *testing.T) {
	for name, tree := range storetest.Trees {
		root := tree(t, t.TempDir())
		data := storetest.Dump(t, root)
		if err := checkNAR(string(data)); err != nil {
			t.Errorf("%s: Check of what nix-store --dump prints = %v", name, err)
		}
		if err := nar.Check(openLayout(t, root, len(data)), int64(len(data))); err != nil {
			t.Errorf("%s: CheckNAR of our own archive = %v", name, err)
		}
	}
}

// A countedNAR is an archive that counts the bytes read.
type countedNAR struct {
	io.ReaderAt
	reads, bytes int
}

func (n *countedNAR) ReadAt(p []byte, off int64) (int, error) {
	n.reads++
	n.bytes += len(p)
	return n.ReaderAt.ReadAt(p, off)
}

func TestCheckNARIsFrugal(t *testing.T) {
	large := archive(directory(entry("a", file(strings.Repeat("x", 64<<20))), entry("b", file("y"))))
	deep := archive(nested(100_000, file("")))
	for name, c := range map[string]struct {
		data  string
		bytes int
	}{"contents are skipped": {large, 16 << 10}, "depth is noticed at once": {deep, 64 << 10}} {
		n := &countedNAR{ReaderAt: strings.NewReader(c.data)}
		err := nar.Check(n, int64(len(c.data)))
		if (err == nil) != (c.data == large) || n.bytes > c.bytes {
			t.Errorf("%s: CheckNAR of %d bytes = %v, and reads %d, want at most %d", name, len(c.data), err, n.bytes, c.bytes)
		}
	}
	many, r := smallFiles(10_000, 100), strings.NewReader("")
	allocs := testing.AllocsPerRun(1, func() {
		r.Reset(many)
		if err := nar.Check(r, int64(len(many))); err != nil {
			t.Error(err)
		}
	})
	if allocs > 20 {
		t.Errorf("Check of 10,000 files takes memory %v times", allocs)
	}
}

func TestCheckNARBlamesNobodyForTheDisk(t *testing.T) {
	data := archive(file(strings.Repeat("x", 10_000)))
	if err := nar.Check(strings.NewReader(data[:5000]), int64(len(data))); !errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, store.ErrMalformed) {
		t.Errorf("Check of a file that has shrunk = %v, want ErrUnexpectedEOF", err)
	}
	if err := nar.Check(io.NewSectionReader(nil, 0, 0), int64(len(data))); err == nil || errors.Is(err, store.ErrMalformed) {
		t.Errorf("Check of nothing = %v, want an error that is not ErrMalformed", err)
	}
}

// smallFiles is an archive of n files of size bytes.
func smallFiles(n, size int) string {
	contents := strings.Repeat("x", size)
	var b strings.Builder
	for i := range n {
		b.WriteString(entry(fmt.Sprintf("file%06d", i), file(contents)))
	}
	return archive(directory(b.String()))
}

// BenchmarkCheckNAR reads 10,000 files of so many bytes from the disk's cache, as after a fetch.
func BenchmarkCheckNAR(b *testing.B) {
	for _, size := range []int{0, 100, 1000, 4000, 20_000} {
		data := []byte(smallFiles(10_000, size))
		name := filepath.Join(b.TempDir(), "nar")
		storetest.Must(b, os.WriteFile(name, data, 0o600))
		f, err := os.Open(name)
		storetest.Must(b, err)
		defer f.Close()
		for what, run := range map[string]func() error{
			"walk":    func() error { return nar.Check(f, int64(len(data))) },
			"SHA-256": func() error { _ = sha256.Sum256(data); return nil },
		} {
			b.Run(fmt.Sprintf("%d bytes, %s", size, what), func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				before := cpuTime(b)
				for b.Loop() {
					storetest.Must(b, run())
				}
				b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// cpuTime is what this process has used; on a busy machine nothing else says what something costs.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	storetest.Must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
