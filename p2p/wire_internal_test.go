package p2p

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"

	"narbor/store"
)

// With -update the golden requests in testdata/wire are written anew: go test ./p2p -run Golden -update
var update = flag.Bool("update", false, "write testdata/wire anew")

const (
	partA = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")
	partB = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
)

// nar is the NarHash sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0.
func narHash(t testing.TB) store.Hash {
	h, err := store.ParseHash("sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func goldenRequests(t testing.TB) map[string]request {
	nar := narHash(t)
	return map[string]request{
		"claims-1":    {kind: askClaims, hashParts: []store.HashPart{partA}},
		"claims-2":    {kind: askClaims, hashParts: []store.HashPart{partA, partB}},
		"manifest":    {kind: askManifest, hashParts: []store.HashPart{partA}, nar: nar},
		"have":        {kind: askHave, hashParts: []store.HashPart{partA}, nar: nar},
		"block-0":     {kind: askBlock, hashParts: []store.HashPart{partA}, nar: nar},
		"block-127":   {kind: askBlock, hashParts: []store.HashPart{partB}, nar: nar, block: 127},
		"block-70000": {kind: askBlock, hashParts: []store.HashPart{partA}, nar: nar, block: 70000},
	}
}

func TestGoldenRequests(t *testing.T) {
	for name, want := range goldenRequests(t) {
		file := filepath.Join("testdata", "wire", name+".hex")
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(appendRequest(nil, want))+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if got := appendRequest(nil, want); !bytes.Equal(got, frame) {
			t.Errorf("%s: request is %x, want %x", name, got, frame)
		}
		if got, err := readRequest(bufio.NewReader(bytes.NewReader(frame))); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: readRequest = %+v, %v, want %+v", name, got, err, want)
		}
	}
}

// goldenFurther is claims that were not asked for, and their end.
func goldenFurther() []furtherClaim {
	return []furtherClaim{{partA, "StorePath: " + store.Dir + "/" + string(partA) + "-a\n"}, {partB, "x"}}
}

type furtherClaim struct {
	hp   store.HashPart
	text string
}

func appendFurther(t testing.TB, all []furtherClaim) []byte {
	var b bytes.Buffer
	bw := bufio.NewWriter(&b)
	for _, c := range all {
		if err := writeFurther(bw, c.hp, c.text); err != nil {
			t.Fatal(err)
		}
	}
	bw.WriteByte(0)
	bw.Flush()
	return b.Bytes()
}

func readAllFurther(in []byte) (got []furtherClaim, err error) {
	err = readFurther(bufio.NewReader(bytes.NewReader(in)), func(hp store.HashPart, text string) {
		got = append(got, furtherClaim{hp, text})
	})
	return got, err
}

