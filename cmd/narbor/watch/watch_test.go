package watch_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gdamore/tcell/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/exit"
	"narbor/cmd/narbor/watch"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/store"
)

var update = flag.Bool("update", false, "write testdata/*.txt anew")

func TestMain(m *testing.M) {
	time.Local = time.UTC // pictures have times of day
	os.Exit(m.Run())
}

const (
	idDesk   = "12D3KooWAcuYAaPsKyUDgDLYJUBVgEWDrFHCpoqV9mQNPqhGa7vZ"
	idLaptop = "12D3KooWFDhBWRvmpzeKiaG5Ltzp3HTTA2Wk3RMc3EBm2ZDVKtYL"
	idNAS    = "12D3KooWLg7mVwJ9mGvxDAgkg2NBFXW2Us9Ygk8ZKwJPqPnWkUgR"
)

// example is a narbor in the middle of an update, so many seconds after its first look.
func example(second int64) control.Status {
	const base = "v0z2y4n6l8g1a3b5c7d9f0h2i4j6k8l1-"
	st := control.Status{Version: "0.1.0", UptimeSeconds: 3*86400 + 4*3600 + second,
		Status: p2p.Status{ID: idDesk, MDNS: true, Neighbours: []p2p.NeighbourStatus{
			{ID: idLaptop, Addr: "192.168.1.23", BytesReceived: 4_402_341_478 + second*(84<<20), BytesSent: 644_245_094},
			{ID: idNAS, Addr: "[fd62:7200::5]:6274", BytesReceived: 12_777_527_705, BytesSent: second * (1200 << 10), Strikes: 1}}}}
	st.Rates = stats.Rates{Network: 84 << 20, Internet: 3 << 20, Sent: 1200 << 10}
	st.Month = stats.Amounts{Received: map[store.Origin]int64{store.FromRebuild: 9 << 30,
		store.FromNeighbours: 18 << 30, store.FromInternet: 3 << 30}}
	st.LastUpdate = &stats.Update{Start: time.Date(1999, 12, 30, 14, 2, 5, 0, time.Local), From: []string{idNAS},
		Amounts: stats.Amounts{NARs: 1156, Seconds: 41, Received: map[store.Origin]int64{store.FromRebuild: 1_340_000_000,
			store.FromNeighbours: 750_000_000, store.FromInternet: 110_000_000}}}
	st.Now = []stats.Transfer{
		{Incoming: true, Path: base + "firefox-unwrapped-146.0.1", Size: 300 << 20, Bytes: 168 << 20, Seconds: 2,
			Origin: store.FromNeighbours, Peers: []string{idLaptop, idNAS}},
		{Incoming: true, Path: base + "linux-firmware-20261110", Size: 800 << 20, Bytes: 9 << 20, Seconds: 3, Origin: store.FromInternet},
		{Path: base + "glibc-2.42-9", Size: 31 << 20, Bytes: 31 << 20, Seconds: 26, Peers: []string{idNAS}},
	}
	return st
}

// crowded is a narbor with far more neighbours, transfers and problems than fit.
func crowded(second int64) control.Status {
	st := example(second)
	for i := range 40 {
		n := st.Neighbours[0]
		n.ID, n.Addr = fmt.Sprintf("%s%02d", idLaptop[:len(idLaptop)-2], i), fmt.Sprintf("192.168.100.%d", 100+i)
		st.Neighbours = append(st.Neighbours, n)
		st.Now = append(st.Now, st.Now[i%3])
	}
	for i := range 5 {
		st.Health = append(st.Health, control.Health{Severity: control.SeverityWarning, Title: fmt.Sprintf("Problem %d", i)})
	}
	st.Health[0].Severity, st.Health[0].Title = control.SeverityError, "Nothing can be believed"
	return st
}

// named is a narbor with neighbours that tell their names.
func named(second int64) control.Status {
	st := example(second)
	st.Neighbours[0].Name, st.Neighbours[1].Name = "laptop", "nas-in-the-cellar.home.arpa"
	return st
}

// idle is a narbor that is alone, and of which Nix knows nothing.
func idle(second int64) control.Status {
	st := example(second)
	st.Neighbours, st.Now, st.Rates, st.LastUpdate, st.Month = nil, nil, stats.Rates{}, nil, stats.Amounts{}
	st.Health = []control.Health{{Severity: control.SeverityWarning, Title: "Nix does not ask narbor"},
		{Severity: control.SeverityInfo, Title: "No neighbour yet"}}
	return st
}

// A screen is a simulated one that records its end.
type screen struct {
	tcell.SimulationScreen
	ended bool

	mu    sync.Mutex // guards shown
	shown string
}

