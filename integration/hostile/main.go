// Hostile is a neighbour that lies: it speaks narbor's protocol, claims truthfully which store paths it has, and
// corrupts every byte of every archive that it sends. Tests let it loose on a LAN.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/zap"

	"narbor/p2p"
	"narbor/store"
	"narbor/trust"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(1)
	}
}

// run shares, badly, what this machine's Nix store has and its Nix trusts.
func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument: a directory for the spool")
	}
	log, err := zap.NewDevelopment()
	if err != nil {
		return err
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return err
	}
	settings, err := store.ReadNixSettings(ctx)
	if err != nil {
		return err
	}
	keys, err := trust.ParseKeys(settings.TrustedPublicKeys)
	if err != nil {
		return err
	}
	nix, err := store.OpenNix(ctx, store.NixStoreConfig{})
	if err != nil {
		return err
	}
	defer nix.Close()
	spool, err := store.OpenSpool(store.SpoolConfig{Dir: args[0], MinFree: -1})
	if err != nil {
		return err
	}
	defer spool.Close()
	node, err := p2p.New(p2p.Config{Identity: key, Port: 6273, MDNS: true, Version: "hostile",
		Share: []store.Source{liar{nix}}, Trusted: keys, ShareKeys: keys, Spool: spool, Log: log})
	if err != nil {
		return err
	}
	return node.Run(ctx)
}

// A liar is a Source whose claims are right and whose archives are wrong.
type liar struct{ store.Source }

func (l liar) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := l.Source.NAR(ctx, info)
	if err != nil {
		return nil, err
	}
	return wrongNAR{nar}, nil
}

// A wrongNAR has no byte that is right.
type wrongNAR struct{ store.NAR }

func (w wrongNAR) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.NAR.ReadAt(p, off)
	for i := range p[:n] {
		p[i] = ^p[i]
	}
	return n, err
}
