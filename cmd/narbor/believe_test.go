package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"narbor/cmd/narbor/exit"
	"narbor/store/nixconf"
	"narbor/trust"
)

const cacheKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

func TestBrokenSettingsOfNixChangeNothing(t *testing.T) {
	k := &keyState{log: zap.NewNop(), trusted: new(trust.Keys), shared: new(trust.Keys)}
	if err := errors.Join(k.trusted.Replace([]string{cacheKey}), k.shared.Replace([]string{cacheKey})); err != nil {
		t.Fatal(err)
	}
	k.nix = nixconf.Settings{Substituters: []string{"https://a"}, TrustedPublicKeys: []string{cacheKey}}
	k.changed(nixconf.Settings{}, errors.New("nix.conf is broken"))
	want := []string{"cache.nixos.org-1"}
	if got := k.trusted.Names(); !slices.Equal(got, want) {
		t.Errorf("%q are trusted, want %q", got, want)
	}
	if got := k.shared.Names(); !slices.Equal(got, want) {
		t.Errorf("what %q signed is shared, want %q", got, want)
	}
	if got := k.settings(); len(got.Substituters) != 1 {
		t.Errorf("the settings are %+v, want what they were", got)
	}
}

// Own builds go to members of a group; without a group there are none.
func TestCircleNeedsAGroup(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), atMost(5*time.Second)) // it would run on
	defer cancel()
	_, _, err := narbor(ctx, "run", "--state-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--port", "0", "--no-mdns",
		"--circle-key", "home-1")
	var coded exit.Error
	if !errors.As(err, &coded) || coded.Code != exit.Usage || !strings.Contains(err.Error(), "--group-secret-file") {
		t.Errorf("run with --circle-key and no group = %v, want a usage error that names --group-secret-file", err)
	}
}
