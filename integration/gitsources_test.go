package integration_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/integration/lan"
	"narbor/store"
)

// mirrorScript makes a bare repository, and prints for each of its trees a name, the commit, Nix's hash of the tree,
// and git's.
const mirrorScript = `
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a
git init -q --bare /srv/mirror.git; cd /srv/mirror.git
commit() { # REF NAME PARENT...
	ref=$1 name=$2; shift 2
	tree=$(git --work-tree=/tmp/work add -A && git write-tree)
	id=$(git commit-tree -m x $tree "$@"); git update-ref $ref $id
	rm -rf /tmp/out; mkdir /tmp/out; git archive $id | tar -x -C /tmp/out
	echo $name $id $(/usr/bin/nix --extra-experimental-features nix-command hash path /tmp/out) $tree
}
mkdir -p /tmp/work/sub; cd /tmp/work; export GIT_DIR=/srv/mirror.git
echo old > file; echo in > sub/in; ln -s sub/in link; printf '#!/bin/sh\n' > run; chmod 755 run
commit refs/heads/main old
old=$(git rev-parse refs/heads/main)
echo new > file
commit refs/heads/main new -p $old
echo tampered > file
commit refs/heads/damaged tampered
echo other > file
commit refs/other/secret other
echo 'absent export-ignore' > .gitattributes
commit refs/heads/ignoring ignoring
chmod -R a+rX /srv/mirror.git`

// A mirrored tree is one of a repository.
type mirrored struct{ commit, narHash, tree string }

// gitPath is the store path that Nix gives to it by git's own hash.
func (m mirrored) gitPath(w world) store.Path {
	w.Helper()
	inner := sha256.Sum256([]byte("fixed:out:git:sha1:" + m.tree + ":"))
	p, err := store.ParsePathName(string(store.MakeHashPart("output:out", string(inner[:]), "source")) + "-source")
	w.must(err)
	return p
}

// path is the store path that Nix gives to it.
func (m mirrored) path(w world) store.Path {
	w.Helper()
	h, err := store.ParseHash(m.narHash)
	w.must(err)
	p, err := store.ParsePathName(string(store.MakeHashPart("source", string(h[:]), "source")) + "-source")
	w.must(err)
	return p
}

// urls are those of the narinfo and of the NAR.
func (m mirrored) urls(w world) []string {
	h, err := store.ParseHash(m.narHash)
	w.must(err)
	base := string(m.path(w).HashPart())
	return []string{lan.Substituter + "/" + base + ".narinfo", lan.Substituter + "/nar/" + base + "-" + h.Base32() + ".nar"}
}

// probeTrees asks a host's narbor for all trees. It has those with names in want, and no other.
func (w world) probeTrees(h *lan.Host, trees map[string]mirrored, want ...string) {
	w.Helper()
	for name, tree := range trees {
		urls := tree.urls(w)
		if name == "tampered" && len(want) > 0 { // its NAR must not be in the spool yet
			continue
		}
		codes, err := h.Codes(w.ctx, urls...)
		w.must(err)
		for i, code := range codes {
			if has := slices.Contains(want, name); has != (code == "200") || !has && code != "404" {
				w.Errorf("%s: GET %s (%s) is %s, want it: %v", h.Name, urls[i], name, code, has)
			}
		}
	}
}

// mirror makes the repository on a host.
func (w world) mirror(h *lan.Host) map[string]mirrored {
	w.Helper()
	out, err := h.Run(w.ctx, "sh", "-ec", mirrorScript)
	w.must(err)
	trees := map[string]mirrored{}
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) == 4 {
			trees[words[0]] = mirrored{words[1], words[2], words[3]}
		}
	}
	if len(trees) != 5 {
		w.Fatalf("the repository has %d trees: %s", len(trees), out)
	}
	return trees
}

// flakeScript prints the store path of a flake's locked input, which has a dead URL. For Nix 2.8, which has no such
// input, it uses fetchTree.
const flakeScript = `rm -rf /tmp/flake; mkdir -p /tmp/flake; cd /tmp/flake
case $(nix --version) in *" 2.8."*)
	nix eval --impure --raw --expr '(builtins.fetchTree { type = "github"; owner = "o"; repo = "r"; rev = "'$1'"; narHash = "'$2'";
		lastModified = 1; }).outPath'; exit;; esac
echo '{ inputs.it = { url = "github:o/r"; flake = false; }; outputs = i: { it = i.it.outPath; }; }' > flake.nix
echo '{ "root": "root", "version": 7, "nodes": { "root": { "inputs": { "it": "it" } }, "it": { "flake": false,
	"original": { "type": "github", "owner": "o", "repo": "r" }, "locked": { "type": "github", "owner": "o", "repo": "r",
	"rev": "'$1'", "lastModified": 1, "narHash": "'$2'" } } } }' > flake.lock
nix eval --raw path:/tmp/flake#it`

