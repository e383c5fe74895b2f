package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"

	"narbor/store/statefile"
)

// maxIdentity bounds the identity file; a real one has about 120 bytes.
const maxIdentity = 4 << 10

// LoadIdentity reads this machine's ed25519 key from path (PKCS #8 in PEM), or makes one there if there is no file. If
// several processes make one at the same time, all get the same. A file that others may read is refused, because every
// holder of the key can answer in this machine's name.
func LoadIdentity(path string) (crypto.PrivKey, error) {
	key, err := readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_, fresh, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := createIdentity(path, fresh); err != nil {
		return nil, fmt.Errorf("create identity: %w", err)
	}
	return readIdentity(path)
}

// KeepIdentity writes a key that [LoadIdentity] has returned to path, unless there is one.
func KeepIdentity(path string, key crypto.PrivKey) error {
	std, err := crypto.PrivKeyToStdKey(key)
	if err != nil {
		return err
	}
	ed, ok := std.(*ed25519.PrivateKey)
	if !ok {
		return fmt.Errorf("want an ed25519 key, found %T", std)
	}
	return createIdentity(path, *ed)
}

func readIdentity(path string) (crypto.PrivKey, error) {
	text, st, err := statefile.ReadText(path, maxIdentity)
	if _, failed := errors.AsType[*fs.PathError](err); failed {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if err != nil { // it is too long, or no file
		return nil, fmt.Errorf("identity: %w; delete it to get a new one", err)
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("identity %s is open to others (mode %04o): chmod 600 it, or delete it to get a new one", path, mode)
	}
	key, err := parseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w; delete it to get a new one", path, err)
	}
	return key, nil
}

func parseIdentity(text []byte) (crypto.PrivKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM block of type PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("want an ed25519 key, found %T", parsed)
	}
	priv, _, err := crypto.KeyPairFromStdKey(&key)
	return priv, err
}

// createIdentity writes a key beside path and links it there, so that path is never seen half-written and
// a key that was put there meanwhile stays.
func createIdentity(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".identity-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	switch err := os.Link(f.Name(), path); {
	case err == nil, errors.Is(err, fs.ErrExist):
		return nil
	default: // no hard links on this file system
		return os.Rename(f.Name(), path)
	}
}
