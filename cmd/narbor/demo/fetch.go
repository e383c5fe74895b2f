package demo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"narbor/store"
	"narbor/store/nar"
)

// parallel is how many NARs are asked for at once, as Nix does.
const parallel = 8

// fetch asks the asker for the closure as Nix does, kills a holder when a third of it is there, and shows how it goes.
func (d *demo) fetch(ctx context.Context) error {
	began := time.Now()
	d.board = newBoard(d.Out, d.Redraw, d.corpus.bytes, honest, killed, liar)
	defer d.board.end()
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		d.watch(ctx)
	}()
	paths, err := d.closure(ctx)
	if err == nil {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for _, p := range paths {
			g.Go(func() error { return d.nar(gctx, p) })
		}
		err = g.Wait()
	}
	d.took = time.Since(began)
	cancel()
	<-watched
	d.look(context.WithoutCancel(ctx)) // for the last amounts
	return err
}

// watch shows the asker's neighbours until ctx ends.
func (d *demo) watch(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var once sync.Once
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.look(ctx)
		if d.board.handedOver.Load() >= d.corpus.bytes/3 {
			once.Do(func() {
				d.machine(killed).kill()
				d.board.say("%s is gone, in the middle of it: its process was killed. The others go on.", killed)
			})
		}
	}
}

func (d *demo) machine(name string) *machine {
	for _, m := range d.holders {
		if m.name == name {
			return m
		}
	}
	return nil
}

func (d *demo) look(ctx context.Context) {
	st, err := d.asker.status(ctx)
	if err != nil {
		return
	}
	for _, m := range d.holders {
		for _, nb := range st.Neighbours {
			if nb.ID != m.id {
				continue
			}
			d.board.received(m.name, nb.BytesReceived)
			if m.name == liar && nb.WrongNARs+nb.Strikes > 0 {
				d.board.caught.Do(func() {
					d.board.say("%s is caught: what it has sent is not what the key has signed. It is thrown away.", liar)
				})
			}
		}
	}
}

// A wanted is a path of the closure, and where the asker has its NAR.
type wanted struct {
	store.Info
	url string
}

func (d *demo) closure(ctx context.Context) (paths []wanted, err error) {
	todo, seen := []store.HashPart{d.top().Path.HashPart()}, map[store.HashPart]bool{}
	for len(todo) > 0 {
		hp := todo[0]
		todo = todo[1:]
		if seen[hp] {
			continue
		}
		seen[hp] = true
		resp, err := d.get(ctx, string(hp)+".narinfo")
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, store.MaxInfoLen))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		info, archive, err := nar.ParseNarinfo(hp, string(text))
		if err != nil {
			return nil, err
		}
		paths = append(paths, wanted{info, archive.URL})
		for _, r := range info.References {
			todo = append(todo, r.HashPart())
		}
	}
	return paths, nil
}

// nar gets one archive and compares its hash, as Nix does.
func (d *demo) nar(ctx context.Context, p wanted) error {
	resp, err := d.get(ctx, p.url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(hash, d.board), resp.Body); err != nil {
		return fmt.Errorf("%s: %w", p.Path, err)
	}
	if got := store.Hash(hash.Sum(nil)); got != p.NarHash {
		return fmt.Errorf("%s: narbor has handed over an archive with the hash %s, not %s: please report this", p.Path, got, p.NarHash)
	}
	return nil
}

// get asks the asker; the caller closes the body.
func (d *demo) get(ctx context.Context, what string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.asker.url+"/"+what, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return resp, nil
}
