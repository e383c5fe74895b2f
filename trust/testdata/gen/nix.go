package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A world is a directory with stores and caches in it, and the real Nix to work on them.
type world struct{ dir string }

// packages is what gets built: input-addressed paths, one of which refers to itself.
const packages = `rec {
  build = name: script: derivation {
    inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ];
  };
  dep = build "dep-1.0" "echo dep > $out";
  lib = build "lib-1.0" "echo $out ${dep} > $out";
  doc = build "doc-1.0" "echo doc > $out";
  app = build "app-1.0" "echo app ${doc} ${lib} > $out";
}`

func (w world) path(name ...string) string { return filepath.Join(append([]string{w.dir}, name...)...) }

// nix runs a command of Nix on the store "src" and returns what it prints.
func (w world) nix(args ...string) (string, error) { return w.nixOn("src", args...) }

func (w world) nixOn(store string, args ...string) (string, error) {
	args = append(args[:1:1], append([]string{"--store", w.path(store)}, args[1:]...)...)
	if args[0] == "nix" {
		args = append(args, "--extra-experimental-features", "nix-command")
	}
	cmd := exec.Command(args[0], append(args[1:], "--option", "substituters", "")...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "HOME="+w.path("home"), "NIX_CONF_DIR="+w.path("conf"), "NO_COLOR=1")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", nixError{err, w.complaint(errOut.String())}
	}
	return strings.TrimSpace(out.String()), nil
}

type nixError struct {
	error
	message string
}

func (e nixError) Error() string { return fmt.Sprintf("%s (%s)", e.message, e.error) }

var color = regexp.MustCompile("\x1b\\[[0-9;]*m")

// complaint returns the last error that Nix printed, or else its last line, without what differs between two runs.
func (w world) complaint(s string) string {
	s = strings.TrimSpace(color.ReplaceAllString(strings.ToValidUTF8(s, "?"), ""))
	s = strings.NewReplacer(w.dir, "", "\r", `\r`, "\t", `\t`).Replace(s)
	const mark = "error: "
	if i := strings.LastIndex(s, mark); i >= 0 {
		s, _, _ = strings.Cut(s[i+len(mark):], "\n")
	}
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return strings.TrimSpace(s[:min(len(s), 160)])
}

// key returns the file of a secret key, which Nix makes if it is not there yet, and the public key.
func (w world) key(keysDir, name string) (file, public string) {
	file = filepath.Join(keysDir, name+".secret")
	if _, err := os.Stat(file); err != nil {
		must(w.nix("nix-store", "--generate-binary-cache-key", name, file, file+".public"))
		check(os.Rename(file+".public", filepath.Join(keysDir, name+".public")))
	}
	b, err := os.ReadFile(filepath.Join(keysDir, name+".public"))
	check(err)
	return file, strings.TrimSpace(string(b))
}

// ask offers Nix a binary cache in which a narinfo is replaced, and an archive added, and returns its verdict on the
// path, which is that of the genuine one or a variation of it.
func (w world) ask(g genuine, path, narinfo string, nar []byte, keys []string) string {
	check(errors.Join(os.RemoveAll(w.path("dst")), os.RemoveAll(w.path("offer"))))
	run("cp", "-a", w.path("seed-"+baseHash(g.path)), w.path("dst"))
	run("cp", "-a", w.path("signed"), w.path("offer"))
	check(os.WriteFile(w.path("dst", "target"), []byte(fileText), 0o644)) // for forged symbolic links
	check(os.WriteFile(w.path("offer", baseHash(path)+".narinfo"), []byte(narinfo), 0o644))
	check(os.WriteFile(w.path("offer", "nar", "vector.nar"), nar, 0o644))
	args := []string{"nix", "copy", "--from", "file://" + w.path("offer"), "--to", w.path("dst"), path,
		"--option", "require-sigs", "true", "--option", "trusted-public-keys", strings.Join(keys, " ")}
	if strings.HasSuffix(path, ".drv") {
		args = append(args, "--derivation") // it, and not its outputs
	}
	_, err := w.nixOn("dst", args...)
	var exit *exec.ExitError
	switch e := (nixError{}); {
	case err == nil:
		must(w.nixOn("dst", "nix-store", "--check-validity", path))
		return "yes"
	case errors.As(err, &e) && errors.As(e.error, &exit) && exit.ExitCode() < 0:
		return "dies: " + exit.String() + ": " + e.message
	default:
		errors.As(err, &e)
		return "no: " + e.message
	}
}

// seed makes the store into which a path will be copied: what it refers to is there already, and not the path.
func (w world) seed(g genuine) {
	seed := "seed-" + baseHash(g.path)
	check(os.MkdirAll(w.path(seed), 0o755))
	args := []string{"nix", "copy", "--no-check-sigs", "--from", "file://" + w.path("plain"), "--to", w.path(seed)}
	n := len(args)
	for _, ref := range strings.Fields(g.field("References")) {
		if !strings.HasPrefix(g.path, "/nix/store/"+ref) {
			args = append(args, "/nix/store/"+ref)
		}
	}
	if len(args) > n {
		_, err := w.nixOn(seed, args...)
		check(err)
	}
}

func baseHash(path string) string { return strings.TrimPrefix(path, "/nix/store/")[:32] }

func run(args ...string) {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		check(fmt.Errorf("%q: %s: %w", args, out, err))
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
