package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/zap"

	"narbor/p2p"
	"narbor/store"
)

// identityName is this machine's key in the state directory. That it is there tells that the state is.
const identityName = "identity.key"

// stateQuiet is how long after its loss the state is made anew: whoever deletes it may not be done.
const stateQuiet = time.Second

// errOpenToAll says that every user may write to the state directory.
var errOpenToAll = errors.New("every user may write to it")

// makeStateDir makes the directory unless it is there. Where every user may write, any could swap what is in it.
func makeStateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	st, err := os.Stat(dir)
	if err == nil && st.Mode()&0o002 != 0 {
		err = fmt.Errorf("%s: %w: chmod o-w it", dir, errOpenToAll)
	}
	return err
}

// A state is the directory of what is to survive a restart, or what takes its place.
type state struct {
	dir     string
	scratch bool // it is of this run alone, because the real one cannot be written to
}

// openState returns the state directory. If it cannot be written to, it returns a new one that begins with what can be
// read there, and says so: Nix is served all the same.
func openState(dir string, log *zap.Logger) (state, error) {
	err := makeStateDir(dir)
	if errors.Is(err, errOpenToAll) {
		return state{}, err
	}
	if err == nil {
		if err = tryWriting(dir); err == nil {
			return state{dir: dir}, nil
		}
	}
	scratch, other := os.MkdirTemp("", "narbor-")
	if other != nil {
		return state{}, errors.Join(err, other)
	}
	for _, name := range []string{identityName, "bans.json", "blocked.json", "peers.json", "damaged.json", "account.json"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			if err := os.WriteFile(filepath.Join(scratch, name), text, 0o600); err != nil {
				return state{}, errors.Join(err, os.RemoveAll(scratch))
			}
		}
	}
	log.Warn("the state directory cannot be written to, so what narbor learns is forgotten when it ends: give another by --state-dir",
		zap.String("dir", dir), zap.String("instead", scratch), zap.Error(err))
	return state{dir: scratch, scratch: true}, nil
}

// tryWriting makes a file and deletes it.
func tryWriting(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (s state) file(name string) string { return filepath.Join(s.dir, name) }

// close deletes what is of this run alone.
func (s state) close() error {
	if !s.scratch {
		return nil
	}
	return os.RemoveAll(s.dir)
}

// keep makes the state anew, until ctx ends, when somebody has deleted it.
func (s state) keep(ctx context.Context, identity crypto.PrivKey, spool *store.Spool, log *zap.Logger) error {
	tick := time.NewTicker(stateCheck)
	defer tick.Stop()
	told := false
	var lost <-chan struct{}
	for {
		if lost == nil {
			lost = lostFile(ctx, s.file(identityName))
		}
		select {
		case <-ctx.Done():
			if lost != nil {
				<-lost
			}
			return nil
		case <-tick.C:
		case <-lost:
			select {
			case <-ctx.Done():
			case <-time.After(stateQuiet):
			}
			lost = nil
		}
		if _, err := os.Lstat(s.file(identityName)); !errors.Is(err, fs.ErrNotExist) {
			told = false
			continue
		}
		err := makeStateDir(s.dir)
		if err == nil {
			err = errors.Join(p2p.KeepIdentity(s.file(identityName), identity), spool.Renew())
		}
		if !told {
			log.Warn("the state directory was emptied while narbor runs; it is made anew, and what is in no memory is lost",
				zap.String("dir", s.dir), zap.Error(err))
		}
		told = true
	}
}
