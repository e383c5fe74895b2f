package statefile_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"narbor/store/statefile"
	"narbor/store/storetest"
)

func TestReadTextRefusesAllButSmallFiles(t *testing.T) {
	dir := t.TempDir()
	file, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	storetest.WriteText(t, file, "12345")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if text, st, err := statefile.ReadText(file, 5); err != nil || string(text) != "12345" || st.Size() != 5 {
		t.Errorf("ReadText = %q, %v, %v", text, st, err)
	}
	for name, want := range map[string]string{file: "longer than 4", pipe: "not a regular file", dir: "not a regular file"} {
		if text, _, err := statefile.ReadText(name, 4); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadText of %s = %q, %v, want an error: %s", filepath.Base(name), text, err, want)
		}
	}
}

func TestReadRefusesWhatFollowsTheValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list.json")
	storetest.WriteText(t, file, `["a"] ["b"]`)
	var list []string
	if err := statefile.Read(file, 100, &list); err == nil || list != nil {
		t.Errorf("Read = %v, and has read %q", err, list)
	}
}