// Show records what the screen shows, without spaces at the ends of its lines.
func (s *screen) Show() {
	s.SimulationScreen.Show()
	cells, width, height := s.GetContents()
	var b strings.Builder
	for y := range height {
		l := ""
		for _, c := range cells[y*width : (y+1)*width] {
			l += string(c.Runes)
		}
		b.WriteString(strings.TrimRight(l, " ") + "\n")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown = b.String()
}

func (s *screen) Fini() {
	s.ended = true
	s.SimulationScreen.Fini()
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown
}

func newScreen(t *testing.T, width, height int) *screen {
	t.Helper()
	s := &screen{SimulationScreen: tcell.NewSimulationScreen("UTF-8")}
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	s.SetSize(width, height)
	return s
}

// A run is a view that looks each second, in simulated time.
type run struct {
	t *testing.T
	*screen
	ended chan error
	panic any
}

// start runs a view until end. Look is given the number of its call.
func start(t *testing.T, width, height int, look func(n int64) (control.Status, error)) *run {
	t.Helper()
	r := &run{t: t, screen: newScreen(t, width, height), ended: make(chan error, 1)}
	n := int64(-1)
	v := watch.View{Every: time.Second, Colour: true, Addr: func(a string) string { return a },
		Look: func(context.Context) (control.Status, error) { n++; return look(n) }}
	go func() {
		defer close(r.ended)
		defer func() { r.panic = recover() }()
		r.ended <- v.Run(t.Context(), r.screen)
	}()
	synctest.Wait()
	return r
}

// after returns the text on the screen so many seconds later.
func (r *run) after(seconds int) string {
	time.Sleep(time.Duration(seconds) * time.Second)
	synctest.Wait()
	return r.text()
}

// end ends the view by a key.
func (r *run) end(key tcell.Key, sign rune) {
	r.t.Helper()
	r.InjectKey(key, sign, tcell.ModNone)
	synctest.Wait()
	select {
	case err := <-r.ended:
		if err != nil || !r.screen.ended {
			r.t.Errorf("after key %v %q: Run = %v, the screen has ended: %t", key, sign, err, r.screen.ended)
		}
	default:
		r.t.Fatalf("key %v %q does not end the view", key, sign)
	}
}

func TestViewReadsWell(t *testing.T) {
	working := func(of func(int64) control.Status) func(int64) (control.Status, error) {
		return func(n int64) (control.Status, error) { return of(n), nil }
	}
	stopped := exit.With(errors.New("narbor is not running (nothing listens on /run/narbor/narbor.sock)"), exit.NotRunning)
	for name, look := range map[string]func(int64) (control.Status, error){
		"example": working(example), "crowded": working(crowded), "named": working(named), "idle": working(idle),
		"stopped": func(n int64) (control.Status, error) {
			if n < 3 {
				return example(n), nil
			}
			return control.Status{}, stopped
		},
		"absent": func(int64) (control.Status, error) { return control.Status{}, stopped },
	} {
		for _, size := range [][2]int{{80, 24}, {40, 12}} {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, size[0], size[1], look)
				got := r.after(7)
				r.end(tcell.KeyRune, 'q')
				file := filepath.Join("testdata", fmt.Sprintf("%s-%dx%d.txt", name, size[0], size[1]))
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("%s is\n%s\nwant\n%s\n(go test ./cmd/narbor/watch -update)", file, got, want)
				}
			})
		}
	}
}

func TestKeysEndTheView(t *testing.T) {
	for _, key := range []struct {
		key  tcell.Key
		sign rune
	}{{tcell.KeyRune, 'q'}, {tcell.KeyRune, 'Q'}, {tcell.KeyEscape, 0}, {tcell.KeyCtrlC, 0}} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, 80, 24, func(n int64) (control.Status, error) { return example(n), nil })
			r.InjectKey(tcell.KeyRune, 'x', tcell.ModNone)
			r.InjectKey(tcell.KeyUp, 0, tcell.ModNone)
			if text := r.after(2); !strings.Contains(text, "00:00:02") {
				t.Errorf("after other keys the view is\n%s", text)
			}
			r.end(key.key, key.sign)
		})
	}
}

// Keys that are typed before the one that ends the view, and while narbor hangs, do not hold up the end.
func TestHangingNarborDoesNotHoldUpKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(t, 80, 24)
		ended := make(chan error)
		go func() {
			ended <- watch.View{Every: time.Second, Look: func(ctx context.Context) (control.Status, error) {
				<-ctx.Done()
				return control.Status{}, ctx.Err()
			}}.Run(t.Context(), s)
		}()
		time.Sleep(time.Minute)
		s.InjectKey(tcell.KeyRune, 'q', tcell.ModNone)
		for range 100 { // more than the screen's queue takes
			s.InjectKey(tcell.KeyRune, 'x', tcell.ModNone)
		}
		if err := <-ended; err != nil || !s.ended {
			t.Errorf("Run = %v, the screen has ended: %t", err, s.ended)
		}
	})
}

func TestContextEndsTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScreen(t, 80, 24)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := watch.View{Every: time.Second, Look: func(context.Context) (control.Status, error) { return idle(0), nil }}.Run(ctx, s)
		if err != nil || !s.ended {
			t.Errorf("Run = %v, the screen has ended: %t", err, s.ended)
		}
	})
}

func TestPanicLeavesTheScreenFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 80, 24, func(n int64) (control.Status, error) {
			if n == 2 {
				panic("a fault of Look")
			}
			return example(n), nil
		})
		r.after(3)
		<-r.ended
		if !r.screen.ended || !strings.Contains(fmt.Sprint(r.panic), "a fault of Look") {
			t.Errorf("the screen has ended: %t; the panic is %v", r.screen.ended, r.panic)
		}
	})
}

func TestOnlyAPermissionThatIsDeniedAtFirstEndsTheView(t *testing.T) {
	denied := fmt.Errorf("ask as root: %w", fs.ErrPermission)
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 80, 24, func(n int64) (control.Status, error) {
			switch n {
			case 1:
				return control.Status{}, errors.New("it hung up")
			case 3:
				return control.Status{}, denied
			}
			return example(n), nil
		})
		if text := r.after(1); !strings.Contains(text, "No answer since 00:00:00: it hung up. Trying again.") {
			t.Errorf("while narbor does not answer, the view is\n%s", text)
		}
		if text := r.after(1); strings.Contains(text, "No answer") || !strings.Contains(text, "00:00:02") {
			t.Errorf("when narbor answers again, the view is\n%s", text)
		}
		if text := r.after(1); !strings.Contains(text, "ask as root") || !strings.Contains(text, "Trying again.") {
			t.Errorf("while the folder of a narbor that is being restarted is closed, the view is\n%s", text)
		}
		if text := r.after(1); strings.Contains(text, "No answer") {
			t.Errorf("after that the view is\n%s", text)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 80, 24, func(int64) (control.Status, error) { return control.Status{}, denied })
		if err := <-r.ended; !errors.Is(err, fs.ErrPermission) || !r.screen.ended {
			t.Errorf("Run = %v, the screen has ended: %t", err, r.screen.ended)
		}
	})
}

func TestViewFollowsTheSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 80, 24, func(n int64) (control.Status, error) { return example(n), nil })
		r.after(7)
		r.SetSize(40, 12)
		if err := r.PostEvent(tcell.NewEventResize(40, 12)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want, err := os.ReadFile(filepath.Join("testdata", "example-40x12.txt"))
		if err != nil || r.text() != string(want) {
			t.Errorf("%v: on the smaller terminal the view is\n%s\nwant\n%s", err, r.text(), want)
		}
		r.end(tcell.KeyRune, 'q')
	})
}

// Text of peers takes no more room than it has signs, and moves no cursor.
func TestTextOfPeersIsPrintable(t *testing.T) {
	for hostile, want := range map[string]string{"a\x1b[2Jb": "a?[2Jb", "a\r\nb": "a??b", "a\x9bb": "a\ufffdb", "a\u009bb": "a?b",
		"a\u202eb": "a?b", "a\u0301b": "a?b", "a\u200bb": "a?b", "a世b": "a?b", "a\x7fb": "a?b", "a\tb": "a?b",
		"a\ue000b": "a?b", "aéb": "aéb"} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, 80, 24, func(n int64) (control.Status, error) {
				st := example(n)
				st.Neighbours[0].ID, st.Neighbours[0].Addr = hostile, hostile
				st.Now[0].Path, st.Now[0].Peers = hostile, []string{hostile}
				st.Health = []control.Health{{Severity: control.SeverityError, Title: hostile}}
				return st, nil
			})
			if text := r.after(0); strings.Count(text, want) != 5 {
				t.Errorf("the view shows %q so:\n%s\nwant %q 5 times", hostile, text, want)
			}
			r.end(tcell.KeyRune, 'q')
		})
	}
}

func TestRatesOfNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 80, 24, func(n int64) (control.Status, error) {
			st := example(0)
			received := min(n, 10) * (10 << 20) // ten seconds of it
			if n > 30 {
				received = 1 << 20 // another narbor has begun to count
			}
			st.Rates, st.Now = stats.Rates{}, nil
			st.Neighbours = []p2p.NeighbourStatus{{ID: idLaptop, Addr: "192.168.1.23", BytesReceived: received}}
			return st, nil
		})
		row := func(text string) string {
			_, rest, _ := strings.Cut(text, "192.168.1.23")
			rest, _, _ = strings.Cut(rest, "\n")
			return strings.Join(strings.Fields(rest), " ")
		}
		for _, c := range []struct {
			after int
			want  string
		}{{0, "0 B 0 B"}, {1, "10 MiB 10 MiB 0 B"}, {7, "10 MiB 80 MiB 0 B"}, {12, "100 MiB 0 B"}, {12, "1.0 MiB 0 B"}} {
			if got := row(r.after(c.after)); got != c.want {
				t.Errorf("%d s later the neighbour has %q, want %q", c.after, got, c.want)
			}
		}
		r.end(tcell.KeyRune, 'q')
	})
}
