package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/trust"
)

// nixSettings are what Nix's configuration was when it was read last.
type nixSettings struct {
	mu  sync.Mutex // guards now
	now store.NixSettings
}

func (n *nixSettings) set(s store.NixSettings) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = s
}

func (n *nixSettings) get() store.NixSettings {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

// keysOf returns the keys of Nix's configuration. What is no key is left out, as it makes Nix fail already.
func keysOf(settings store.NixSettings, log *zap.Logger) (keys []string) {
	for _, key := range settings.TrustedPublicKeys {
		if _, err := trust.ParseKeys([]string{key}); err != nil {
			log.Warn("left out of trusted-public-keys", zap.String("from", settings.Origin), zap.Error(err))
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// believe takes over the keys of Nix's configuration.
func (s *service) believe(settings store.NixSettings) error {
	s.settings.set(settings)
	trusted := slices.Concat(s.keys, keysOf(settings, s.log))
	own, unreadable := ownKeys(settings.SecretKeyFiles)
	if err := s.trusted.Replace(slices.Concat(trusted, own)); err != nil { // Nix trusts its own keys, too
		return codedError{fmt.Errorf("--trusted-key: %w", err), exitUsage}
	}
	if len(unreadable) > 0 {
		// A key whose name is unknown may be any of the trusted ones, and what it signed was built here.
		s.log.Warn("cannot tell which trusted key is this machine's own, so nothing is shared: let narbor read the file, or remove it from secret-key-files",
			zap.Strings("secretKeyFiles", unreadable))
		return s.shareKeys.Replace(nil)
	}
	return s.shareKeys.Replace(trust.Upstream(trusted, own))
}

// ownKeys returns the public keys of the secret keys in files, and the files that cannot be read.
func ownKeys(files []string) (own, unreadable []string) {
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		key := ""
		if err == nil {
			key, err = trust.OwnPublicKey(string(text))
		}
		if err != nil {
			unreadable = append(unreadable, file)
			continue
		}
		own = append(own, key)
	}
	return own, unreadable
}

func (s *service) settingsChanged(settings store.NixSettings, err error) {
	if err == nil {
		err = s.believe(settings)
	}
	if err != nil {
		s.log.Error("Nix's configuration has changed and cannot be read; the keys stay as they were", zap.Error(err))
		return
	}
	s.log.Info("Nix's configuration has changed", zap.Strings("keys", s.trusted.Names()), zap.Strings("shareKeys", s.shareKeys.Names()))
}
