package damage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/store/damage"
)

// A damageWorld is a guarded source with a file for each path.
type damageWorld struct {
	*damage.Source
	mem    *store.Mem
	damage *damage.Checker
	files  string
	info   store.Info
	nar    []byte

	mu      sync.Mutex // guards changes
	changes []string
}

func newDamageWorld(t *testing.T, file, files string) *damageWorld {
	t.Helper()
	w := &damageWorld{mem: new(store.Mem), files: files, nar: bytes.Repeat([]byte("nar"), 100_000)}
	p, err := store.ParsePathName("00000000000000000000000000000000-tool")
	if err != nil {
		t.Fatal(err)
	}
	w.info = store.Info{Path: p, NarHash: sha256.Sum256(w.nar), NarSize: int64(len(w.nar))}
	w.put(t, w.nar)
	w.damage, err = damage.Open(file, func(d damage.Finding, sound bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes = append(w.changes, fmt.Sprintf("%s sound %t", d.Path, sound))
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Source = w.damage.Guard(w.mem, "memory", files)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.damage.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

// put replaces the content of the path, and its file as Nix does.
func (w *damageWorld) put(t *testing.T, nar []byte) {
	t.Helper()
	w.mem.Add(w.info, nar)
	name := filepath.Join(w.files, w.info.Path.Base())
	if err := errors.Join(os.WriteFile(name+".new", nar, 0o444), os.Rename(name+".new", name)); err != nil {
		t.Fatal(err)
	}
}

func (w *damageWorld) damaged(t *testing.T) bool {
	t.Helper()
	info, err := w.Info(t.Context(), w.info.Path.HashPart())
	if err != nil && (!errors.Is(err, store.ErrNotFound) || !errors.Is(err, store.ErrDamaged)) {
		t.Fatalf("Info = %v, want nil, or ErrNotFound with ErrDamaged", err)
	}
	if info.Path != w.info.Path {
		t.Errorf("Info is about %q", info.Path)
	}
	return err != nil
}

func TestDamagedPathIsNotOfferedUntilItIsRepaired(t *testing.T) {
	files, state := t.TempDir(), filepath.Join(t.TempDir(), "damaged.json")
	zeros := func(w *damageWorld) []byte { return make([]byte, len(w.nar)) }
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, state, files)
		w.Suspect(w.info)
		synctest.Wait()
		if w.damaged(t) || len(w.damage.List()) != 0 {
			t.Error("a sound path is damaged because it was suspected")
		}
		w.put(t, zeros(w))
		if w.damaged(t) {
			t.Error("a path is damaged that was not checked")
		}
		w.Suspect(w.info) // at once: its file is another than the one that was sound
		synctest.Wait()
		if list := w.damage.List(); !w.damaged(t) || len(list) != 1 || list[0].Path != w.info.Path.String() || list[0].Where != "memory" {
			t.Errorf("the damaged paths are %+v", list)
		}
	})
	synctest.Test(t, func(t *testing.T) { // a restart
		w := newDamageWorld(t, state, files)
		if w.put(t, zeros(w)); !w.damaged(t) {
			t.Error("after a restart a damaged path is offered")
		}
		synctest.Wait()
		if !w.damaged(t) {
			t.Error("another file with the same damage is sound")
		}
		w.put(t, w.nar) // a repair
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if w.damaged(t) || len(w.damage.List()) != 0 {
			t.Errorf("after a repair that nobody asks about the damaged paths are %+v, want none", w.damage.List())
		}
		if len(w.changes) != 1 || w.changes[0] != w.info.Path.String()+" sound true" {
			t.Errorf("changes are %q, want the repair", w.changes)
		}
	})
}

// countingSource counts the questions about paths.
type countingSource struct {
	store.Source
	asked int
}

func (s *countingSource) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	s.asked++
	return s.Source.Info(ctx, hp)
}

func TestSourceIsAskedOnceForOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, "", t.TempDir())
		src := &countingSource{Source: w.mem}
		g := w.damage.Guard(src, "counted", "")
		hp := w.info.Path.HashPart()
		absent := store.HashPart(strings.Repeat("1", 32))
		wantAsked := func(what string, want int) {
			t.Helper()
			if src.asked != want {
				t.Errorf("%s: the source was asked %d times, want %d", what, src.asked, want)
			}
		}
		for _, hp := range []store.HashPart{hp, absent} {
			src.asked = 0
			_, first := g.Info(t.Context(), hp)
			info, again := store.InfoLately(t.Context(), g, hp)
			if (first == nil) != (again == nil) || again == nil && info.Path != w.info.Path {
				t.Errorf("InfoLately = %v, %v after %v", info.Path, again, first)
			}
			wantAsked("in one request", 1)
			g.Info(t.Context(), hp)
			wantAsked("by the next request", 2)
		}
		w.mem.Remove(hp)
		time.Sleep(time.Second)
		src.asked = 0
		if _, err := store.InfoLately(t.Context(), g, hp); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("InfoLately = %v of a path that has gone, want ErrNotFound", err)
		}
		wantAsked("a second later", 1)
	})
}

func TestDamageRepairedInPlaceIsFoundAfterAWhile(t *testing.T) {
	files := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, "", files)
		w.mem.Add(w.info, make([]byte, len(w.nar)))
		w.Suspect(w.info)
		synctest.Wait()
		if !w.damaged(t) {
			t.Fatal("the path is not damaged")
		}
		w.mem.Add(w.info, w.nar) // its file is the same
		time.Sleep(35 * time.Minute)
		synctest.Wait()
		if w.damaged(t) {
			t.Error("half an hour later it was not checked again")
		}
	})
}

func TestDamagedPathThatIsCollectedIsForgotten(t *testing.T) {
	files := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, "", files)
		w.mem.Add(w.info, w.nar[:10]) // this content cannot have that size
		w.Suspect(w.info)
		synctest.Wait()
		if !w.damaged(t) {
			t.Fatal("a path of another size is not damaged")
		}
		w.mem.Remove(w.info.Path.HashPart())
		time.Sleep(2 * time.Minute)
		if list := w.damage.List(); len(list) != 0 {
			t.Errorf("the damaged paths are %+v, want none", list)
		}
	})
}

func TestDamagedPathWithAnotherNarHashIsForgotten(t *testing.T) {
	files := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, "", files)
		w.mem.Add(w.info, make([]byte, len(w.nar)))
		w.Suspect(w.info)
		synctest.Wait()
		w.info.NarHash[0] ^= 1 // collected, and built anew with another content, which is damaged, too
		w.put(t, make([]byte, len(w.nar)))
		if w.damaged(t) {
			t.Error("a path is damaged because another content of it was")
		}
		w.Suspect(w.info)
		synctest.Wait()
		if list := w.damage.List(); !w.damaged(t) || len(list) != 1 || list[0].NarHash != w.info.NarHash.String() {
			t.Errorf("the damaged paths are %+v, want the one with the new NarHash", list)
		}
		w.info.NarHash = sha256.Sum256(w.nar)
		w.put(t, w.nar)
		time.Sleep(2 * time.Minute)
		if list := w.damage.List(); len(list) != 0 {
			t.Errorf("the damaged paths are %+v, want none once the path has another NarHash", list)
		}
	})
}

func TestDamagedCopiesOfOnePathAreToldApart(t *testing.T) {
	files := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, "", files)
		w.mem.Add(w.info, make([]byte, len(w.nar)))
		copies := new(store.Mem)
		copies.Add(w.info, make([]byte, len(w.nar)))
		cache := w.damage.Guard(copies, "cache", "")
		w.Suspect(w.info)
		synctest.Wait()
		if _, err := cache.Info(t.Context(), w.info.Path.HashPart()); err != nil {
			t.Errorf("Info of a copy that was not checked = %v", err)
		}
		cache.Suspect(w.info)
		synctest.Wait()
		if _, err := cache.Info(t.Context(), w.info.Path.HashPart()); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("Info of a damaged copy = %v, want ErrDamaged", err)
		}
		copies.Add(w.info, w.nar) // a repair of the copy alone
		time.Sleep(35 * time.Minute)
		synctest.Wait()
		if list := w.damage.List(); len(list) != 1 || list[0].Where != "memory" {
			t.Errorf("the damaged paths are %+v, want the one whose copy was repaired", list)
		}
	})
}

