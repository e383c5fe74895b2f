package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// daemonDropIns returns the drop-in directories of nix-daemon.service. systemd reads files of the same
// name in several of them only once.
func daemonDropIns(root string) []string {
	var dirs []string
	for _, dir := range []string{"etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system",
		"lib/systemd/system"} {
		for _, unit := range []string{"nix-daemon.service.d", "nix-.service.d", "service.d"} {
			dirs = append(dirs, filepath.Join(root, dir, unit))
		}
	}
	return dirs
}

// checkProxy looks at the environment of the process that asks: nix-daemon, or this user's Nix where there is no
// daemon.
func checkProxy(ctx context.Context, p *patient) []Finding {
	asks, environ := "your environment", os.Environ()
	if pid, _ := Daemon(); pid != 0 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			return []Finding{skipped("only root may see whether nix-daemon goes through a proxy")}
		}
		asks, environ = "nix-daemon", strings.Split(string(text), "\x00")
	}
	proxy, except := proxyOf(environ)
	if proxy == "" {
		return []Finding{fine("no proxy is between Nix and narbor")}
	}
	exceptions := strings.FieldsFunc(except, func(r rune) bool { return r == ',' || r == ' ' })
	if slices.ContainsFunc(exceptions, func(e string) bool { return e == "127.0.0.1" || e == "*" || e == "127.0.0.0/8" }) {
		return []Finding{fine("%s has a proxy, but not for 127.0.0.1", asks)}
	}
	all := strings.Join(append(exceptions, "127.0.0.1", "localhost"), ",")
	f := Finding{Severity: severityError, Text: asks + " sends requests for 127.0.0.1 to a proxy (" + proxy + ")",
		Fix: "give " + asks + " no_proxy=" + all}
	switch {
	case p.nixOS:
		f.Fix = fmt.Sprintf("networking.proxy.noProxy = %q;", all)
	case p.systemd && asks == "nix-daemon":
		p.proxyDropIn(ctx, &f, all)
	}
	return []Finding{f}
}

// proxyDropIn gives a finding the command that sets no_proxy for nix-daemon. Files of variables have precedence over a
// drop-in's, so where one of them sets it, it is named instead.
func (p *patient) proxyDropIn(ctx context.Context, f *Finding, exceptions string) {
	for file := range strings.SplitSeq(p.showUnit(ctx, "nix-daemon.service")["EnvironmentFiles"], "\n") {
		file, _, _ = strings.Cut(file, " (")
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "no_proxy=") {
			f.Fix = fmt.Sprintf("set no_proxy=%s in %s, and restart nix-daemon", exceptions, file)
			return
		}
	}
	dir := "/etc/systemd/system/nix-daemon.service.d"
	file := filepath.Join(dir, dropInName(daemonDropIns("/")))
	old, fresh := shellQuote(file), shellQuote(file+".new") // the names of other files are in it
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace("no_proxy=" + exceptions)
	f.Command = fmt.Sprintf(`mkdir -p %s && printf '%%s\n' '[Service]' %s > %s && mv %s %s && systemctl daemon-reload && systemctl `+
		`restart nix-daemon`,
		dir, shellQuote(`Environment="`+quoted+`"`), fresh, fresh, old)
	f.Safe = true
}

// dropInName returns a name that sorts after those of all files in the directories: a later file has the last word.
func dropInName(dirs []string) string {
	const own = "zz-narbor.conf"
	name := own
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, "*.conf"))
		for _, file := range files {
			if other := filepath.Base(file); other >= name && !strings.HasSuffix(other, own) {
				name = other + "." + own
			}
		}
	}
	return name
}

// proxyOf returns the variable that makes curl, in Nix, use a proxy for http, and its exceptions.
func proxyOf(environ []string) (proxy, except string) {
	small := false // curl looks at NO_PROXY only where there is no no_proxy
	for _, line := range environ {
		name, value, _ := strings.Cut(line, "=")
		switch name {
		case "http_proxy", "all_proxy", "ALL_PROXY": // curl takes HTTP_PROXY for a CGI's header
			if value != "" {
				proxy = name
			}
		case "no_proxy":
			except, small = value, true
		case "NO_PROXY":
			if !small {
				except = value
			}
		}
	}
	return proxy, except
}
