package integration_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/integration/lan"
	"narbor/store"
)

// A source is a content-addressed path without a signature.
type source struct {
	kind   string
	script string // prints the path
	shared bool   // with members of the group
	again  bool   // Nix asks substituters for it before it asks the URL
}

// sourceScripts is what the scripts of sources have in common. The files here are those of the web server, for their hashes.
const sourceScripts = `
URL=$1; cd /tmp; mkdir -p dir local tree; echo one > one; echo two > two; echo in > tree/in
echo exec > exec; chmod 755 exec; echo secret > dir/secret; echo flake > local/flake.nix; echo mine > mine
hash() { nix-hash --type $1 --base32 $2 $3; }
fod() { nix-build --no-out-link --expr 'derivation { name = "'$1'"; system = "builtin"; builder = "builtin:fetchurl"; url = "'$URL'/'$2'";
	outputHashMode = "'$3'"; outputHashAlgo = "'$4'"; outputHash = "'$5'"; executable = '${6-false}'; }'; }
run() { nix-build --no-out-link --expr 'derivation { name = "'$1'"; system = builtins.currentSystem; builder = "/bin/sh";
	PATH = "/usr/bin:/bin"; args = [ "-ec" "'"$2"'" ]; '"$3"' }'; }
floating() { run $1 "$2" '__contentAddressed = true; outputHashAlgo = "sha256"; outputHashMode = "'$3'";'; }
value() { nix-instantiate --eval --read-write-mode --expr "$1" | tr -d '"'; }
tree() { nix eval --impure --raw --expr '(builtins.fetchTree '"$1"').outPath'; }
flake() { case $(nix --version) in *" 2.8."*) # which has no such input, and asks for what fetchTree names
	tree '{ type = "tarball"; url = "'$URL'/tree.tar"; narHash = "'$(nix hash path tree)'"; }'; return;; esac
	mkdir -p flake
	echo '{ inputs.it = { url = "'$URL/tree.tar'"; flake = false; }; outputs = i: { it = i.it.outPath; }; }' > flake/flake.nix
	it='"type": "tarball", "url": "'$URL/tree.tar'"'
	echo '{ "root": "root", "version": 7, "nodes": { "root": { "inputs": { "it": "it" } }, "it": { "flake": false, "original": { '$it' },
		"locked": { '$it', "lastModified": 1, "narHash": "'$(nix hash path tree)'" } } } }' > flake/flake.lock
	nix eval --raw path:/tmp/flake#it; }
`

func sources() []source {
	return []source{
		{"flat file", `fod flat one flat sha256 $(hash sha256 --flat one)`, true, true},
		{"executable file", `fod exec exec recursive sha256 $(hash sha256 exec) true`, true, true},
		{"SHA-512 file", `fod sha512 one flat sha512 $(hash sha512 --flat one)`, true, true},
		{"SHA-1 file", `fod sha1 two flat sha1 $(hash sha1 --flat two)`, true, true},
		{"MD5 file", `fod md5 one flat md5 $(hash md5 --flat one)`, true, true},
		{"SHA-1 tree", `fod sha1-exec exec recursive sha1 $(hash sha1 exec) true`, true, true},
		{"tree", `run tree 'mkdir $out; curl -sf '$URL'/in > $out/in' 'outputHashMode = "recursive"; outputHashAlgo = "sha256";
			outputHash = "'$(hash sha256 tree)'";'`, true, true},
		{"flake input", `flake`, true, true},
		{"fetchTarball", `value '"${builtins.fetchTarball "'$URL'/other.tar"}"'`, true, false},
		{"fetchurl", `value '"${builtins.fetchurl "'$URL'/two"}"'`, true, false},
		{"nix-prefetch-url", `nix-prefetch-url --print-path $URL/one | tail -n 1`, true, false},
		{"local flake, which the database does not tell from an input", `tree '{ type = "path"; path = "/tmp/local"; }'`, true, false},
		{"local file, which the database does not tell from a fetched one", `nix-store --add-fixed sha256 mine`, true, false},
		{"local directory", `value '"${./dir}"'`, false, false},
		{"local file", `value '"${./mine}"'`, false, false},
		{"directory that is added", `nix-store --add-fixed --recursive sha256 local`, false, false},
		{"text", `value 'builtins.toFile "text" "text"'`, false, false},
		{"derivation", `nix-instantiate --expr 'derivation { name = "x"; system = "x"; builder = "x"; }'`, false, false},
		{"own build", `run own 'echo own > $out'`, false, false},
		{"own build with a content address", `floating source 'mkdir $out; echo own > $out/own' recursive`, false, false},
		{"own file with a content address", `floating file 'echo own file > $out' flat`, false, false},
	}
}

