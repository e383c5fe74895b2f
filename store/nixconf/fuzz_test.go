package nixconf_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"narbor/store/nixconf"
	"narbor/store/storetest"
)

// FuzzNixConf reads a nix.conf, and what it says once more from a nix.conf written from that.
func FuzzNixConf(f *testing.F) {
	dir := f.TempDir()
	storetest.Must(f, os.WriteFile(filepath.Join(dir, "other.conf"), []byte("extra-substituters = https://other\n"), 0o644))
	f.Fuzz(func(t *testing.T, text string) {
		for line := range strings.Lines(text) {
			if strings.Contains(line, "include") && strings.Contains(line, "/") {
				return // would read files of this machine
			}
		}
		s, err := nixconf.ParseConf(text, dir)
		if err != nil {
			return
		}
		s.Unread = nil // of files, which are not printed
		sigs := map[bool]string{true: "true", false: "false"}[s.RequireSigs]
		printed := "trusted-public-keys = " + strings.Join(s.TrustedPublicKeys, " ") + "\nsubstituters = " +
			strings.Join(s.Substituters, " ") +
			"\nrequire-sigs = " + sigs + fmt.Sprintf("\nstalled-download-timeout = %d\n", s.StalledTimeout/time.Second)
		if again, err := nixconf.ParseConf(printed, dir); err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%q says %+v, but what it comes to, %q, says %+v, %v", text, s, printed, again, err)
		}
	})
}
