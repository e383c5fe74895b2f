package integration_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// backWithin is how long after the network has come back a neighbour serves again. On a machine that has other things
// to do as well, half of the times must keep to it, and all of them to twice that.
const backWithin = 5 * time.Second

// A pair is two machines of a LAN, without Nix. Each has half of a corpus in a cache directory, so that either can be
// seen to fetch from the other.
type pair struct {
	world
	hosts [2]*lan.Host
	procs [2]*lan.Process
	fresh [2][]store.Info // what a machine has not asked the other for yet
}

// newPair makes a pair. The machine that moves is the first.
func newPair(t *testing.T) *pair { return newPairWith(t, func(*lan.Host) error { return nil }) }

// newPairWith makes a pair. It calls prepare with the first machine before that machine's narbor starts with args.
func newPairWith(t *testing.T, prepare func(*lan.Host) error, args ...string) *pair {
	t.Helper()
	p := &pair{world: newWorld(t)}
	if nightly() {
		p.ctx = t.Context()
	}
	c := p.corpus(corpus.First())
	var dirs [2]string
	for i := range dirs {
		dirs[i] = t.TempDir()
		p.must(os.Mkdir(filepath.Join(dirs[i], "nar"), 0o755))
		p.must(os.Chmod(dirs[i], 0o755))
		p.must(os.WriteFile(filepath.Join(dirs[i], "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644))
	}
	for i, info := range slices.DeleteFunc(slices.Clone(c.Infos), func(i store.Info) bool { return i.NarSize > 2<<20 }) {
		has := i % 2
		for _, name := range []string{string(info.Path.HashPart()) + ".narinfo", "nar/" + info.NarHash.Base32() + ".nar"} {
			p.must(copyFile(filepath.Join(dirs[has], name), filepath.Join(c.Cache, name)))
		}
		p.fresh[1-has] = append(p.fresh[1-has], info)
	}
	for i, name := range []string{"mover", "stayer"} {
		h, err := p.lan.Add(lan.HostConfig{Name: name, Binds: map[string]string{"opt": programs.dir, "srv/cache": dirs[i]}})
		p.must(err)
		p.hosts[i] = h
		all := []string{"--cache-dir", "/srv/cache", "--trusted-key", corpus.PublicKey(), "--min-free", "1MiB"}
		if i == 0 {
			p.must(prepare(h))
			all = append(all, args...)
		}
		p.procs[i] = p.start(h, all...)
	}
	return p
}

// meet waits until the two are neighbours.
func (p *pair) meet() *pair {
	p.Helper()
	for _, h := range p.hosts {
		p.neighbours(h, 1)
	}
	return p
}

func copyFile(to, from string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Close()
}

// serves waits until the other machine serves machine i something new, all of it, and returns how long that took since
// a moment.
func (p *pair) serves(i int, since time.Time) (time.Duration, error) {
	if len(p.fresh[i]) == 0 {
		return 0, fmt.Errorf("nothing is left that is new to %s", p.hosts[i].Name)
	}
	info := p.fresh[i][0]
	p.fresh[i] = p.fresh[i][1:]
	ctx, cancel := context.WithTimeout(p.ctx, lan.AtMost(time.Minute))
	defer cancel()
	_, err := p.hosts[i].Run(ctx, "sh", "-c", `
		while :; do
			if info=$(curl -sf --max-time 5 "$0/$1.narinfo"); then
				url=$(echo "$info" | sed -n 's/^URL: //p')
				curl -sf --max-time 20 -o /dev/null "$0/$url" && exit 0
			fi
			sleep 0.02
		done`, lan.Substituter, string(info.Path.HashPart()))
	return time.Since(since).Round(time.Millisecond), err
}

// both is serves for both machines at once.
func (p *pair) both(since time.Time) (took [2]time.Duration) {
	p.Helper()
	var errs [2]error
	done := make(chan struct{})
	go func() {
		took[1], errs[1] = p.serves(1, since)
		close(done)
	}()
	took[0], errs[0] = p.serves(0, since)
	<-done
	for i, err := range errs {
		if err != nil {
			p.Fatalf("%s is not served any more: %v", p.hosts[i].Name, err)
		}
	}
	return took
}

// A footprint counts the resources that a process holds.
type footprint struct {
	goroutines, files int
	rss               int64
}

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %d MiB", f.goroutines, f.files, f.rss>>20)
}

func (p *pair) footprint(i int) (f footprint) {
	p.Helper()
	u, err := p.procs[i].Usage()
	p.must(err)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.procs[i].Pid()))
	p.must(err)
	return footprint{p.status(p.hosts[i]).Goroutines, len(files), u.RSS}
}

