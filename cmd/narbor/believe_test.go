package main

import (
	"errors"
	"slices"
	"testing"

	"go.uber.org/zap"

	"narbor/store/nixconf"
	"narbor/trust"
)

const cacheKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

func TestBrokenSettingsOfNixChangeNothing(t *testing.T) {
	s := &service{log: zap.NewNop(), trusted: new(trust.Keys), shareKeys: new(trust.Keys)}
	if err := errors.Join(s.trusted.Replace([]string{cacheKey}), s.shareKeys.Replace([]string{cacheKey})); err != nil {
		t.Fatal(err)
	}
	s.settings.set(nixconf.Settings{Substituters: []string{"https://a"}, TrustedPublicKeys: []string{cacheKey}})
	s.settingsChanged(nixconf.Settings{}, errors.New("nix.conf is broken"))
	want := []string{"cache.nixos.org-1"}
	if got := s.trusted.Names(); !slices.Equal(got, want) {
		t.Errorf("%q are trusted, want %q", got, want)
	}
	if got := s.shareKeys.Names(); !slices.Equal(got, want) {
		t.Errorf("what %q signed is shared, want %q", got, want)
	}
	if got := s.settings.get(); len(got.Substituters) != 1 {
		t.Errorf("the settings are %+v, want what they were", got)
	}
}
