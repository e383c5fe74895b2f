package nixstore

import "testing"

func TestDaemonMessagesHaveNoColours(t *testing.T) {
	const in = "\x1b[31;1merror:\x1b[0m path '\x1b[35;1m/nix/store/x\x1b[0m' is not valid\nmore"
	if got, want := firstLine(in), "error: path '/nix/store/x' is not valid"; got != want {
		t.Errorf("firstLine(%q) = %q, want %q", in, got, want)
	}
}