// roam does something to the first machine again and again, and prints and judges how long it took until both served
// each other after each time, and what has grown.
func (p *pair) roam(what string, times int, disturb func(n int) (back time.Time)) {
	p.Helper()
	p.both(time.Now())
	p.both(disturb(0)) // first-time allocations do not count as growth
	before := [2]footprint{p.footprint(0), p.footprint(1)}
	var took [2][]time.Duration
	for n := range times {
		t := p.both(disturb(n + 1))
		for i := range t {
			took[i] = append(took[i], t[i])
		}
	}
	for i, h := range p.hosts {
		p.Logf("%s, %s is served again after: %v", what, h.Name, took[i])
		slices.Sort(took[i])
		median, worst := took[i][times/2], took[i][times-1]
		p.Logf("| %-18s | %-6s | %3d | median %6s | worst %6s |", what, h.Name, times, median, worst)
		if median > backWithin || worst > 2*backWithin {
			p.Errorf("%s: %s is served again after %s in the median, %s at worst, want %s", what, h.Name, median, worst, backWithin)
		}
		p.hasNotGrown(i, before[i])
	}
}

// hasNotGrown waits until a machine holds about what it held before.
func (p *pair) hasNotGrown(i int, before footprint) {
	p.Helper()
	var now footprint
	for deadline := time.Now().Add(lan.AtMost(20 * time.Second)); ; time.Sleep(200 * time.Millisecond) {
		now = p.footprint(i)
		ok := now.goroutines <= before.goroutines+12 && now.files <= before.files+8 && now.rss <= before.rss+32<<20
		if ok || time.Now().After(deadline) {
			p.Logf("%s: %s before, %s after", p.hosts[i].Name, before, now)
			if !ok {
				p.Errorf("%s has grown from %s to %s", p.hosts[i].Name, before, now)
			}
			return
		}
	}
}

// long returns the second of two numbers in the nightly run.
func long(short, nightlong int) int {
	if nightly() {
		return nightlong
	}
	return short
}

// A machine gets other addresses, loses its cable, or sleeps: soon after, it serves its neighbour and is served.
func TestRoaming(t *testing.T) {
	t.Run("address", func(t *testing.T) {
		t.Parallel()
		p := newPair(t).meet()
		p.roam("address flips", long(5, 50), func(n int) time.Time {
			p.must(p.hosts[0].Readdress(byte(100 + n)))
			return time.Now()
		})
	})
	t.Run("cable", func(t *testing.T) {
		t.Parallel()
		p := newPair(t).meet()
		p.roam("cable pulls", long(2, 20), func(n int) time.Time {
			p.must(p.hosts[0].Unplug())
			time.Sleep([]time.Duration{500 * time.Millisecond, 9 * time.Second, 4 * time.Second, 2 * time.Second, 20 * time.Second}[n%5])
			p.must(p.hosts[0].Plug())
			return time.Now()
		})
	})
	t.Run("sleep", func(t *testing.T) {
		t.Parallel()
		p := newPair(t).meet()
		stopped := time.Duration(long(12, 60)) * time.Second
		p.roam(fmt.Sprintf("SIGSTOP for %s", stopped), long(1, 20), func(n int) time.Time {
			if n == 0 {
				return time.Now()
			}
			p.must(p.procs[0].Stop())
			time.Sleep(stopped)
			p.must(p.procs[0].Continue())
			return time.Now()
		})
		log, err := p.procs[0].Log()
		p.must(err)
		if n := strings.Count(log, "this machine slept"); n < long(0, 20) { // for longer than between two looks at the clock
			t.Errorf("sleep was noticed %d times", n)
		}
	})
}