func TestGoldenFurtherClaims(t *testing.T) {
	file, want := filepath.Join("testdata", "wire", "further.hex"), goldenFurther()
	if *update {
		if err := os.WriteFile(file, []byte(hex.EncodeToString(appendFurther(t, want))+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if got := appendFurther(t, want); !bytes.Equal(got, answer) {
		t.Errorf("further claims are %x, want %x", got, answer)
	}
	if got, err := readAllFurther(answer); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("readFurther = %+v, %v, want %+v", got, err, want)
	}
	for cut := range answer {
		if got, err := readAllFurther(answer[:cut]); err != io.ErrUnexpectedEOF {
			t.Errorf("readFurther(cut at %d) = %+v, %v, want unexpected EOF", cut, got, err)
		}
	}
}

func TestFurtherClaimsHaveLimits(t *testing.T) {
	text := strings.Repeat("x", maxFurtherLen/4)
	many := make([]furtherClaim, maxFurther+1)
	for i := range many {
		many[i] = furtherClaim{partA, "x"}
	}
	for _, c := range []struct {
		name string
		all  []furtherClaim
		want error
	}{
		{"as many as may be", many[1:], nil},
		{"one too many", many, errWire},
		{"as long as may be", []furtherClaim{{partA, text}, {partA, text}, {partA, text}, {partA, text}}, nil},
		{"a byte too long", []furtherClaim{{partA, text}, {partA, text}, {partA, text}, {partA, text}, {partA, "x"}}, errWire},
	} {
		if got, err := readAllFurther(appendFurther(t, c.all)); !errors.Is(err, c.want) {
			t.Errorf("%s: readFurther = %d claims, %v, want %v", c.name, len(got), err, c.want)
		}
	}
}

func TestReadRequestRefuses(t *testing.T) {
	good := appendRequest(nil, request{kind: askBlock, hashParts: []store.HashPart{partA}, nar: narHash(t), block: 5})
	frame := func(body ...byte) []byte { return append([]byte{byte(len(body))}, body...) }
	edit := func(at int, b byte) []byte {
		f := bytes.Clone(good)
		f[at] = b
		return f
	}
	for name, in := range map[string][]byte{
		"empty frame":           {0},
		"unknown kind":          frame(9, 1, 2, 3),
		"no hash part":          frame(byte(askClaims)),
		"half a hash part":      frame(append([]byte{byte(askClaims)}, make([]byte, 30)...)...),
		"too long":              {0xff, 0xff, 0x7f, 1},
		"endless length":        bytes.Repeat([]byte{0xff}, 20),
		"length not shortest":   {0x81, 0x00, 1},
		"other multihash":       edit(2+hashPartBytes+2, 0x13),
		"other codec":           edit(2+hashPartBytes+1, 0x70),
		"CID version 0":         edit(2+hashPartBytes, 0x12),
		"no block number":       append([]byte{good[0] - 1}, good[1:len(good)-1]...),
		"bytes after it":        append([]byte{good[0] + 1}, append(bytes.Clone(good[1:]), 7)...),
		"block of more than TB": append([]byte{good[0] + 3}, append(bytes.Clone(good[1:len(good)-1]), 0xff, 0xff, 0xff, 0x7f)...),
		"manifest with a block": edit(1, byte(askManifest)),
	} {
		if r, err := readRequest(bufio.NewReader(bytes.NewReader(in))); !errors.Is(err, errWire) {
			t.Errorf("%s: readRequest(%x) = %+v, %v, want errWire", name, in, r, err)
		}
	}
	for cut := 1; cut < len(good); cut++ {
		if r, err := readRequest(bufio.NewReader(bytes.NewReader(good[:cut]))); err != io.ErrUnexpectedEOF {
			t.Errorf("readRequest(cut at %d) = %+v, %v, want unexpected EOF", cut, r, err)
		}
	}
}

func TestAnswersThatBreakTheFormat(t *testing.T) {
	const size = 3*store.BlockSize + 10
	read := func(in []byte, what string) error {
		br := bufio.NewReader(bytes.NewReader(in))
		var err error
		switch what {
		case "claim":
			_, _, err = readClaim(br)
		case "block":
			_, _, err = readBlock(br, make([]byte, 10))
		case "manifest":
			_, err = readManifest(br, size)
		case "have":
			_, err = readHave(br, 12)
		}
		return err
	}
	for _, c := range []struct {
		what, name string
		in         []byte
		want       error
	}{
		{"claim", "too long", []byte{0x82, 0x80, 0x80, 0x01}, errWire},
		{"claim", "cut", []byte{10, 'a'}, io.ErrUnexpectedEOF},
		{"claim", "of nothing, being received", []byte{1}, errWire},
		{"claim", "nothing", nil, io.ErrUnexpectedEOF},
		{"block", "gone", []byte{0}, store.ErrNotFound},
		{"block", "unknown status", []byte{8}, errWire},
		{"block", "later", []byte{4}, errLater},
		{"block", "shorter", append([]byte{1, 9}, make([]byte, 9)...), errWire},
		{"block", "longer", append([]byte{1, 11}, make([]byte, 11)...), errWire},
		{"block", "cut", append([]byte{1, 10}, make([]byte, 9)...), io.ErrUnexpectedEOF},
		{"block", "nothing", nil, io.ErrUnexpectedEOF},
		{"manifest", "none", []byte{0}, store.ErrNotFound},
		{"manifest", "fewer", append([]byte{3}, make([]byte, 96)...), errWire},
		{"manifest", "more", append([]byte{5}, make([]byte, 160)...), errWire},
		{"have", "none", []byte{0}, store.ErrNotFound},
		{"have", "shorter", []byte{1, 0xff}, errWire},
		{"have", "longer", []byte{3, 0xff, 0x0f, 0}, errWire},
		{"have", "blocks that there are not", []byte{2, 0xff, 0x1f}, errWire},
		{"have", "cut", []byte{2, 0xff}, io.ErrUnexpectedEOF},
		{"have", "good", []byte{2, 0xff, 0x0f}, nil},
		{"manifest", "cut", append([]byte{4}, make([]byte, 127)...), io.ErrUnexpectedEOF},
	} {
		if err := read(c.in, c.what); !errors.Is(err, c.want) {
			t.Errorf("%s, %s: %v, want %v", c.what, c.name, err, c.want)
		}
	}
}

// BenchmarkBlock writes the answer to a block request and reads it, as it is and packed.
func BenchmarkBlock(b *testing.B) {
	for name, as := range map[string]status{"raw": statusRaw, "s2": statusS2, "zstd": statusZstd} {
		b.Run(name, func(b *testing.B) {
			from := make([]byte, blockHead+s2.MaxEncodedLen(store.BlockSize))
			to := make([]byte, store.BlockSize)
			size := copy(from[blockHead:], text(store.BlockSize))
			if as != statusRaw {
				packed, ok := pack(as, text(store.BlockSize), make([]byte, len(from)))
				if !ok {
					b.Fatal("not worth it")
				}
				size = copy(from[blockHead:], packed)
			}
			var wire bytes.Buffer
			bw, br := bufio.NewWriterSize(&wire, 4<<10), bufio.NewReaderSize(&wire, 16<<10)
			b.SetBytes(store.BlockSize)
			for b.Loop() {
				if err := errors.Join(writeBlock(bw, readyBlock{as, &from, size}), bw.Flush()); err != nil {
					b.Fatal(err)
				}
				if _, _, err := readBlock(br, to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
