package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/store"
)

func claimFaults() []fault {
	return []fault{
		{name: "forged-claim", says: "claims of another NarHash, signed by a key with the right name", claim: claims(forged)},
		{name: "altered-claim", says: "true claims with another NarSize",
			claim: claims(func(_ context.Context, _ *machine, info store.Info) store.Info {
				info.NarSize++
				return info
			})},
		{name: "unsigned-claim", says: "true claims without a signature",
			claim: claims(func(_ context.Context, _ *machine, info store.Info) store.Info {
				info.Signatures = nil
				return info
			})},
		{name: "mixed-claim", says: "the right path with the hash, size and signatures of another",
			claim: claims(func(ctx context.Context, m *machine, info store.Info) store.Info {
				if other, ok := m.other(ctx, info.Path); ok {
					other.Path = info.Path
					return other
				}
				return info
			})},
		{name: "misplaced-claim", says: "the true and signed claim about another path than was asked about",
			claim: claims(func(ctx context.Context, m *machine, info store.Info) store.Info {
				if other, ok := m.other(ctx, info.Path); ok {
					return other
				}
				return info
			})},
		{name: "false-hash-part", says: "the same true claim for every path that is asked for", always: true,
			claim: oneClaim},
		{name: "oversized-claim", says: "claims of a megabyte and a byte", always: true,
			claim: text(func(store.Info) string { return strings.Repeat("x", store.MaxInfoLen+1) })},
		{name: "fat-claim", says: "claims as long as they may be, with nothing in them", always: true,
			claim: text(func(store.Info) string { return strings.Repeat("Sig: a:b\n", store.MaxInfoLen/9) })},
		{name: "garbled-claim", says: "claims that are no narinfo", always: true,
			claim: text(func(store.Info) string { return "\x00StorePath: \xff\n" })},
		{name: "endless-claim", says: "a claim of 2^62 bytes that begins", always: true,
			claim: func(ctx context.Context, s network.Stream, _ *machine, _ store.HashPart, _ store.Info) error {
				if _, err := s.Write(binary.AppendUvarint(nil, 1<<62)); err != nil {
					return err
				}
				return noise(ctx, s)
			}},
		{name: "trickled-claim", says: "claims at one byte a second",
			claim: func(ctx context.Context, s network.Stream, _ *machine, _ store.HashPart, info store.Info) error {
				return trickle(ctx, s, claimAnswer(info.String()))
			}},
		{name: "silent-claim", says: "no answer to a question for claims", always: true,
			claim: func(ctx context.Context, s network.Stream, _ *machine, _ store.HashPart, _ store.Info) error {
				return silence(ctx, s)
			}},
		{name: "reset-claim", says: "a reset in the middle of a claim",
			claim: func(_ context.Context, s network.Stream, _ *machine, _ store.HashPart, info store.Info) error {
				b := claimAnswer(info.String())
				s.Write(b[:len(b)/2])
				return errReset
			}},
	}
}

// oneClaim answers with the same claim whatever was asked for.
func oneClaim(ctx context.Context, s network.Stream, m *machine, hp store.HashPart, _ store.Info) error {
	text := ""
	if other, ok := m.other(ctx, store.Path{}); ok && other.Path.HashPart() != hp {
		text = other.String()
	}
	_, err := s.Write(claimAnswer(text))
	return err
}

func claims(
	change func(context.Context, *machine, store.Info) store.Info,
) func(context.Context, network.Stream, *machine, store.HashPart, store.Info) error {
	return func(ctx context.Context, s network.Stream, m *machine, _ store.HashPart, info store.Info) error {
		_, err := s.Write(claimAnswer(change(ctx, m, info).String()))
		return err
	}
}

func text(of func(store.Info) string) func(context.Context, network.Stream, *machine, store.HashPart, store.Info) error {
	return func(_ context.Context, s network.Stream, _ *machine, _ store.HashPart, info store.Info) error {
		_, err := s.Write(claimAnswer(of(info)))
		return err
	}
}

// forged signs another NarHash with a new key, under the names of the true signatures.
func forged(_ context.Context, _ *machine, info store.Info) store.Info {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return info
	}
	rand.Read(info.NarHash[:])
	var refs []string
	for _, r := range info.References {
		refs = append(refs, r.String())
	}
	fingerprint := fmt.Sprintf("1;%s;%s;%d;%s", info.Path, info.NarHash, info.NarSize, strings.Join(refs, ","))
	var sigs []string
	for _, sig := range info.Signatures {
		name, _, _ := strings.Cut(sig, ":")
		sigs = append(sigs, name+":"+base64.StdEncoding.EncodeToString(ed25519.Sign(key, []byte(fingerprint))))
	}
	info.Signatures = sigs
	return info
}

// other returns a signed path of this machine's store that differs from p.
func (m *machine) other(ctx context.Context, p store.Path) (store.Info, bool) {
	for _, path := range m.paths(ctx) {
		info, err := m.nix.Info(ctx, path.HashPart())
		if err == nil && path != p && len(info.Signatures) > 0 {
			info.CA, info.Deriver = "", store.Path{}
			return info, true
		}
	}
	return store.Info{}, false
}

// paths returns the valid paths of this machine's store.
func (m *machine) paths(ctx context.Context) []store.Path {
	all, err := m.nix.AllValidPaths(ctx)
	if err != nil {
		fmt.Fprintln(m.stderr, "store:", err)
	}
	return all
}