func TestSuspectsAreCheckedWithinABudget(t *testing.T) {
	files := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, "", files)
		huge := w.info
		huge.NarSize = 8 << 30
		var err error
		if huge.Path, err = store.ParsePathName("11111111111111111111111111111111-huge"); err != nil {
			t.Fatal(err)
		}
		w.mem.Add(huge, w.nar) // refused at once, and the budget is spent all the same
		w.Suspect(huge)
		synctest.Wait()
		w.mem.Add(w.info, make([]byte, len(w.nar)))
		w.Suspect(w.info)
		synctest.Wait()
		if w.damaged(t) {
			t.Error("a path was checked without a budget")
		}
		time.Sleep(time.Minute)
		w.Suspect(w.info)
		synctest.Wait()
		if !w.damaged(t) {
			t.Error("a path was not checked once there was a budget again")
		}
	})
}

// writeDamaged makes a file of damaged paths: n of a source called where.
func writeDamaged(t *testing.T, file, where string, n int) []damage.Finding {
	t.Helper()
	list := make([]damage.Finding, n)
	for i := range list {
		list[i] = damage.Finding{Path: fmt.Sprintf("%s/1%031d-tool", store.Dir, i), NarHash: store.Hash{}.String(), Where: where}
	}
	writeJSON(t, file, list)
	return list
}

func writeJSON(t *testing.T, file string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnreadableEntriesOfTheDamageFileAreLeftOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "damaged.json")
	list := writeDamaged(t, file, "memory", 4)
	list[0].Path, list[2].Path = "first", "third"
	writeJSON(t, file, list)
	d, err := damage.Open(file, func(damage.Finding, bool) {})
	if err == nil || !strings.Contains(err.Error(), "first") || !strings.Contains(err.Error(), "third") {
		t.Errorf("the error is %v, want one that names both bad paths", err)
	}
	if got := d.List(); len(got) != 2 || got[0].Path != list[1].Path || got[1].Path != list[3].Path {
		t.Errorf("the damaged paths are %+v, want the two that are sound entries", got)
	}
}

func TestDamageOfAnUnknownSourceIsForgotten(t *testing.T) {
	file, files := filepath.Join(t.TempDir(), "damaged.json"), t.TempDir()
	writeDamaged(t, file, "/an/old/cache", 3)
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, file, files)
		synctest.Wait()
		if list := w.damage.List(); len(list) != 0 || len(w.changes) != 0 {
			t.Errorf("the damaged paths are %+v, and reported were %q, want none", list, w.changes)
		}
	})
	if text, err := os.ReadFile(file); err != nil || string(text) != "[]\n" {
		t.Errorf("the file has %q, %v; want no path", text, err)
	}
}

func TestDamagedPathIsNotOfferedWhenTheListIsFull(t *testing.T) {
	const most = 4096
	file, files := filepath.Join(t.TempDir(), "damaged.json"), t.TempDir()
	writeDamaged(t, file, "memory", most)
	synctest.Test(t, func(t *testing.T) {
		w := newDamageWorld(t, file, files)
		w.mem.Add(w.info, make([]byte, len(w.nar)))
		w.Suspect(w.info)
		synctest.Wait()
		if !w.damaged(t) {
			t.Error("a path that was found damaged is offered, because the list is full")
		}
		if n := len(w.damage.List()); n != most {
			t.Errorf("%d damaged paths are listed, want %d", n, most)
		}
	})
}
