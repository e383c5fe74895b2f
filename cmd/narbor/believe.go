package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/exit"
	"narbor/store/nixconf"
	"narbor/trust"
)

type keyFlags struct {
	given     []string // --trusted-key
	named     []string // --share-key
	upstreams []string // --upstream
	group     group
	fetched   bool // --share-sources lets neighbours have fetched sources without a signature
}

// A keyState has the trusted keys, sorted by the rights that they give, and the Nix configuration that they come from.
type keyState struct {
	log *zap.Logger
	keyFlags

	trusted *trust.Keys
	public  *trust.Keys // paths that one of these has signed are public
	shared  *trust.Keys // paths that one of these has signed are shared: the public keys, in a group the trusted ones
	circle  *trust.Keys // own builds that one of these has signed are shared with the group; nil shares none

	mu  sync.Mutex       // guards the rest
	nix nixconf.Settings // the settings in force
	err error            // why the settings that were read last are not in force; nil if they are
}

func newKeyState(c *cli.Context, g group, log *zap.Logger) *keyState {
	k := &keyState{log: log, trusted: new(trust.Keys), public: new(trust.Keys), shared: new(trust.Keys),
		keyFlags: keyFlags{c.StringSlice("trusted-key"), c.StringSlice("share-key"), c.StringSlice("upstream"), g, false}}
	k.fetched, _ = parseShareSources(c.String("share-sources"), g.secret != nil) // the values of flags are checked before
	if len(g.keys) > 0 && g.secret != nil {
		k.circle = new(trust.Keys)
	}
	return k
}

// circleNames returns the names of the trusted keys that let own builds be shared with the group.
func (k *keyState) circleNames() []string {
	if k.circle == nil {
		return []string{}
	}
	return k.circle.Names()
}

func (k *keyState) sharing() trust.Policy {
	return trust.Policy{Keys: k.shared, Circle: k.circle, Fetched: k.fetched}
}

func (k *keyState) settings() nixconf.Settings {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.nix
}

func (k *keyState) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// refused reports whether the latest configuration could not be used.
func (k *keyState) refused() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err != nil
}

// problems returns the parts of Nix's configuration that could not be read, each with the reason.
func (k *keyState) problems() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	problems := []string{}
	for _, u := range k.nix.Unread {
		problems = append(problems, u.String())
	}
	if k.err != nil {
		problems = append(problems, k.err.Error())
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
func (k *keyState) believe(settings nixconf.Settings) error {
	trusted := slices.Concat(k.given, keysOf(settings, k.log))
	if err := k.trusted.Replace(trusted); err != nil {
		return exit.With(fmt.Errorf("--trusted-key: %w", err), exit.Usage)
	}
	k.mu.Lock()
	k.nix, k.err = settings, nil
	k.mu.Unlock()
	for _, keys := range []*trust.Keys{k.trusted, k.public, k.shared} {
		keys.BelieveGit(settings.GitHashing)
	}
	public := k.policy().of(trusted)
	shared := public
	if k.group.secret != nil {
		shared = trusted
	}
	if k.circle != nil {
		err := k.circle.Replace(slices.DeleteFunc(slices.Clone(trusted), func(key string) bool {
			return !slices.Contains(k.group.keys, keyName(key)) && !slices.Contains(k.group.keys, key)
		}))
		if err != nil {
			return err
		}
	}
	return errors.Join(k.public.Replace(public), k.shared.Replace(shared))
}

// policy is what decides now which of the trusted keys are public.
func (k *keyState) policy() keyPolicy {
	return newKeyPolicy(k.settings(), k.named, k.upstreams)
}

func (k *keyState) warnOfUnread() {
	for _, u := range k.settings().Unread {
		k.log.Warn("Nix's configuration cannot be read to its end; keys that it may make private are private",
			zap.String("file", u.File), zap.String("why", u.Why), zap.String("includedAt", u.At))
	}
}

// changed puts settings in force that were read again, or records the error.
func (k *keyState) changed(settings nixconf.Settings, err error) {
	if err == nil {
		err = k.believe(settings)
	}
	if err != nil {
		k.fail(err)
		k.log.Error("Nix's configuration has changed and cannot be read; the keys stay as they were", zap.Error(err))
		return
	}
	k.warnOfUnread()
	k.log.Info("Nix's configuration has changed", zap.Strings("keys", k.trusted.Names()), zap.Strings("publicKeys", k.public.Names()))
}

// list returns the keys in force with the source of each. Of two with one name the first counts, as in Nix.
func (k *keyState) list() control.KeyList {
	settings, policy := k.settings(), k.policy()
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
				slices.ContainsFunc(list.Keys, func(other control.Key) bool { return other.Name == name }) {
				continue
			}
			one := control.Key{Name: name, Public: key, From: cmp.Or(places[key], otherwise), Class: classPrivate,
				Shares: slices.Contains(k.shared.Names(), name), Circle: slices.Contains(k.circleNames(), name)}
			class := policy.class(name)
			if one.Why = class.why; class.public {
				one.Class = classPublic
			}
			list.Keys = append(list.Keys, one)
		}
	}
	add(k.given, "--trusted-key")
	add(settings.TrustedPublicKeys, "Nix's defaults") // for no file says so
	return list
}

// read returns the Nix configuration as it was read last.
func (k *keyState) read(*http.Request) (any, error) {
	settings := k.settings()
	return control.ReadSettings{UID: os.Geteuid(), Keys: append([]string{}, settings.TrustedPublicKeys...),
		Substituters: append([]string{}, settings.Substituters...), Origin: settings.Origin, Unread: k.problems()}, nil
}
