// Package damage finds and records paths of this machine's sources that have another content than their NarHash, so
// that they are not offered until they are repaired.
//
// A [Checker] reads suspected paths, one at a time and within a budget, in [Checker.Run]; its caller starts and stops
// that. The findings are in memory and in a file. A guarded [Source] also remembers for a second what the source below
// it has said, so that one request asks it once. All methods may be called concurrently.
package damage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"narbor/store"
	"narbor/store/lru"
	"narbor/store/statefile"
)

const (
	// maxDamaged bounds the damaged paths that are listed and kept in the file, and maxSound the paths that are
	// remembered as sound. The process remembers every damaged path that it finds: it must not offer one because others
	// are damaged too.
	maxDamaged, maxSound = 4096, 4096
	// maxDamagedFile bounds the file's bytes: a reason may name two paths.
	maxDamagedFile = maxDamaged * 16 << 10
	// maxSuspects is how many paths may wait to be checked. A suspect that finds no room is reported again later.
	maxSuspects = 64
	// damageBurst and damageRate, a second, bound the bytes that are read to check suspects: neighbours can make them
	// suspects at will. They are 8 GiB at once, and as much an hour.
	damageBurst, damageRate = 8 << 30, (8 << 30) / 3600.0
	// soundFor is how long a path that was found sound is not checked again, unless it has been replaced.
	soundFor = time.Hour
	// recheckAfter is how long a damaged path is not checked again, unless it has been replaced; and replacedAfter
	// then.
	recheckAfter, replacedAfter = 30 * time.Minute, 5 * time.Second
	// saidFor is how long one request for a narinfo takes at most until neighbours are asked, and maxSaid bounds the
	// answers that are remembered for it.
	saidFor, maxSaid = time.Second, 256
	// damageTick is how often damaged paths are checked without a request for them.
	damageTick = time.Minute
)

// A Finding is a path of which the content was read and does not have the NarHash.
type Finding struct {
	Path    string    `json:"path"`
	NarHash string    `json:"narHash"`
	Where   string    `json:"where"` // the store or cache directory
	Reason  string    `json:"reason"`
	Found   time.Time `json:"found"`
	Checked time.Time `json:"checked"` // the last time
	File    string    `json:"file"`    // what identifies the file of that path; "" if there is none to look at
}

// Checker records which paths of some sources are damaged, in memory and in a file. It finds that out by itself:
// suspected paths are read and hashed, one at a time, within a budget. All methods may be called concurrently.
type Checker struct {
	file     string
	changed  func(d Finding, sound bool)
	suspects chan suspect
	budget   *rate.Limiter
	sound    *lru.Cache[soundKey, soundFile]

	mu      sync.Mutex // guards the rest
	damaged map[place]Finding
	guards  map[string]*Source // by where
	waiting map[place]bool     // in suspects, or being checked
}

// A place is where a path is: several sources may have it, and only one of them a damaged copy.
type place struct {
	where string
	path  store.Path
}

type suspect struct {
	src  *Source
	info store.Info
}

type soundKey struct {
	place
	nar store.Hash
}

type soundFile struct {
	at   time.Time
	file string
}

// A Source is another source without the paths that are known to be damaged.
type Source struct {
	store.Source
	damage *Checker
	where  string
	files  string                           // the directory with a file for each path; "" is none
	said   *lru.Cache[store.HashPart, said] // the last answers of the other source
}

type said struct {
	info store.Info
	err  error
	at   time.Time
}

// Open reads an earlier run's findings, from a file that need not be there; "" is none. changed is called for each
// path that is found damaged, or sound again. The result is usable even with an error.
func Open(file string, changed func(d Finding, sound bool)) (*Checker, error) {
	d := &Checker{file: file, changed: changed, suspects: make(chan suspect, maxSuspects), budget: rate.NewLimiter(damageRate, damageBurst),
		sound: lru.New[soundKey, soundFile](maxSound), damaged: map[place]Finding{}, guards: map[string]*Source{},
		waiting: map[place]bool{}}
	var list []Finding
	err := statefile.Read(file, maxDamagedFile, &list)
	for _, e := range list[:min(len(list), maxDamaged)] {
		p, pathErr := store.ParsePath(e.Path)
		if pathErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", file, pathErr))
			continue
		}
		d.damaged[place{e.Where, p}] = e
	}
	return d, err
}

