package trust_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"

	"narbor/store"
	"narbor/trust"
)

// A claim becomes a mapping only if a trusted key has signed it.
func ExampleKeys_Check() {
	public, secret, _ := ed25519.GenerateKey(nil)
	keys, err := trust.ParseKeys([]string{"cache.example.org-1:" + base64.StdEncoding.EncodeToString(public)})
	if err != nil {
		fmt.Println(err)
		return
	}
	path, _ := store.ParsePath("/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-hello")
	hash, _ := store.ParseHash("sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0")
	claim := store.Info{Path: path, NarHash: hash, NarSize: 196040}

	_, err = keys.Check(claim)
	fmt.Println(errors.Is(err, trust.ErrUntrusted))

	fingerprint := fmt.Sprintf("1;%s;%s;%d;", claim.Path, claim.NarHash, claim.NarSize)
	claim.Signatures = []string{"cache.example.org-1:" + base64.StdEncoding.EncodeToString(ed25519.Sign(secret, []byte(fingerprint)))}
	m, err := keys.Check(claim)
	fmt.Println(m.Path().Name(), m.NarSize(), err)
	// Output:
	// true
	// hello 196040 <nil>
}
