package doctor

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"narbor/store/storetest"
)

func TestStateOfTheServiceIsExplained(t *testing.T) {
	const loaded = "LoadState=loaded\nFragmentPath=/usr/lib/systemd/system/narbor.service\nEnvironmentFiles=/etc/default/narbor " +
		"(ignore_errors=yes)\n"
	for name, c := range map[string]struct {
		shown      string
		says, does string
	}{
		"no unit":    {"LoadState=not-found\nActiveState=inactive\n", "", ""},
		"no systemd": {"", "", ""},
		"runs":       {loaded + "ActiveState=active\nSubState=running\n", "", ""},
		"stopped": {loaded + "ActiveState=inactive\nSubState=dead\n",
			"narbor.service (/usr/lib/systemd/system/narbor.service) is stopped", "systemctl enable --now narbor.socket narbor.service"},
		"masked": {"LoadState=masked\nActiveState=inactive\n", "is masked", "systemctl unmask"},
		"wrong setting": {loaded + "ActiveState=active\nStatusText=Not working: --upload-rate \"fast\" is no amount\n",
			"cannot work: --upload-rate \"fast\"", ""},
		"fails": {loaded + "ActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus=2\n",
			"exit-code, exit status 2", ""},
	} {
		f, ok := parseUnit(c.shown).service()
		if ok != (c.says != "") || !strings.Contains(f.Text, c.says) || !strings.HasPrefix(f.Command, c.does) ||
			(c.does == "") != (f.Command == "") {
			t.Errorf("%s: %+v, %t, want %q and the command %q", name, f, ok, c.says, c.does)
		}
	}
	f, _ := parseUnit(loaded + "StatusText=Not working: x\n").service()
	if !strings.Contains(f.Fix, "/etc/default/narbor,") || strings.Contains(f.Command, "setup") {
		t.Errorf("the fix of a wrong setting is %q, want the file that has it", f.Fix)
	}
}

func TestDeadNixDaemonIsReported(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	p := &patient{}
	if found := p.checkDaemon(t.Context(), socket); found != nil {
		t.Errorf("without nix-daemon doctor says %+v", found)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if found := p.checkDaemon(t.Context(), socket); found != nil {
		t.Errorf("with a nix-daemon that answers doctor says %+v", found)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if found := p.checkDaemon(t.Context(), socket); len(found) != 1 || found[0].Severity != severityError ||
		!strings.Contains(found[0].Text, "nix-daemon does not answer") {
		t.Errorf("with a dead nix-daemon doctor says %+v", found)
	}
}

func TestUnitOfAPackageIsFound(t *testing.T) {
	root := t.TempDir()
	storetest.WriteText(t, filepath.Join(root, "etc/systemd/system/narbor.service"), "")
	if got := PackagedUnit(root); got != "" {
		t.Errorf("packagedUnit = %q, where setup alone has installed one", got)
	}
	file := filepath.Join(root, "lib/systemd/system/narbor.service")
	storetest.WriteText(t, file, "")
	if got := PackagedUnit(root); got != file {
		t.Errorf("packagedUnit = %q, want %q", got, file)
	}
}

// Settings of an earlier file are lost unless the drop-in repeats them, and it counts only if it is read last.
func TestProxyDropInKeepsExceptionsAndSortsLast(t *testing.T) {
	f := Finding{}
	(&patient{}).proxyDropIn(t.Context(), &f, ".corp.example,10.0.0.0/8,100%,127.0.0.1,localhost")
	if !strings.Contains(f.Command, `'Environment="no_proxy=.corp.example,10.0.0.0/8,100%%,127.0.0.1,localhost"'`) || !f.Safe {
		t.Errorf("the command is %s", f.Command)
	}
	t.Setenv("http_proxy", "http://proxy.corp.example:3128")
	t.Setenv("no_proxy", ".corp.example,10.0.0.0/8,cache.internal")
	t.Setenv("NO_PROXY", "127.0.0.1") // which curl does not look at
	if pid, _ := Daemon(); pid == 0 {
		found := checkProxy(t.Context(), &patient{})
		if len(found) != 1 || found[0].Severity != severityError ||
			!strings.Contains(found[0].Fix, "no_proxy=.corp.example,10.0.0.0/8,cache.internal,127.0.0.1,localhost") {
			t.Errorf("checkProxy = %+v", found)
		}
	}
	for _, c := range []struct {
		files []string
		want  string
	}{
		{nil, "zz-narbor.conf"}, {[]string{"proxy.conf", "zz-narbor.conf"}, "zz-narbor.conf"},
		{[]string{"a.conf", "zzz.conf"}, "zzz.conf.zz-narbor.conf"},
		{[]string{"zzz.conf", "zzz.conf.zz-narbor.conf", "zz-narbor.conf"}, "zzz.conf.zz-narbor.conf"},
		{[]string{"~.conf", "zzz.conf"}, "~.conf.zz-narbor.conf"}, {[]string{"zzz.txt"}, "zz-narbor.conf"},
	} {
		root := t.TempDir()
		for i, name := range c.files {
			storetest.WriteText(t, filepath.Join(daemonDropIns(root)[i%3], name), "")
		}
		got := dropInName(daemonDropIns(root))
		if got != c.want {
			t.Errorf("beside %q the drop-in is %s, want %s", c.files, got, c.want)
		}
		for _, name := range c.files {
			if strings.HasSuffix(name, ".conf") && name > got {
				t.Errorf("%s is read after %s", name, got)
			}
		}
	}
}
