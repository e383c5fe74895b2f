package main

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/exit"
	"narbor/p2p"
)

func TestWaitEndsWhenAllIsTrue(t *testing.T) {
	down := exit.With(errors.New("down"), exit.NotRunning)
	broken := errors.New("broken")
	one := []p2p.NeighbourStatus{{}}
	for _, tt := range []struct {
		name string
		want []string
		// The state of narbor after so many seconds.
		states []func() (control.Status, error)
		code   int // 0 is success, -1 another error
		after  time.Duration
	}{
		{"it runs", []string{"running"}, states(status(false, nil)), 0, 0},
		{"it runs soon", []string{"running"}, states(fails(down), fails(down), status(false, nil)), 0, 2 * time.Second},
		{"it never runs", []string{"running"}, states(fails(down)), exit.NotRunning, 20 * time.Second},
		{"a neighbour comes", []string{"peers=1"}, states(fails(down), status(true, nil), status(true, one)), 0, 2 * time.Second},
		{"none comes", []string{"peers=1"}, states(status(true, nil)), exit.Temporary, 20 * time.Second},
		{"too few come", []string{"peers=2", "peers=1"}, states(status(true, one)), exit.Temporary, 20 * time.Second},
		{"it settles", []string{"settled"}, states(status(false, nil), status(true, nil)), 0, time.Second},
		{"both", []string{"peers=1", "settled"}, states(status(false, one), status(true, nil), status(true, one)), 0, 2 * time.Second},
		{"one of both", []string{"peers=1", "settled"}, states(status(false, one)), exit.Temporary, 20 * time.Second},
		{"it is slow at first", []string{"running"}, states(fails(context.DeadlineExceeded), fails(context.DeadlineExceeded),
			status(false, nil)), 0, 2 * time.Second},
		{"it is slow for ever", []string{"running"}, states(fails(context.DeadlineExceeded)), exit.Temporary, 20 * time.Second},
		{"it may not be asked", []string{"running"}, states(fails(down), fails(broken)), -1, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				want, err := parseConditions(tt.want)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				err = want.wait(t.Context(), 20*time.Second, func(context.Context) (control.Status, error) {
					return tt.states[min(int(time.Since(began).Seconds()), len(tt.states)-1)]()
				})
				code, coded := 0, exit.Error{}
				switch {
				case errors.As(err, &coded):
					code = coded.Code
				case err != nil:
					code = -1
				}
				if code != tt.code {
					t.Errorf("wait = %v, want code %d", err, tt.code)
				}
				if took := time.Since(began); took < tt.after-waitStep || took > tt.after+waitStep {
					t.Errorf("it took %v, want %v", took, tt.after)
				}
			})
		})
	}
}

func states(all ...func() (control.Status, error)) []func() (control.Status, error) { return all }

func fails(err error) func() (control.Status, error) {
	return func() (control.Status, error) { return control.Status{}, err }
}

func status(settled bool, neighbours []p2p.NeighbourStatus) func() (control.Status, error) {
	return func() (control.Status, error) {
		return control.Status{Status: p2p.Status{Settled: settled, Neighbours: neighbours}}, nil
	}
}

func TestWaitAsksTheNarborThatRuns(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	for timeout, want := range map[string]int{"0": exit.NotRunning, "300ms": exit.NotRunning} {
		wantCode(t, want, "wait", "--socket", socket, "--timeout", timeout)
	}
	startedAt(t, socket)
	wantCode(t, 0, "wait", "--socket", socket)
	wantCode(t, 0, "wait", "--for", "settled", "--for", "peers=0", "--timeout", "60s", "--socket", socket)
	wantCode(t, exit.Temporary, "wait", "--for", "peers=1", "--timeout", "300ms", "--socket", socket)
	for _, bad := range [][]string{{"--for", "peers"}, {"--for", "peers=x"}, {"--for", "peers=-1"}, {"--for", "Running"},
		{"--for", "settled=1"}, {"--for", ""},
		{"--timeout", "-1s"}, {"--timeout", "soon"}, {"peers=1"}} {
		wantCode(t, exit.Usage, append([]string{"wait", "--socket", socket}, bad...)...)
	}
}

// wantCode runs narbor and compares its exit code.
func wantCode(t *testing.T, want int, args ...string) {
	t.Helper()
	_, _, err := narbor(t.Context(), args...)
	code, coded := 0, exit.Error{}
	switch {
	case errors.As(err, &coded):
		code = coded.Code
	case err != nil:
		code = exit.Failure
	}
	if code != want {
		t.Errorf("narbor %q = %v, exit code %d, want %d", args, err, code, want)
	}
}
