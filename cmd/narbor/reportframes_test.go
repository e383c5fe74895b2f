package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestReportKeepsStackFramesOfEveryPackage(t *testing.T) {
	packages := 0
	for _, pattern := range []string{"cmd/*", "cmd/*/*", "narserve", "narserve/*", "p2p", "p2p/*", "store", "store/*", "trust"} {
		dirs, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			if files, _ := filepath.Glob(dir + "/*.go"); len(files) == 0 || strings.HasSuffix(dir, "test") { // for tests alone
				continue
			}
			packages++
			for _, method := range []string{".(*Type).method", ".(*Type[...]).method"} {
				want := "narbor/" + strings.TrimPrefix(filepath.ToSlash(dir), "../../") + method
				if got := frame.FindString("panic in " + want + " +0x1d"); got != want {
					t.Errorf("%q is kept of a stack, want %q", got, want)
				}
			}
		}
	}
	if packages < 15 {
		t.Errorf("only %d packages were found", packages)
	}
	const private = "\t/home/user/narbor/store/secret-project.nix:12"
	if got := frame.FindString(private); got != "" {
		t.Errorf("%q is kept of %q", got, private)
	}
}
