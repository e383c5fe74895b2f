package damage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"narbor/store"
	"narbor/store/lru"
)

// A Source is another source without the paths that are known to be damaged.
type Source struct {
	store.Source
	damage *Checker
	where  string
	files  string                           // the directory with a file for each path; "" is none
	said   *lru.Cache[store.HashPart, said] // the last answers of the other source
}

// said is an answer of the other source.
type said struct {
	info store.Info
	err  error
	at   time.Time
}

// Guard returns src without its damaged paths. where names it for people. If files is not "", it is the directory with
// the files of the paths, where a repair is noticed at once.
func (d *Checker) Guard(src store.Source, where, files string) *Source {
	g := &Source{src, d, where, files, lru.New[store.HashPart, said](maxSaid)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guards[where] = g
	return g
}

// Info implements [store.Source]. Of a damaged path it returns the claim of the source together with the error, which
// wraps [store.ErrDamaged] and [store.ErrNotFound].
func (g *Source) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	info, err := g.Source.Info(ctx, hp)
	if err == nil || errors.Is(err, store.ErrNotFound) {
		g.said.Add(hp, said{info, err, time.Now()})
	}
	return g.unlessDamaged(info, err)
}

// InfoLately is Info, but relies for a second on what the other source has answered.
func (g *Source) InfoLately(ctx context.Context, hp store.HashPart) (store.Info, error) {
	if s, ok := g.said.Get(hp); ok && time.Since(s.at) < saidFor {
		return g.unlessDamaged(s.info, s.err)
	}
	return g.Info(ctx, hp)
}

func (g *Source) unlessDamaged(info store.Info, err error) (store.Info, error) {
	if err != nil {
		return info, err
	}
	e, known := g.known(info)
	if !known {
		return info, nil
	}
	if g.due(e, info.Path) {
		g.damage.enqueue(suspect{g, info})
	}
	return info, fmt.Errorf("%s: %w: %w: %s", info.Path, store.ErrNotFound, store.ErrDamaged, e.Reason)
}

// known returns the recorded damage of a claim's path. A path with another NarHash has been replaced.
func (g *Source) known(info store.Info) (e Finding, known bool) {
	g.damage.mu.Lock()
	defer g.damage.mu.Unlock()
	e, known = g.damage.damaged[g.at(info.Path)]
	return e, known && e.NarHash == info.NarHash.String()
}

func (g *Source) at(p store.Path) place { return place{g.where, p} }

// due says whether a damaged path is to be checked once more.
func (g *Source) due(e Finding, p store.Path) bool {
	since := time.Since(e.Checked)
	return since > recheckAfter || since < 0 || since > replacedAfter && g.fileOf(p) != e.File
}

// Suspect has the path of a claim checked soon, unless that was done a moment ago.
func (g *Source) Suspect(info store.Info) {
	d := g.damage
	if s, ok := d.sound.Get(soundKey{g.at(info.Path), info.NarHash}); ok && time.Since(s.at) < soundFor && s.file == g.fileOf(info.Path) {
		return
	}
	if _, known := g.known(info); !known { // otherwise Info has it checked
		d.enqueue(suspect{g, info})
	}
}

// fileOf identifies the file of a path: a repair puts another in its place. It is "" if there is none to look at.
func (g *Source) fileOf(p store.Path) string {
	if g.files == "" {
		return ""
	}
	st, err := os.Lstat(filepath.Join(g.files, p.Base()))
	if err != nil {
		return "missing"
	}
	id := st.ModTime().UTC().String() + " " + st.Mode().String()
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		id = fmt.Sprintf("%d %s", sys.Ino, id)
	}
	return id
}

// hash reads the archive of a claim, and returns how it differs from the claim; "" if it does not. With an error,
// neither is known.
func (g *Source) hash(ctx context.Context, info store.Info) (reason string, err error) {
	nar, err := g.Source.NAR(ctx, info)
	if err != nil {
		return g.unreadable(ctx, info, err)
	}
	defer nar.Close()
	sum := sha256.New()
	buf := make([]byte, store.BlockSize)
	for off := int64(0); off < info.NarSize; {
		p := buf[:min(int64(len(buf)), info.NarSize-off)]
		if n, err := nar.ReadAt(p, off); n < len(p) {
			return g.unreadable(ctx, info, err)
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
		sum.Write(p)
		off += int64(len(p))
	}
	if got := store.Hash(sum.Sum(nil)); got != info.NarHash {
		return fmt.Sprintf("its content has the hash %s, not %s", got, info.NarHash), nil
	}
	return "", nil
}

// unreadable returns what the error of a read says of a path: nothing, if it is not valid any more.
func (g *Source) unreadable(ctx context.Context, info store.Info, err error) (string, error) {
	now, infoErr := g.Source.Info(ctx, info.Path.HashPart())
	if infoErr != nil || now.NarHash != info.NarHash {
		return "", errors.Join(err, infoErr)
	}
	if errors.Is(err, store.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO) {
		return err.Error(), nil
	}
	return "", err
}
