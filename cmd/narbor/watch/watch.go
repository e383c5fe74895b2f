// Package watch shows the status of a running narbor on a whole terminal, and keeps it up to date: the neighbours, what
// moves, how much it saves, the last update and the problems.
//
// A [View] draws into a screen of tcell, which sends the cells that differ to the terminal. Much of the text comes from
// peers, so each cell takes one printable sign of one column, and shows a question mark for any other. The terminal is
// as it was before when [View.Run] returns or panics.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gdamore/tcell/v2"
)

// Run draws until the context ends or a key ends it: q, Esc or Ctrl-C. It ends the screen, which was initialized. A
// narbor that does not answer is asked again; only a permission that is denied before the first answer is an error,
// because the folders of a narbor that is being restarted may be closed for a moment.
func (v View) Run(ctx context.Context, screen tcell.Screen) error {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	events := make(chan tcell.Event)
	helpers.Go(func() { passEvents(ctx, screen, events) })
	defer screen.Fini()
	defer screen.Suspend() // before Fini: passEvents goes on meanwhile, as tcell waits until its own events are taken
	defer cancel()

	looks, asked := make(chan look, 1), false
	ask := func() {
		if !asked {
			asked = true
			helpers.Go(func() { looks <- v.look(ctx) })
		}
	}
	tick := time.NewTicker(v.Every)
	defer tick.Stop()
	var shown known
	ask()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			ask()
			continue
		case l := <-looks:
			asked = false
			if l.panicked != nil {
				panic(l.panicked)
			}
			if errors.Is(l.err, fs.ErrPermission) && shown.at.IsZero() {
				return l.err
			}
			shown.add(l)
		case event := <-events:
			switch e := event.(type) {
			case *tcell.EventKey:
				if ends(e) {
					return nil
				}
				continue
			case *tcell.EventError:
				return fmt.Errorf("terminal: %w", e)
			}
		}
		v.draw(screen, shown)
	}
}

// look calls Look. A panic is handed to Run, which ends the screen first.
func (v View) look(ctx context.Context) (l look) {
	defer func() {
		l.at = time.Now()
		if p := recover(); p != nil {
			l.panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	l.status, l.err = v.Look(ctx)
	return l
}

// passEvents passes events on until the context ends, and drops them from then on until the screen ends.
func passEvents(ctx context.Context, screen tcell.Screen, to chan<- tcell.Event) {
	for event := screen.PollEvent(); event != nil; event = screen.PollEvent() {
		select {
		case to <- event:
		case <-ctx.Done():
		}
	}
}

func ends(key *tcell.EventKey) bool {
	return key.Key() == tcell.KeyEscape || key.Key() == tcell.KeyCtrlC ||
		key.Key() == tcell.KeyRune && (key.Rune() == 'q' || key.Rune() == 'Q')
}
