// Package circle keeps a machine's membership of a circle: a group in which members get the own builds of others. The
// state directory has it in one file, and the file for the other members has the same form:
//
//	{
//	  "schema": 1,
//	  "circle": "home",
//	  "secret": "<base64 of 32 bytes>",
//	  "keys": [
//	    "home-1:<base64 of 32 bytes>"
//	  ]
//	}
//
// On the machine that signs, the state directory's file also has "signingKey", the path of Nix's secret key. The key
// itself is written once, when it is made, and never opened again. A file is accepted only in exactly this form,
// which is that of `jq .`, so no field is in it twice, and none that is not read.
package circle

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"narbor/trust"
)

const (
	schema    = 1
	secretLen = 32
	maxKeys   = 8       // one for each machine that builds
	maxFile   = 4 << 10 // bytes; the largest that is valid has 1 KiB
)

// A Circle is a group with the keys that sign its members' own builds.
type Circle struct {
	Schema     int      `json:"schema"`
	Name       string   `json:"circle"`
	Secret     string   `json:"secret"`               // of the group
	Keys       []string `json:"keys"`                 // "<name>:<base64>"
	SigningKey string   `json:"signingKey,omitempty"` // path of the secret key on this machine; "" on other members
}

// ErrSecretKey says that a file has a secret signing key in it.
var ErrSecretKey = errors.New("has a secret signing key in it, which must not leave the machine that signs: give the file that " +
	"`narbor circle init` has written, and end that key by `narbor circle rotate` if others have seen it")

var (
	// A name has no dot: a key called after the host of a public cache would be public.
	goodName  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	secretKey = regexp.MustCompile(`:[A-Za-z0-9+/]{80,86}`) // of Nix: base64 of 64 bytes, where a public key has 32
)

// CheckName returns an error if a circle cannot have the name.
func CheckName(name string) error {
	if !goodName.MatchString(name) {
		return fmt.Errorf("%.40q is no name for a circle: use a lower-case letter, then at most 31 of a-z, 0-9 and -, such as home", name)
	}
	return nil
}

// New returns a circle with a new secret, and without keys.
func New(name string) (Circle, error) {
	secret := make([]byte, secretLen)
	rand.Read(secret)
	return Circle{Schema: schema, Name: name, Secret: base64.StdEncoding.EncodeToString(secret)}, CheckName(name)
}

// NextKeyName returns the name of the circle's next key: home-2 after home-1.
func (c Circle) NextKeyName() string {
	last := 0
	for _, key := range c.Keys {
		name, _, _ := strings.Cut(key, ":")
		n, _ := strconv.Atoi(strings.TrimPrefix(name, c.Name+"-"))
		last = max(last, n)
	}
	return c.Name + "-" + strconv.Itoa(last+1)
}

// newKey makes a key pair in Nix's own format.
func newKey(name string) (secret []byte, public string, err error) {
	sec, pub, err := signature.GenerateKeypair(name, rand.Reader)
	return []byte(sec.String()), pub.String(), err
}

// Fingerprint returns a digest of a public key, for people to compare.
func Fingerprint(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Invitation returns what other members get: all but the path of this machine's secret key.
func (c Circle) Invitation() Circle {
	c.SigningKey = ""
	return c
}

// text is the inverse of parse.
func (c Circle) text() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil { // strings and a number
		panic(err)
	}
	return b.Bytes()
}

// unfit reports a rune that a path in nix.conf cannot have, or that a terminal would obey.
func unfit(r rune) bool { return r <= ' ' || r == '#' || r >= 0x7f && r < 0xa0 }

// parse reads a circle. Its errors show nothing of the secret.
func parse(text []byte) (c Circle, err error) {
	if secretKey.Match(text) {
		return c, ErrSecretKey
	}
	if json.Unmarshal(text, &c) != nil || !bytes.Equal(c.text(), text) {
		return c, errors.New("is not the file of a circle as narbor writes it: get it again from the machine that has made it")
	}
	if c.Schema != schema {
		return c, fmt.Errorf("has the schema %d, and this narbor knows %d: use the same version on all machines", c.Schema, schema)
	}
	if err := CheckName(c.Name); err != nil {
		return c, err
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(c.Secret)
	if err != nil || len(secret) != secretLen {
		return c, fmt.Errorf("has a secret that is not the base64 of %d bytes", secretLen)
	}
	if k := c.SigningKey; k != "" && (!filepath.IsAbs(k) || filepath.Clean(k) != k || strings.ContainsFunc(k, unfit)) {
		return c, errors.New("has no path of a signing key that nix.conf could name")
	}
	if len(c.Keys) < 1 || len(c.Keys) > maxKeys {
		return c, fmt.Errorf("has %d keys: 1 to %d are possible", len(c.Keys), maxKeys)
	}
	for _, key := range c.Keys {
		if _, err := trust.ParseKeys([]string{key}); err != nil {
			return c, err
		}
		name, _, _ := strings.Cut(key, ":")
		number, own := strings.CutPrefix(name, c.Name+"-")
		if n, err := strconv.ParseUint(number, 10, 16); !own || err != nil || n == 0 {
			return c, fmt.Errorf("has a key called %.80q: a key of this circle is called %s-1, %[2]s-2 and so on", name, c.Name)
		}
	}
	return c, nil
}
