package p2p

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

// maxBanFile bounds the file of bans: as many as there may be, each reason with every byte escaped.
const maxBanFile = maxBlocked * (6*maxReason + 256)

// bans are the peers that are refused because of their strikes, in memory and in a file, so that bans survive a restart.
type bans struct {
	file  string        // "" is none
	dirty chan struct{} // the file may be out of date

	mu  sync.Mutex // guards all
	all map[peer.ID]Struck
}

// loadBans reads the bans of an earlier run that have not ended. Nothing of a file that cannot be read as a whole is
// believed; the bans are usable even then.
func loadBans(file string) (*bans, error) {
	b := &bans{file: file, dirty: make(chan struct{}, 1), all: map[peer.ID]Struck{}}
	if file == "" {
		return b, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBanFile))
	if err != nil {
		return b, err
	}
	read, err := parseBans(text, time.Now())
	if err != nil {
		return b, fmt.Errorf("%s: %w", file, err)
	}
	for id, s := range read {
		b.add(id, s)
	}
	return b, nil
}

// parseBans reads what save writes, without the bans that have ended. None is longer than from now on: the clock may
// have been wrong when it was written.
func parseBans(text []byte, now time.Time) (map[peer.ID]Struck, error) {
	var list []Struck
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&list); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the list")
	}
	all := map[peer.ID]Struck{}
	for _, s := range list {
		id, err := peer.Decode(s.ID)
		if err != nil {
			return nil, err
		}
		if latest := now.Add(banTime); s.Until.After(latest) {
			s.Until = latest
		}
		s.ID, s.Reason = id.String(), bounded(s.Reason)
		if now.Before(s.Until) {
			all[id] = s
		}
	}
	return all, nil
}

// strike counts a lie, and bans the peer as s says if it was the last that it may tell. It returns how many that makes;
// 0 if the peer is banned already: what it sent before is found out after.
func (b *bans) strike(id peer.ID, t *tally, s Struck) (strikes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Now().Before(b.all[id].Until) {
		return 0
	}
	strikes = t.strikes.Add(1)
	if strikes == maxStrikes {
		t.strikes.Store(0) // it starts anew after the ban
		b.add(id, s)
	}
	return strikes
}

// add bans a peer. Of too many, the one to be forgotten first goes. The caller holds mu.
func (b *bans) add(id peer.ID, s Struck) {
	b.all[id] = s
	if len(b.all) > maxBlocked {
		soonest := id
		for other, o := range b.all {
			if o.Until.Before(b.all[soonest].Until) {
				soonest = other
			}
		}
		delete(b.all, soonest)
	}
	netmon.Hint(b.dirty)
}

// pardon ends a ban.
func (b *bans) pardon(id peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, id)
	netmon.Hint(b.dirty)
}

// current returns the bans that have not ended, and forgets the others.
func (b *bans) current() map[peer.ID]Struck {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	out := map[peer.ID]Struck{}
	for id, s := range b.all {
		if now.Before(s.Until) {
			out[id] = s
		} else {
			delete(b.all, id)
		}
	}
	return out
}

// run keeps the file up to date until ctx ends.
func (b *bans) run(ctx context.Context, log *zap.Logger) error {
	for {
		select {
		case <-b.dirty:
		case <-ctx.Done():
			if len(b.dirty) == 0 {
				return nil
			}
			<-b.dirty
		}
		if err := b.save(); err != nil {
			log.Warn("bans will not outlast this run", zap.Error(err))
		}
	}
}

func (b *bans) save() error {
	list := []Struck{}
	for _, s := range b.current() {
		list = append(list, s)
	}
	return writeState(b.file, list)
}
