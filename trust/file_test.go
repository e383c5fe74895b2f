package trust_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"narbor/store"
	"narbor/trust"
)

func TestFileByContent(t *testing.T) {
	sum := sha256.Sum256([]byte("one\n"))
	base16 := hex.EncodeToString(sum[:])
	f, err := trust.ParseFile("sha256", base16)
	if err != nil {
		t.Fatal(err)
	}
	// By nix-hash and nix-store --print-fixed-path of Nix 2.8.
	if got, want := f.String(), "fixed:sha256:01j88cjwas5sxa2ybar6p1sg4kblrkffbw4sy7hrh0z6bkd0i2rc"; got != want {
		t.Errorf("String = %s, want %s", got, want)
	}
	if got, want := f.PathCalled("one"), store.HashPart("67fa0ckswdjik1myrwaazn50560jspvz"); got != want {
		t.Errorf("PathCalled(one) = %s, want %s", got, want)
	}
	again, err := trust.ParseFile("sha256", strings.TrimPrefix(f.String(), "fixed:sha256:"))
	if err != nil || again != f {
		t.Errorf("ParseFile of base 32 = %v, %v, want %v", again, err, f)
	}
	for name, contents := range map[string]string{"right": "one\n", "wrong": "two\n", "empty": ""} {
		r, err := f.In(memNAR{bytes.NewReader(plainFile([]byte(contents)))})
		if name != "right" {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("In(%s) = %v, want ErrCorrupt", name, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != contents {
			t.Errorf("In(right) has %q, %v", b, err)
		}
	}
	for _, bad := range [][2]string{{"sha256", ""}, {"sha256", base16[1:]}, {"sha256", strings.ToUpper(base16)}, {"sha512", base16},
		{"sha3", base16}, {"", base16}, {"sha256", base16 + "/"}} {
		if f, err := trust.ParseFile(bad[0], bad[1]); err == nil {
			t.Errorf("ParseFile(%q, %q) = %v, want an error", bad[0], bad[1], f)
		}
	}
}
