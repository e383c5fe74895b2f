package peers

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestGroupVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/group.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ Secret, Key, Opener, Answerer, OpenerNonce, AnswererNonce, OpenerProof, AnswererProof string }
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, v := range vectors {
		key, err := groupKey(unhex(v.Secret))
		if err != nil || hex.EncodeToString(key) != v.Key {
			t.Errorf("vector %d: groupKey = %x, %v, want %s", i, key, err, v.Key)
		}
		h := handshake{openerNonce: [32]byte(unhex(v.OpenerNonce)), answererNonce: [32]byte(unhex(v.AnswererNonce))}
		for id, text := range map[*peer.ID]string{&h.opener: v.Opener, &h.answerer: v.Answerer} {
			if *id, err = peer.Decode(text); err != nil {
				t.Fatal(err)
			}
		}
		for role, want := range map[byte]string{roleOpener: v.OpenerProof, roleAnswerer: v.AnswererProof} {
			if got := hex.EncodeToString(h.proof(key, role)); got != want {
				t.Errorf("vector %d: proof of role %d = %s, want %s", i, role, got, want)
			}
		}
	}
}

func TestGroupProofsHoldForOneUse(t *testing.T) {
	key, err := groupKey([]byte("the secret of the group A"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := groupKey([]byte("the secret of the group B"))
	if err != nil {
		t.Fatal(err)
	}
	h := handshake{opener: "a", answerer: "bc"}
	for name, c := range map[string]struct {
		h    handshake
		key  []byte
		role byte
		ok   bool
	}{
		"itself":        {h, key, roleOpener, true},
		"other role":    {h, key, roleAnswerer, false},
		"other key":     {h, other, roleOpener, false},
		"swapped":       {handshake{opener: "bc", answerer: "a"}, key, roleOpener, false},
		"moved border":  {handshake{opener: "ab", answerer: "c"}, key, roleOpener, false},
		"other nonce":   {handshake{opener: "a", answerer: "bc", openerNonce: [32]byte{1}}, key, roleOpener, false},
		"other nonce 2": {handshake{opener: "a", answerer: "bc", answererNonce: [32]byte{1}}, key, roleOpener, false},
	} {
		if err := c.h.check(c.key, c.role, h.proof(key, roleOpener)); (err == nil) != c.ok {
			t.Errorf("%s: check = %v, want accepted %v", name, err, c.ok)
		}
	}
	if err := h.check(key, roleOpener, h.proof(key, roleOpener)[:31]); err == nil {
		t.Error("a proof cut short was accepted")
	}
}

func TestGroupSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string // "!" and a part of the error, or the secret
	}{
		"newline":   {"0123456789abcdef\n", 0o600, "0123456789abcdef"},
		"systemd's": {" 0123456789abcdef \r\n", 0o440, "0123456789abcdef"},
		"short":     {"0123456789abcde\n", 0o600, "!head -c 32 /dev/urandom | base64"},
		"empty":     {"", 0o600, "!head -c 32"},
		"blank":     {strings.Repeat(" ", 40), 0o600, "!head -c 32"},
		"open":      {"0123456789abcdef\n", 0o604, "!chmod 600"},
		"writable":  {"0123456789abcdef\n", 0o602, "!chmod 600"},
		"endless":   {strings.Repeat("x", maxSecret+1), 0o600, "!longer"},
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(file, []byte(c.text), 0o600), os.Chmod(file, c.mode)); err != nil {
			t.Fatal(err)
		}
		got, err := LoadGroupSecret(file)
		if part, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), file) {
				t.Errorf("%s: LoadGroupSecret = %q, %v, want an error with %q and the file's name", name, got, err, part)
			}
		} else if err != nil || string(got) != c.want {
			t.Errorf("%s: LoadGroupSecret = %q, %v, want %q", name, got, err, c.want)
		}
	}
	if _, err := LoadGroupSecret(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("LoadGroupSecret(absent) = %v, want ErrNotExist", err)
	}
}
