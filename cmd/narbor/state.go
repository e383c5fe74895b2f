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

	"narbor/p2p/transport"
	"narbor/store/spool"
	"narbor/store/statefile"
)

// identityName is the file of this machine's key. Its presence shows that the state directory was not emptied.
const identityName = "identity.key"

// maxStateFile bounds the bytes of a file that is copied out of a state directory that cannot be written to.
const maxStateFile = 128 << 20

// stateQuiet is the wait before a lost state is recreated: its deletion may still go on.
const stateQuiet = time.Second

// errOpenToAll says that every user may write to the state directory.
var errOpenToAll = errors.New("every user may write to it")

// makeStateDir makes the directory unless it exists. It rejects one that every user may write to: any user could
// replace its files.
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

// A state is the directory of files that survive a restart, or a temporary one in its place.
type state struct {
	dir  string
	real string // dir, unless this cannot be written to and dir is a temporary one
}

// openState returns the state directory. If that is not writable, it logs a warning and returns a new directory with
// copies of the readable files, so that Nix is served all the same.
func openState(dir string, log *zap.Logger) (state, error) {
	err := makeStateDir(dir)
	if errors.Is(err, errOpenToAll) {
		return state{}, err
	}
	if err == nil {
		if err = tryWriting(dir); err == nil {
			return state{dir, dir}, nil
		}
	}
	scratch, other := os.MkdirTemp("", "narbor-")
	if other != nil {
		return state{}, errors.Join(err, other)
	}
	for _, name := range []string{identityName, "denied.json", "peers.json", "damaged.json", "offered.json", "account.json"} {
		if text, _, err := statefile.ReadText(filepath.Join(dir, name), maxStateFile); err == nil {
			if err := os.WriteFile(filepath.Join(scratch, name), text, 0o600); err != nil {
				return state{}, errors.Join(err, os.RemoveAll(scratch))
			}
		}
	}
	log.Warn("the state directory cannot be written to, so what narbor learns is forgotten when it ends: give another by --state-dir",
		zap.String("dir", dir), zap.String("instead", scratch), zap.Error(err))
	return state{scratch, dir}, nil
}

func tryWriting(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (s state) file(name string) string { return filepath.Join(s.dir, name) }

// close deletes a temporary state directory.
func (s state) close() error {
	if s.dir == s.real {
		return nil
	}
	return os.RemoveAll(s.dir)
}

// keep recreates the state directory when it is deleted, and removes expired files of the spool, until ctx ends.
func (s state) keep(ctx context.Context, identity crypto.PrivKey, spool *spool.Spool, log *zap.Logger) error {
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
		spool.Expire()
		if _, err := os.Lstat(s.file(identityName)); !errors.Is(err, fs.ErrNotExist) {
			told = false
			continue
		}
		err := makeStateDir(s.dir)
		if err == nil {
			err = errors.Join(transport.KeepIdentity(s.file(identityName), identity), spool.Renew())
		}
		if !told {
			log.Warn("the state directory was emptied while narbor runs; it is made anew, without the parts that are not in memory",
				zap.String("dir", s.dir), zap.Error(err))
		}
		told = true
	}
}