// webScript makes the files of a web server.
const webScript = `mkdir -p /srv/www/tree /srv/www/other; cd /srv/www; touch nix-cache-info; echo one > one; echo two > two; echo in > in
	echo exec > exec; cp in tree; cp two other; tar --mtime=@1 -cf tree.tar tree; tar -cf other.tar other`

// sourcesOn makes all sources on a host, and returns them by their paths.
func (w world) sourcesOn(h *lan.Host, url string, which func(source) bool) map[string]source {
	w.Helper()
	paths := map[string]source{}
	for _, s := range sources() {
		if !which(s) {
			continue
		}
		out, err := h.Run(w.ctx, "sh", "-ec", sourceScripts+s.script, "sh", url)
		if err != nil {
			w.Fatalf("%s: %s: %v", h.Name, s.kind, err)
		}
		p, err := store.ParsePath(strings.TrimSpace(out))
		w.must(err)
		paths[p.String()] = s
	}
	return paths
}

// A machine gives members of its group the sources that Nix has fetched, without a signature; no other machine gets them,
// and no member gets what was copied in or built. A URL that is gone does no harm then.
func TestSourcesAreForTheGroup(t *testing.T) {
	for _, nix := range nixes(t) {
		t.Run(nix.Version, func(t *testing.T) {
			w := newWorld(t)
			conf := []string{"experimental-features = nix-command flakes ca-derivations", "tarball-ttl = 0", "connect-timeout = 1",
				"download-attempts = 1"}
			holder := w.host(lan.HostConfig{Name: "holder", System: nix.System}, append(conf, "substituters =")...)
			web, err := w.lan.Add(lan.HostConfig{Name: "web"})
			w.must(err)
			_, err = web.Run(w.ctx, "sh", "-ec", webScript)
			w.must(err)
			nginx, url, err := web.StartNginx("/srv/www")
			w.must(err)
			paths := w.sourcesOn(holder, url, func(source) bool { return true })
			w.must(nginx.Terminate(15 * time.Second))

			member := w.host(lan.HostConfig{Name: "member", System: nix.System}, append(conf, "trusted-public-keys =",
				"substituters = "+lan.Substituter)...)
			for _, h := range []*lan.Host{holder, member} {
				w.inGroup(h)
				w.start(h, "--group-secret-file", groupSecret)
			}
			w.neighbours(member, 1)
			shared, others := map[string]string{}, map[string]string{}
			for p, s := range paths {
				if s.shared {
					shared[p] = s.kind
				} else {
					others[p] = s.kind
				}
			}
			w.probe(member, shared, others)
			for p, s := range w.sourcesOn(member, url, func(s source) bool { return s.again }) {
				if paths[p].kind != s.kind {
					t.Errorf("%s is %s on the member, and another path on the holder", s.kind, p)
				}
			}
			w.realise(member, slices.Collect(maps.Keys(shared))...)
			w.must(member.Verify(w.ctx))

			w.tamperedSource(holder, member, web)

			stranger := w.host(lan.HostConfig{Name: "stranger"}, "substituters = "+lan.Substituter)
			w.start(stranger)
			maps.Copy(others, shared)
			w.probe(stranger, nil, others)
		})
	}
}

