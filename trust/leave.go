package trust

import (
	"errors"
	"fmt"
	"strings"

	"narbor/store"
)

// Reasons why a path of this machine stays here.
var (
	// ErrBuiltHere says that Nix's database calls the path "ultimate": it was built on this machine.
	ErrBuiltHere = errors.New("built on this machine")
	// ErrDerivation says that the path is a derivation, which tells how something is built and from what.
	ErrDerivation = errors.New("a derivation")
	// ErrUnsigned says that the path needs no signature to be believed, and has none: private sources are like that.
	ErrUnsigned = errors.New("content-addressed, and not signed")
)

// MayLeave returns nil if a path may be given to others once a key of the sharing policy has signed it. What was built
// here and derivations may not, no matter which key has signed them.
func MayLeave(info store.Info) error {
	switch {
	case info.Ultimate:
		return fmt.Errorf("%s stays here: %w", info.Path, ErrBuiltHere)
	case strings.HasSuffix(info.Path.Name(), ".drv"):
		return fmt.Errorf("%s stays here: %w", info.Path, ErrDerivation)
	}
	return nil
}

// CheckShared is Check for what this machine has, where k are the keys of the sharing policy: the error is nil only if
// the path may be given to others.
func (k *Keys) CheckShared(info store.Info) (Mapping, error) {
	if err := MayLeave(info); err != nil {
		return Mapping{}, err
	}
	m, err := k.Check(info)
	if err == nil && m.signedBy == "" {
		return Mapping{}, fmt.Errorf("%s stays here: %w", info.Path, ErrUnsigned)
	}
	return m, err
}