// List returns at most maxDamaged damaged paths, sorted.
func (d *Checker) List() []Finding {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Finding, 0, len(d.damaged))
	for _, e := range d.damaged {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Where, b.Where))
	})
	return list[:min(len(list), maxDamaged)]
}

func (d *Checker) enqueue(s suspect) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := s.src.at(s.info.Path)
	if d.waiting[at] {
		return
	}
	select {
	case d.suspects <- s:
		d.waiting[at] = true
	default:
	}
}

// Run checks suspects until ctx ends. Every call of [Checker.Guard] comes before it.
func (d *Checker) Run(ctx context.Context) error {
	d.forgetUnguarded()
	tick := time.NewTicker(damageTick)
	defer tick.Stop()
	for {
		select {
		case s := <-d.suspects:
			if d.budget.AllowN(time.Now(), int(min(s.info.NarSize, damageBurst))) {
				d.check(ctx, s)
			}
			d.mu.Lock()
			delete(d.waiting, s.src.at(s.info.Path))
			d.mu.Unlock()
		case <-tick.C:
			d.look(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// forgetUnguarded forgets the damaged paths of sources that this process does not have: a cache directory, say, that is
// no longer configured. No repair of them would be noticed.
func (d *Checker) forgetUnguarded() {
	d.mu.Lock()
	before := len(d.damaged)
	maps.DeleteFunc(d.damaged, func(at place, _ Finding) bool { return d.guards[at.where] == nil })
	changed := len(d.damaged) < before
	d.mu.Unlock()
	if changed {
		d.save()
	}
}

// look looks the damaged paths up again. It has a path checked if its files have been replaced, and forgets it if it is
// gone or has another NarHash.
func (d *Checker) look(ctx context.Context) {
	d.mu.Lock()
	sources := make(map[place]*Source, len(d.damaged))
	for at := range d.damaged {
		sources[at] = d.guards[at.where]
	}
	d.mu.Unlock()
	for at, g := range sources {
		_, err := g.Info(ctx, at.path.HashPart())
		if err == nil || errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrDamaged) {
			d.forget(at)
		}
	}
}

func (d *Checker) check(ctx context.Context, s suspect) {
	file, at := fileOf(s.src.files, s.info.Path), s.src.at(s.info.Path)
	reason, err := hash(ctx, s.src.Source, s.info)
	if err != nil { // it could not be read as a whole, which says nothing
		return
	}
	if reason == "" {
		d.sound.Add(soundKey{at, s.info.NarHash}, soundFile{time.Now(), file})
		d.forget(at)
		return
	}
	now := time.Now()
	e := Finding{Path: s.info.Path.String(), NarHash: s.info.NarHash.String(), Where: s.src.where, Reason: reason, Found: now, Checked: now,
		File: file}
	d.mu.Lock()
	old, known := d.damaged[at]
	if known = known && old.NarHash == e.NarHash; known {
		e.Found = old.Found
	}
	d.damaged[at] = e
	d.mu.Unlock()
	d.save()
	if !known {
		d.changed(e, false)
	}
}

func (d *Checker) forget(at place) {
	d.mu.Lock()
	e, known := d.damaged[at]
	delete(d.damaged, at)
	d.mu.Unlock()
	if known {
		d.save()
		d.changed(e, true)
	}
}

// save writes the file. Damage that cannot be written is found anew after a restart.
func (d *Checker) save() {
	if d.file == "" {
		return
	}
	text, err := json.Marshal(d.List())
	if err != nil {
		return
	}
	_ = statefile.Replace(d.file, append(text, '\n'), 0o600)
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
	return since > recheckAfter || since < 0 || since > replacedAfter && fileOf(g.files, p) != e.File
}

// Suspect has the path of a claim checked soon, unless that was done a moment ago.
func (g *Source) Suspect(info store.Info) {
	d := g.damage
	sound, ok := d.sound.Get(soundKey{g.at(info.Path), info.NarHash})
	if ok && time.Since(sound.at) < soundFor && sound.file == fileOf(g.files, info.Path) {
		return
	}
	if _, known := g.known(info); !known { // otherwise Info has it checked
		d.enqueue(suspect{g, info})
	}
}
