package nixstore_test

import (
	"os"
	"os/exec"
	"testing"

	"narbor/store/nixstore"
	"narbor/store/storetest"
)

// inNamespace is run by sh as root in mount and process namespaces of its own. $1 is an empty directory, $2 this test's
// program, $3 the test. It makes $1 a copy of the machine's root with a /nix of its own, in which the test fills
// the store as root, then runs again as an unprivileged user beside nix-daemon.
const inNamespace = `set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=0755 none "$1"
for entry in /*; do
	case $entry in /nix|/proc) continue ;; esac
	if [ -L "$entry" ]; then cp -P "$entry" "$1$entry"
	elif [ -d "$entry" ]; then mkdir "$1$entry"; mount --rbind "$entry" "$1$entry"
	fi
done
mkdir "$1/nix" "$1/proc"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=1777 none "$1/tmp"
cp "$2" "$1/nix/test"
exec chroot "$1" sh -euc '
	cd /nix
	unset TMPDIR NIX_REMOTE NIX_DAEMON_SOCKET_PATH NIX_STATE_DIR
	NARBOR_TEST_PHASE=fill ./test -test.run "^$1\$" -test.v
	nix-daemon 2>daemon.log &
	for i in $(seq 500); do [ -S var/nix/daemon-socket/socket ] && break; sleep 0.02; done
	NARBOR_TEST_PHASE=nobody HOME=/tmp setpriv --reuid=65534 --regid=65534 --clear-groups ./test -test.run "^$1\$" -test.v
	kill $!
	mv var/nix/daemon-socket/socket socket
	NARBOR_TEST_PHASE=alone HOME=/tmp setpriv --reuid=65534 --regid=65534 --clear-groups ./test -test.run "^$1\$" -test.v
' sh "$3"`

// TestNixStoreAsNobody reads the machine's own store, at /nix, through the daemon's default socket, as a user without
// any privileges.
func TestNixStoreAsNobody(t *testing.T) {
	w := nixWorld{}
	switch os.Getenv("NARBOR_TEST_PHASE") {
	case "fill":
		w.fill(t)
	case "nobody":
		if os.Getuid() != 65534 {
			t.Fatalf("uid %d", os.Getuid())
		}
		n := open(t, nixstore.Config{})
		all, err := n.AllValidPaths(t.Context())
		storetest.Must(t, err)
		for _, p := range all {
			switch p.Name() {
			case "tree":
				w.tree = p
			case "file":
				w.file = p
			default:
				w.built = p
			}
		}
		w.check(t, n)
	case "alone": // an unprivileged user may not open the store itself
		n, err := nixstore.Open(t.Context(), nixstore.Config{})
		if err == nil {
			n.Close()
			t.Fatal("Open without a daemon succeeds")
		}
		t.Log(err)
	default:
		if os.Getuid() != 0 {
			storetest.Needs(t, "needs root for a /nix of its own")
		}
		storetest.NeedNix(t, "nix-daemon", "nix-store", "nix", "unshare", "setpriv", "chroot")
		self, err := os.Executable()
		storetest.Must(t, err)
		out, err := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inNamespace, "sh",
			t.TempDir(), self, t.Name()).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
	}
}