// tamperedSource damages a source in the holder's store. The member gets 404 for its NAR, and Nix takes the URL.
func (w world) tamperedSource(holder, member, web *lan.Host) {
	w.Helper()
	_, url, err := web.StartNginx("/srv/www")
	w.must(err)
	const script = sourceScripts + `fod tampered two flat sha256 $(hash sha256 --flat two)`
	path, err := holder.Run(w.ctx, "sh", "-ec", script, "sh", url)
	w.must(err)
	path = strings.TrimSpace(path)
	hashes, err := holder.Hashes(w.ctx, path)
	w.must(err)
	_, err = holder.Run(w.ctx, "sh", "-ec", "printf evil | dd conv=notrunc of="+path)
	w.must(err)
	p, err := store.ParsePath(path)
	w.must(err)
	narinfo := lan.Substituter + "/" + string(p.HashPart()) + ".narinfo"
	nar := lan.Substituter + "/nar/" + string(p.HashPart()) + "-" + strings.TrimPrefix(hashes[0], "sha256:") + ".nar"
	codes, err := member.Codes(w.ctx, narinfo, nar)
	w.must(err)
	if !slices.Equal(codes, []string{"200", "404"}) {
		w.Errorf("a tampered source is answered with %s, want a narinfo and 404", codes)
	}
	got, err := member.Run(w.ctx, "sh", "-ec", script, "sh", url)
	w.must(err)
	if strings.TrimSpace(got) != path {
		w.Errorf("the member built %s, want %s", got, path)
	}
	w.must(member.Verify(w.ctx))
}

// groupSecret is the file of the group's secret.
const groupSecret = "/tmp/group"

// inGroup gives a host the group's secret.
func (w world) inGroup(h *lan.Host) {
	w.Helper()
	w.must(h.WriteFile(groupSecret, strings.Repeat("a group's secret ", 3)))
	_, err := h.Run(w.ctx, "sh", "-c", "chmod 400 "+groupSecret+" && chown 65534 "+groupSecret)
	w.must(err)
}

// Nix finds a file by its content in its hashed mirror, whatever the name of the store path is that has it: on its own machine,
// and on a member of the group.
func TestHashedMirror(t *testing.T) {
	for _, nix := range nixes(t) {
		t.Run(nix.Version, func(t *testing.T) {
			w := newWorld(t)
			conf := []string{"hashed-mirrors = " + lan.Substituter, "substituters =",
				"experimental-features = nix-command ca-derivations", "connect-timeout = 1", "download-attempts = 1"}
			hosts := map[string]*lan.Host{}
			for _, name := range []string{"holder", "member", "stranger"} {
				h := w.host(lan.HostConfig{Name: name, System: nix.System}, conf...)
				hosts[name] = h
				if name == "stranger" {
					w.start(h)
					continue
				}
				w.inGroup(h)
				w.start(h, "--group-secret-file", groupSecret)
			}
			w.neighbours(hosts["member"], 1)
			const dead = "http://127.0.0.1:9"
			try := func(on, name, file string) error {
				script := sourceScripts + `fod ` + name + ` gone flat sha256 $(hash sha256 --flat ` + file + `)`
				_, err := hosts[on].Run(w.ctx, "sh", "-ec", script, "sh", dead)
				return err
			}
			fetch := func(on, name, file string, found bool) {
				t.Helper()
				if err := try(on, name, file); (err == nil) != found {
					t.Errorf("the %s fetches %s as %s: %v, want it found: %t", on, file, name, err, found)
				}
			}
			fetch("holder", "absent", "one", false)
			_, err := hosts["holder"].Run(w.ctx, "sh", "-ec", sourceScripts+`nix-store --add-fixed sha256 one
				floating built 'echo mine > $out' flat`, "sh", dead)
			w.must(err)
			fetch("holder", "renamed", "one", true)
			fetch("holder", "another", "two", false)
			w.eventually(func() bool { return try("member", "elsewhere", "one") == nil }) // a busy holder may answer too late
			fetch("member", "unknown", "two", false)
			fetch("member", "private", "mine", false)
			w.until(hosts["stranger"], "met the group", func(s lan.Status) bool { return len(s.OtherGroup) >= 2 })
			fetch("stranger", "outside", "one", false)
			w.must(hosts["holder"].Verify(w.ctx))
			w.must(hosts["member"].Verify(w.ctx))
		})
	}
}
