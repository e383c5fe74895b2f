package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhyTakesFilesAndLinks(t *testing.T) {
	const path = "/nix/store/0jqd0rlxzra1rs38rdxl43yh6rxchgc6-firefox-141.0"
	dir := t.TempDir()
	t.Chdir(dir)
	for link, to := range map[string]string{"result": path, "chain": "result", "bin": path + "/bin/x", "up": "sub/../result",
		"loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for arg, want := range map[string]string{path: path, path + "/bin/x": path, path + "/": path + "/", "./result": path, "result": path,
		"chain": path, "bin": path,
		dir + "/result": path, "loop": "loop", "/etc/passwd": "/etc/passwd",
		"0jqd0rlxzra1rs38rdxl43yh6rxchgc6": "0jqd0rlxzra1rs38rdxl43yh6rxchgc6"} {
		if got := storePathOf(arg); got != want {
			t.Errorf("storePathOf(%q) = %q, want %q", arg, got, want)
		}
	}
}

func TestWrongTimeShowsAnExample(t *testing.T) {
	_, _, err := narbor(t.Context(), "share", "pause", "--for", "banana")
	if err == nil || !strings.Contains(err.Error(), "1h30m") {
		t.Errorf("share pause --for banana = %v, want an example", err)
	}
}
