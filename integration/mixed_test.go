package integration_test

import (
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// mixedScript makes paths of all kinds in a Nix store. The signing keys are in /tmp.
const mixedScript = `export NIX_REMOTE=; cd /tmp
builds() { nix-build --no-out-link --option sandbox false --expr 'builtins.genList (i: derivation { name = "'$1'-${toString i}";
	system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo '$1' ${toString i} > $out" ]; }) '$2; }
fods() { nix-build --no-out-link --option sandbox false --expr 'builtins.genList (i: derivation { name = "fod-'$1'-${toString i}";
	system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "printf fod${toString i} > $out" ];
	outputHashMode = "flat"; outputHashAlgo = "'$1'"; outputHash = builtins.hashString "'$1'" "fod${toString i}"; }) '$2; }
sign() { nix store sign --key-file /tmp/$1 $2 $(cat); }
imported() { all=$(cat); nix-store --export $all > image; nix-store --delete $all >/dev/null; nix-store --import < image; }
builds unsigned 30 >/dev/null
for k in upstream private circle mallory; do builds own-$k 30 | sign $k; done
builds imported 30 | imported >/dev/null
for k in upstream private circle mallory; do builds imported-$k 30 | imported | sign $k; done
builds both 10 | tee both | sign upstream; sign circle < both
builds imported-both 10 | imported | tee both | sign private; sign mallory < both
for a in md5 sha1 sha256 sha512; do
	fods $a 4 | tee fods | head -n 1 | sign upstream; sed -n 2p fods | imported >/dev/null
	for i in 1 2 3; do echo $a$i > flat-$a-$i; mkdir -p tree-$a-$i; echo $a$i > tree-$a-$i/f
		nix-store --add-fixed $a flat-$a-$i; nix-store --add-fixed --recursive $a tree-$a-$i; done
done > fixed; sed -n '1p;8p;15p' fixed | sign upstream
for i in 1 2 3 4 5 6; do mkdir -p s$i/source l$i; echo $i > s$i/source/f; echo $i > l$i/f
	nix-store --add s$i/source; nix-store --add l$i; done > trees; sed -n '1p;2p' trees | sign upstream
nix-instantiate --eval --strict --read-write-mode \
	--expr 'builtins.genList (i: builtins.toFile "text-${toString i}" "text ${toString i}") 20' |
	tr -d '"[]' | tr ' ' '\n' | grep nix/store | tee texts | head -n 4 | sign upstream
ls -d /nix/store/*-unsigned-?.drv | sign upstream --derivation; ls -d /nix/store/*-own-circle-?.drv | sign circle --derivation
`

// mixedRows makes rows that no honest Nix writes: signatures of other paths, another NarHash, another NarSize, a cut
// signature.
const mixedRows = `create temporary table good as select sigs from ValidPaths where path like '%-imported-upstream-29';
update ValidPaths set sigs = (select sigs from good) where path like '%-imported-mallory-1_' or path like '%-unsigned-1_';
update ValidPaths set hash = 'sha256:' || hex(randomblob(32)) where path like '%-imported-upstream-1_' and path not like '%-15';
update ValidPaths set hash = lower(hash) where path like '%-imported-upstream-1_';
update ValidPaths set narSize = narSize + 8 where path like '%-imported-upstream-2_' and path not like '%-29';
update ValidPaths set sigs = substr(sigs, 1, length(sigs) - 5) || 'AAA==' where path like '%-imported-private-2_';
update ValidPaths set sigs = 'circle-1' || substr(sigs, instr(sigs, ':')) where path like '%-own-mallory-2_';
update ValidPaths set ultimate = 1 where path like '%-imported-both-5' or path like '%-imported-circle-2_';
update ValidPaths set ultimate = null where path like '%-own-circle-2_';
`

// A row is the entry of a path in Nix's database.
type row struct {
	path, hash, ca, deriver string
	narSize                 int64
	ultimate, predicted     bool // predicted: the output of a derivation that is here, as the derivation says
	sigs, refs              []string
}

func (w world) rows(db *sql.DB) []row {
	w.Helper()
	result, err := db.Query(`select path, hash, coalesce(ca, ''), coalesce(deriver, ''), narSize, coalesce(ultimate, 0), coalesce(sigs, ''),
		exists (select 1 from DerivationOutputs o where o.path = p.path),
		coalesce((select group_concat(path, ' ') from (select r.path from Refs join ValidPaths r on r.id = reference where referrer = p.id
			order by r.path)), '') from ValidPaths p`)
	w.must(err)
	defer result.Close()
	var all []row
	for result.Next() {
		var r row
		var sigs, refs string
		w.must(result.Scan(&r.path, &r.hash, &r.ca, &r.deriver, &r.narSize, &r.ultimate, &sigs, &r.predicted, &refs))
		r.sigs, r.refs = strings.Fields(sigs), strings.Fields(refs)
		all = append(all, r)
	}
	w.must(result.Err())
	return all
}

// signed reports whether one of the keys has signed the row, by Nix's definition of a fingerprint.
func (r row) signed(keys map[string]ed25519.PublicKey, names ...string) bool {
	digest, err := hex.DecodeString(strings.TrimPrefix(r.hash, "sha256:"))
	if err != nil {
		return false
	}
	text := fmt.Sprintf("1;%s;sha256:%s;%d;%s", r.path, nixbase32.EncodeToString(digest), r.narSize, strings.Join(r.refs, ","))
	return slices.ContainsFunc(r.sigs, func(sig string) bool {
		name, value, _ := strings.Cut(sig, ":")
		raw, err := base64.StdEncoding.DecodeString(value)
		return err == nil && slices.Contains(names, name) && ed25519.Verify(keys[name], []byte(text), raw)
	})
}

// isSource reports whether Nix has fetched the path by its hash, as far as the database tells.
func (r row) isSource() bool {
	recursive := strings.HasPrefix(r.ca, "fixed:r:")
	return strings.HasPrefix(r.ca, "fixed:") && len(r.refs) == 0 && !strings.HasSuffix(r.path, ".drv") &&
		(r.predicted || !r.ultimate && r.deriver == "" && (!recursive || strings.HasSuffix(r.path, "-source")))
}

// A setting is one way to run the holder, and to ask it.
type setting struct {
	name    string
	holder  []string
	member  bool     // the asker knows the secret of the holder's group
	keys    []string // paths signed by one of these are shared, unless they were built here
	circle  []string // paths signed by one of these are shared if they were built here
	sources bool
	none    bool
}

func (s setting) shares(r row, keys map[string]ed25519.PublicKey) bool {
	switch {
	case s.none || strings.HasSuffix(r.path, ".drv"):
		return false
	case s.sources && r.isSource():
		return true
	case r.ultimate:
		return r.signed(keys, s.circle...)
	}
	return r.signed(keys, s.keys...)
}

func settings() []setting {
	public, all, group := []string{corpus.KeyName}, []string{corpus.KeyName, "private-1", "circle-1"}, "--group-secret-file"
	return []setting{
		{name: "no group", keys: public},
		{name: "no group, sources for all", holder: []string{"--share-sources", "all"}, keys: public, sources: true},
		{name: "circle, member", holder: []string{group, groupSecret, "--circle-key", "circle-1"}, member: true, keys: all,
			circle: []string{"circle-1"}, sources: true},
		{name: "circle, other machine", none: true,
			holder: []string{group, groupSecret, "--circle-key", "circle-1", "--share-sources", "all"}},
		{name: "circle without sources, member", member: true, keys: all, circle: []string{"circle-1"},
			holder: []string{group, groupSecret, "--circle-key", "circle-1", "--share-sources", "none"}},
		{name: "group without circle, member", holder: []string{group, groupSecret}, member: true, keys: all, sources: true},
		{name: "nothing, member", holder: []string{group, groupSecret, "--share", "none"}, member: true, none: true},
	}
}

// Of 500 paths of all kinds in a real Nix database, exactly those are given that the database's columns and the
// settings allow. The right answers are computed here from the columns, and not by narbor.
func TestMixedPathsAreSharedByTheDatabase(t *testing.T) {
	w := newWorld(t)
	holder := w.host(lan.HostConfig{Name: "holder"}, "substituters =", "experimental-features = nix-command")
	keys, trusted := w.mixedKeys(holder)
	if out, err := holder.Run(w.ctx, "sh", "-ec", mixedScript); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err := holder.Run(w.ctx, "sqlite3", nixDatabase, mixedRows)
	w.must(err)
	rows := w.rows(w.database(holder))
	if len(rows) < 500 {
		t.Fatalf("the database has %d paths, want 500", len(rows))
	}
	w.must(holder.Configure("extra-trusted-public-keys = " + trusted["private-1"] + " " + trusted["circle-1"]))
	askers := map[bool]*lan.Host{}
	for member, name := range map[bool]string{true: "member", false: "other"} {
		h := w.host(lan.HostConfig{Name: name}, "extra-trusted-public-keys = "+strings.Join(slices.Collect(maps.Values(trusted)), " "))
		if member {
			w.inGroup(h)
		}
		askers[member] = h
	}
	w.inGroup(holder)
	for _, s := range settings() {
		p := w.start(holder, s.holder...)
		var flags []string
		if s.member {
			flags = []string{"--group-secret-file", groupSecret}
		}
		asker := w.start(askers[s.member], flags...)
		if s.member || !slices.Contains(s.holder, groupSecret) {
			w.neighbours(askers[s.member], 1)
		} else {
			w.until(askers[s.member], "in sight of the other group", func(st lan.Status) bool { return len(st.OtherGroup) == 1 })
		}
		w.compare(s, askers[s.member], rows, keys)
		w.must(asker.Terminate(15 * time.Second))
		w.must(p.Terminate(15 * time.Second))
	}
}

// mixedKeys makes the signing keys on a host, and returns the public ones, for the test and as Nix writes them.
func (w world) mixedKeys(h *lan.Host) (map[string]ed25519.PublicKey, map[string]string) {
	w.Helper()
	w.must(h.WriteFile("/tmp/upstream", corpus.SecretKey()))
	out, err := h.Run(w.ctx, "sh", "-ec", `for k in private circle mallory; do nix key generate-secret --key-name $k-1 > /tmp/$k; done
		for k in upstream private circle mallory; do nix key convert-secret-to-public < /tmp/$k; echo; done`)
	w.must(err)
	keys, texts := map[string]ed25519.PublicKey{}, map[string]string{}
	for text := range strings.FieldsSeq(out) {
		name, value, _ := strings.Cut(text, ":")
		raw, err := base64.StdEncoding.DecodeString(value)
		w.must(err)
		keys[name], texts[name] = raw, text
	}
	return keys, texts
}

// compare asks the holder about each path, and fails for each claim that is missing or one too many.
func (w world) compare(s setting, asker *lan.Host, rows []row, keys map[string]ed25519.PublicKey) {
	w.Helper()
	var urls strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&urls, "url = \"http://narbor/why?path=%s\"\n", r.path)
	}
	w.must(asker.WriteFile("/tmp/urls", urls.String()))
	out, err := asker.Run(w.ctx, "curl", "-sS", "--unix-socket", "/run/narbor/narbor.sock", "--config", "/tmp/urls")
	w.must(err)
	answers := json.NewDecoder(strings.NewReader(out))
	shared, wrong := 0, 0
	for _, r := range rows {
		var why struct {
			Neighbours []struct{ Path, Problem string }
		}
		w.must(answers.Decode(&why))
		got := slices.ContainsFunc(why.Neighbours, func(n struct{ Path, Problem string }) bool { return n.Path != "" })
		want := s.shares(r, keys)
		if want {
			shared++
		}
		if got != want {
			wrong++
			w.Errorf("%s: %s is given: %t, want %t: %+v, %+v", s.name, r.path, got, want, r, why)
		}
	}
	w.Logf("%s: %d of %d paths are shared, %d wrong", s.name, shared, len(rows), wrong)
	if shared == 0 != s.none {
		w.Errorf("%s: %d paths are to be shared: that tests nothing", s.name, shared)
	}
}