// A machine with a mirror of a git repository gives members of its group the sources that a flake names, though GitHub
// cannot be reached. They go to members alone, and neither the trees of other refs nor changed ones are taken.
func TestMirrorOfAGitRepository(t *testing.T) {
	for _, nix := range nixes(t) {
		t.Run(nix.Version, func(t *testing.T) {
			w := newWorld(t)
			const features = "experimental-features = nix-command flakes git-hashing" // 2.8 does not know the last one
			nas := w.host(lan.HostConfig{Name: "nas", Binds: w.withoutNix()}, "substituters =", features)
			trees := w.mirror(nas)
			member := w.host(lan.HostConfig{Name: "member", System: nix.System}, "substituters = "+lan.Substituter,
				"trusted-public-keys =", features, "connect-timeout = 1", "download-attempts = 1")
			for _, h := range []*lan.Host{nas, member} {
				w.inGroup(h)
			}
			flags := []string{"--group-secret-file", groupSecret, "--git-dir", "/srv/mirror.git"}
			holder := w.start(nas, flags...)
			w.start(member, "--group-secret-file", groupSecret)
			w.neighbours(member, 1)
			w.sharesTree(nas, trees["tampered"])

			w.probeTrees(member, trees, "new", "old")
			why, err := nas.Narbor(w.ctx, narbor, "why", trees["new"].path(w).String())
			w.must(err)
			if !strings.Contains(why, "swh:1:dir:"+trees["new"].tree) {
				t.Errorf("narbor why does not print the SWHID:\n%s", why)
			}
			ignoring := trees["ignoring"].path(w).String()
			if said, err := nas.Narbor(w.ctx, narbor, "share", "explain", ignoring); err == nil || !strings.Contains(said, "not shared") {
				t.Errorf("share explain = %v, %s", err, said)
			}
			for _, name := range []string{"new", "old"} {
				got, err := member.Run(w.ctx, "sh", "-ec", flakeScript, "sh", trees[name].commit, trees[name].narHash)
				w.must(err)
				if want := trees[name].path(w).String(); strings.TrimSpace(got) != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			w.gitAddressed(member, trees["old"], nix.Version)
			w.must(member.Verify(w.ctx))

			w.must(holder.Terminate(15 * time.Second)) // it remembers blobs
			_, err = nas.Run(w.ctx, "sh", "-ec", `cd /srv/mirror.git
				object() { echo objects/$(echo $1 | cut -c1-2)/$(echo $1 | cut -c3-); }
				good=$(echo tampered | git hash-object -w --stdin); evil=$(echo TAMPERED | git hash-object -w --stdin)
				cp -f $(object $evil) $(object $good)`)
			w.must(err)
			w.start(nas, flags...)
			w.neighbours(member, 1)
			w.sharesTree(nas, trees["tampered"])
			codes, err := member.Codes(w.ctx, trees["tampered"].urls(w)[1])
			w.must(err)
			if codes[0] != "404" {
				t.Errorf("a tampered tree is answered with %s, want 404", codes[0])
			}

			stranger := w.host(lan.HostConfig{Name: "stranger"}, "substituters = "+lan.Substituter)
			w.start(stranger)
			w.probeTrees(stranger, trees)
		})
	}
}

// withoutNix returns the binds with which narbor reads nix.conf itself: the Nix of this computer does not know
// git-hashing, and the other systems have no git.
func (w world) withoutNix() map[string]string {
	w.Helper()
	dir := w.TempDir()
	w.must(os.Chmod(dir, 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "nix"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	return map[string]string{"/usr/local/sbin": dir}
}

// gitAddressed has a member take a tree by git's own hash, if its Nix knows of such paths. Otherwise narbor answers
// 404.
func (w world) gitAddressed(member *lan.Host, tree mirrored, version string) {
	w.Helper()
	path := tree.gitPath(w)
	want := "200"
	if strings.HasPrefix(version, "2.8.") {
		want = "404"
	}
	codes, err := member.Codes(w.ctx, lan.Substituter+"/"+string(path.HashPart())+".narinfo")
	w.must(err)
	if codes[0] != want {
		w.Errorf("Nix %s gets %s for a tree by git's hash, want %s", version, codes[0], want)
	}
	if want == "404" {
		return
	}
	out, err := member.Run(w.ctx, "sh", "-ec", `rm -rf /tmp/out; cp -r $1 /tmp/out
		p=$(nix store add --mode git --hash-algo sha1 --name source /tmp/out); nix-store --delete $p > /dev/null; echo $p`,
		"sh", tree.path(w).String())
	w.must(err)
	if strings.TrimSpace(out) != path.String() {
		w.Errorf("Nix %s calls the tree %s, want %s", version, out, path)
	}
	w.realise(member, path.String())
}

// sharesTree waits until the machine shares a tree.
func (w world) sharesTree(h *lan.Host, tree mirrored) {
	w.Helper()
	for deadline := time.Now().Add(lan.AtMost(time.Minute)); ; {
		out, err := h.Narbor(w.ctx, narbor, "share", "explain", tree.path(w).String())
		if err == nil { // it has exit code 5 otherwise
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s does not share %s: %v: %s", h.Name, tree.path(w), err, out)
		}
		time.Sleep(200 * time.Millisecond) // until the repository has been looked through
	}
}
