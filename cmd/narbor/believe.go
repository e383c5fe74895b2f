package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"

	"narbor/cmd/narbor/control"
	"narbor/store/nixconf"
	"narbor/trust"
)

// nixSettings are what Nix's configuration was when it was read last.
type nixSettings struct {
	mu  sync.Mutex // guards the rest
	now nixconf.Settings
	err error // why what was read last was not taken over; nil if it was
}

func (n *nixSettings) set(s nixconf.Settings) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now, n.err = s, nil
}

func (n *nixSettings) get() nixconf.Settings {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

func (n *nixSettings) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

// refused reports whether the latest configuration could not be used.
func (n *nixSettings) refused() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err != nil
}

// problems returns the parts of Nix's configuration that could not be read, each with the reason.
func (n *nixSettings) problems() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	problems := []string{}
	for _, u := range n.now.Unread {
		problems = append(problems, u.String())
	}
	if n.err != nil {
		problems = append(problems, n.err.Error())
	}
	return problems
}

// keysOf returns the keys of Nix's configuration. It leaves out malformed keys: Nix itself fails on them.
func keysOf(settings nixconf.Settings, log *zap.Logger) (keys []string) {
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
func (s *service) believe(settings nixconf.Settings) error {
	trusted := slices.Concat(s.keys, keysOf(settings, s.log))
	if err := s.trusted.Replace(trusted); err != nil {
		return control.WithCode(fmt.Errorf("--trusted-key: %w", err), control.ExitUsage)
	}
	s.settings.set(settings)
	for _, u := range settings.Unread {
		s.log.Warn("Nix's configuration cannot be read to its end; keys that it may make private are private",
			zap.String("file", u.File), zap.String("why", u.Why), zap.String("includedAt", u.At))
	}
	public := s.policy().of(trusted)
	shared := public
	if s.group {
		shared = trusted
	}
	return errors.Join(s.public.Replace(public), s.shareKeys.Replace(shared))
}

// policy is what decides now which of the trusted keys are public.
func (s *service) policy() keyPolicy {
	return newKeyPolicy(s.settings.get(), s.publicNames, s.upstreamURLs)
}

func (s *service) settingsChanged(settings nixconf.Settings, err error) {
	if err == nil {
		err = s.believe(settings)
	}
	if err != nil {
		s.settings.fail(err)
		s.log.Error("Nix's configuration has changed and cannot be read; the keys stay as they were", zap.Error(err))
		return
	}
	s.log.Info("Nix's configuration has changed", zap.Strings("keys", s.trusted.Names()), zap.Strings("publicKeys", s.public.Names()))
}

// keyList returns the keys in force with the source of each. Of two with one name the first counts, as in Nix.
func (s *service) keyList() control.KeyList {
	settings, policy := s.settings.get(), s.policy()
	places := map[string]string{}
	for _, l := range nixconf.Lines("trusted-public-keys") {
		if l.UndoneBy == "" {
			places[l.Value] = l.At
		}
	}
	list := control.KeyList{Schema: control.Schema, Keys: []control.Key{}}
	add := func(keys []string, otherwise string) {
		for _, key := range keys {
			name := keyName(key)
			if _, err := trust.ParseKeys([]string{key}); err != nil ||
				slices.ContainsFunc(list.Keys, func(k control.Key) bool { return k.Name == name }) {
				continue
			}
			k := control.Key{Name: name, Public: key, From: cmp.Or(places[key], otherwise), Class: classPrivate,
				Shares: slices.Contains(s.shareKeys.Names(), name)}
			class := policy.class(name)
			if k.Why = class.why; class.public {
				k.Class = classPublic
			}
			list.Keys = append(list.Keys, k)
		}
	}
	add(s.keys, "--trusted-key")
	add(settings.TrustedPublicKeys, "Nix's defaults") // for no file says so
	return list
}
