package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
)

func TestIdentityStaysTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "identity.key")
	first, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadIdentity(path)
	if err != nil || !again.Equals(first) {
		t.Errorf("LoadIdentity, the second time = %v, %v, want the same key", again, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("%d files beside the identity, want it alone", len(files))
	}
}

func TestIdentityIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	keys := make([]crypto.PrivKey, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = LoadIdentity(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k == nil || !k.Equals(keys[0]) {
			t.Fatal("two callers got different identities")
		}
	}
}

func TestBadIdentityIsRefused(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if _, err := LoadIdentity(good); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		text []byte
		mode os.FileMode
		want string
	}{
		{"open to others", text, 0o644, "chmod 600"},
		{"open to the group", text, 0o640, "chmod 600"},
		{"empty", nil, 0o600, "PEM"},
		{"garbage", []byte("hello"), 0o600, "PEM"},
		{"cut", text[:len(text)/2], 0o600, "PEM"},
		{"another kind of key", ecdsaKey(t), 0o600, "ed25519"},
		{"long", append(make([]byte, maxIdentity), text...), 0o600, "delete it to get a new one"},
	} {
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: LoadIdentity = %v, want an error about %q", c.name, err, c.want)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(c.text) {
			t.Errorf("%s: the file was changed", c.name)
		}
	}
	if _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("LoadIdentity(directory) = %v, want an error that says what to do", err)
	}
	loop := filepath.Join(dir, "loop") // it cannot be read now, and may be whole
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(loop); err == nil || strings.Contains(err.Error(), "delete it") {
		t.Errorf("LoadIdentity(a file that cannot be read) = %v, want an error that does not advise to delete it", err)
	}
}

func ecdsaKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
