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

// A Policy decides which of this machine's paths others may have.
type Policy struct {
	Keys    *Keys // one of these must have signed a path
	Circle  *Keys // one of these must have signed a path that was built here; nil keeps all such paths here
	Fetched bool  // sources that Nix has fetched by their hash need no signature
	Public  *Keys // for [Policy.KindOf] alone: those of Keys that are public; nil is all
}

// isSource reports whether others may have a path without a signature: it is known by a hash of its content, and Nix's
// database says that it was fetched. A derivation, a text and a path with references never are.
func (p Policy) isSource(info store.Info) bool {
	return p.Fetched && info.Fetched && strings.HasPrefix(info.CA, "fixed:") && len(info.References) == 0 &&
		!strings.HasSuffix(info.Path.Name(), ".drv")
}

// MayLeave reports whether others may have the path of info, of which the keys of [Policy.KeysFor] have made m.
func (p Policy) MayLeave(info store.Info, m Mapping) bool {
	return m.signedBy != "" || p.isSource(info)
}

// KeysFor returns the keys of which one must have signed a path before others may have it. The error says why the path
// stays here whatever has signed it.
func (p Policy) KeysFor(info store.Info) (*Keys, error) {
	switch {
	case p.isSource(info):
		return p.Keys, nil
	case info.Ultimate && p.Circle == nil:
		return nil, fmt.Errorf("%s stays here: %w", info.Path, ErrBuiltHere)
	case strings.HasSuffix(info.Path.Name(), ".drv"):
		return nil, fmt.Errorf("%s stays here: %w", info.Path, ErrDerivation)
	case info.Ultimate:
		return p.Circle, nil
	}
	return p.Keys, nil
}

// Check is [Keys.Check] for a path of this machine: the error is nil only if others may have the path.
func (p Policy) Check(info store.Info) (Mapping, error) {
	keys, err := p.KeysFor(info)
	if err != nil {
		return Mapping{}, err
	}
	m, err := keys.Check(info)
	switch {
	case err == nil && p.MayLeave(info, m):
		return m, nil
	case info.Ultimate:
		return Mapping{}, fmt.Errorf("%s stays here: %w, and no key of the circle has signed it", info.Path, ErrBuiltHere)
	case err == nil:
		return Mapping{}, fmt.Errorf("%s stays here: %w", info.Path, ErrUnsigned)
	}
	return Mapping{}, err
}

// CheckShared is the Check of a policy with these keys and without a circle.
func (k *Keys) CheckShared(info store.Info) (Mapping, error) { return Policy{Keys: k}.Check(info) }
