package nixstore

import (
	"context"
	"io"
	"strings"

	"github.com/nix-community/go-nix/pkg/wire"

	"narbor/store"
)

// fetched reports whether a path is what Nix fetches by a hash known before, as far as the database tells. Nix 2.8,
// 2.26 and 2.34 record alike:
//
//	output of a fixed-output derivation      fixed:…, deriver, ultimate; the table of outputs has it
//	the same, from a substituter             fixed:…; the table of outputs has it
//	output of a content-addressed build      fixed:…, deriver, ultimate; not in the table of outputs
//	flake input, fetchTree, fetchTarball     fixed:r:…, the name "source"
//	local flake, lib.cleanSource of a folder the same
//	builtins.fetchurl, nix-prefetch-url      fixed:…
//	file that is copied in flat              the same
//	local directory or file, nix-store --add fixed:r:…, its own name
//	nix store add --mode git                 fixed:git:…, its own name
//	builtins.toFile, .drv                    text:…
//
// Those that look alike count as fetched: a local directory that is called source, and a file that is copied in flat. A
// neighbour still has to name their hash part, and that can be computed only from a hash of the content.
func (d *daemon) fetched(ctx context.Context, info store.Info) bool {
	hash, ok := strings.CutPrefix(info.CA, "fixed:")
	if !ok || len(info.References) > 0 {
		return false
	}
	recursive := strings.HasPrefix(hash, "r:") || strings.HasPrefix(hash, "git:") // a folder may be hashed so
	if !info.Ultimate && info.Deriver.IsZero() && (!recursive || info.Path.Name() == "source") {
		return true
	}
	derivers, err := d.paths(ctx, daemonRequest{
		op:   opQueryValidDerivers,
		args: func(w io.Writer, _ uint64) { _ = wire.WriteString(w, info.Path.String()) },
	})
	return err == nil && len(derivers) > 0 // the derivations that say this path in advance
}
