package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// slowPace is the rate, in bytes per second, of a disk that is busy with random reads.
const slowPace = 1 << 20

// The /nix of one holder is on a disk that reads 1 MB a second. As long as another holder has the same paths, a fetch
// takes at most twice the time plus 2 s. With the slow holder alone, Nix gets each path or a 404 in time.
func TestSlowDisk(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	d := w.slowDisk(c.Nix)
	slow, err := w.lan.Add(lan.HostConfig{Name: "slow", Nix: d.dir, Binds: map[string]string{"opt": programs.dir}})
	w.must(err)
	w.must(slow.Configure("extra-trusted-public-keys = "+corpus.PublicKey(), "substituters ="))
	daemon, err := slow.StartNixDaemon()
	w.must(err)
	d.hold(w, daemon)
	_, quick := w.sharing("quick", c)

	alone, p := w.fetching("alone")
	w.neighbours(alone, 1)
	without := w.begin(alone, c.Top.String())
	without.end()
	w.must(p.Terminate(20 * time.Second)) // or it would be another holder

	d.hold(w, w.start(slow))
	both, p := w.fetching("both")
	w.neighbours(both, 2)
	with := w.begin(both, c.Top.String())
	with.end()
	w.whole(both, c, c.Top.String())
	t.Logf("%d MiB: %s without the slow holder, %s with it", size(c.Infos)>>20, without.took, with.took)
	if limit := 2*without.took + 2*time.Second; with.took > limit {
		t.Errorf("with a slow holder besides the quick one, Nix waits %s, want %s", with.took, limit)
	}
	w.must(p.Terminate(20 * time.Second))
	w.must(quick.Terminate(20 * time.Second))

	d.forget(w)
	last, _ := w.fetching("last")
	w.neighbours(last, 1)
	w.slowly(last, c)
	for _, s := range w.status(last).Banned {
		t.Errorf("the slow holder is banned: %s", s.Reason)
	}
}

func size(infos []store.Info) (sum int64) {
	for _, i := range infos {
		sum += i.NarSize
	}
	return sum
}

// slowly requests some archives from a machine that has one neighbour, with a slow disk.
func (w world) slowly(h *lan.Host, c *corpus.Corpus) {
	w.Helper()
	infos := slices.SortedFunc(slices.Values(c.Infos), func(a, b store.Info) int { return int(a.NarSize - b.NarSize) })
	for _, info := range []store.Info{infos[len(infos)/2], infos[3*len(infos)/4], infos[len(infos)-1]} {
		out, err := h.Run(w.ctx, "sh", "-c", `
			curl -s -o /tmp/info -w '%{http_code} %{time_total} ' "$0/$1.narinfo"
			curl -s -L -o /tmp/nar -w '%{http_code} %{time_total}' "$0/$(sed -n 's/^URL: //p' /tmp/info)"`,
			lan.Substituter, string(info.Path.HashPart()))
		w.must(err)
		f := strings.Fields(out)
		if len(f) != 4 {
			w.Fatalf("curl says %q", out)
		}
		asked, _ := strconv.ParseFloat(f[1], 64)
		got, _ := strconv.ParseFloat(f[3], 64)
		w.Logf("from the slow holder alone, %d KiB: narinfo %s after %.3f s, NAR %s after %.1f s", info.NarSize>>10, f[0], asked, f[2], got)
		if f[0] != "200" && f[0] != "404" || f[2] != "200" && f[2] != "404" || asked > 1 {
			w.Errorf("answers are %s after %.1f s, and %s, want 200 or 404, the first within a second", f[0], asked, f[2])
		}
		if most := 10 + 3*float64(info.NarSize)/slowPace; got > most {
			w.Errorf("%d bytes come after %.1f s, want %.1f s", info.NarSize, got, most)
		}
	}
}

// A disk is a file system on which the kernel throttles the reads of some processes.
type disk struct {
	dir, group string
	device     string // major:minor
}

// slowDisk makes a disk with a copy of a directory on it.
func (w world) slowDisk(from string) *disk {
	w.Helper()
	image, d := filepath.Join(w.TempDir(), "image"), &disk{dir: w.TempDir()}
	script := `truncate -s $(( $(du -sm "$0" | cut -f1) * 3 / 2 + 64 ))M "$1" &&
		mke2fs -q -t ext4 -N 65536 -O ^has_journal -d "$0" "$1" && mount -o loop,ro "$1" "$2"`
	if out, err := exec.Command("sh", "-c", script, from, image, d.dir).CombinedOutput(); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	w.Cleanup(func() { w.must(unix.Unmount(d.dir, unix.MNT_DETACH)) })
	var st unix.Stat_t
	w.must(unix.Stat(d.dir, &st))
	d.device = fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	const v1, v2 = "/sys/fs/cgroup/blkio", "/sys/fs/cgroup"
	name := fmt.Sprintf("narbor-test-%d", os.Getpid())
	if _, err := os.Stat(v1); err == nil {
		d.group = filepath.Join(v1, name)
		w.must(os.Mkdir(d.group, 0o755))
		w.must(os.WriteFile(filepath.Join(d.group, "blkio.throttle.read_bps_device"), fmt.Appendf(nil, "%s %d", d.device, slowPace), 0))
	} else {
		if err := os.WriteFile(filepath.Join(v2, "cgroup.subtree_control"), []byte("+io"), 0); err != nil {
			unable(w.T, "no control group can slow down a disk: "+err.Error())
		}
		d.group = filepath.Join(v2, name)
		w.must(os.Mkdir(d.group, 0o755))
		w.must(os.WriteFile(filepath.Join(d.group, "io.max"), fmt.Appendf(nil, "%s rbps=%d", d.device, slowPace), 0))
	}
	w.Cleanup(func() {
		held, err := os.ReadFile(d.procs())
		w.must(err)
		for _, pid := range strings.Fields(string(held)) {
			_ = os.WriteFile(filepath.Join(filepath.Dir(d.group), "cgroup.procs"), []byte(pid), 0) // it may have ended
		}
		w.must(os.Remove(d.group))
	})
	return d
}

func (d *disk) procs() string { return filepath.Join(d.group, "cgroup.procs") }

// hold makes the disk slow for a process and what it starts from now on, and forgets what was read before.
func (d *disk) hold(w world, p *lan.Process) {
	w.Helper()
	w.must(os.WriteFile(d.procs(), []byte(strconv.Itoa(p.Pid())), 0))
	d.forget(w)
}

// forget makes the kernel forget what it has read.
func (d *disk) forget(w world) {
	w.Helper()
	w.must(filepath.WalkDir(d.dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}))
}
