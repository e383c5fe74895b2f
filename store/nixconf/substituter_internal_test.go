package nixconf

import (
	"testing"
)

func TestSubstituterThatIsNarbor(t *testing.T) {
	for _, c := range []struct {
		listens, substituter string
		want                 bool
	}{
		{"http://127.0.0.1:6272", "http://127.0.0.1:6272", true},
		{"http://127.0.0.1:6272", "http://127.0.0.1:6272/", true},
		{"http://127.0.0.1:6272", "http://127.0.0.1:6272?priority=10", true},
		{"http://127.0.0.1:6272", "http://127.0.0.1:6272/?priority=10&want-mass-query=true", true},
		{"http://127.0.0.1:6272", "http://localhost:6272", true},
		{"http://127.0.0.1:6272", "http://LOCALHOST:6272/", true},
		{"http://127.0.0.1:6272", "http://localhost:6272?priority=1", true},
		{"http://[::1]:6272", "http://[::1]:6272/", true},
		{"http://[::1]:6272", "http://localhost:6272", true},
		{"http://[::]:6272", "http://127.0.0.1:6272", true},
		{"http://0.0.0.0:6272", "http://127.0.0.1:6272", true},
		{"http://0.0.0.0:6272", "http://[::1]:6272", false},
		{"http://127.0.0.1:6272", "http://[::1]:6272", false},
		{"http://127.0.0.1:6272", "https://127.0.0.1:6272", false},
		{"http://127.0.0.1:6272", "http://127.0.0.1:6273", false},
		{"http://127.0.0.1:6272", "http://localhost", false},
		{"http://127.0.0.1:6272", "http://localhost.example.org:6272", false},
		{"http://127.0.0.1:6272", "http://127.0.0.1:6272/other", false},
		{"http://192.0.2.1:6272", "http://localhost:6272", false},
		{"http://127.0.0.1:6272", "daemon", false},
	} {
		if got := LeadsTo([]string{c.listens}, c.substituter); got != c.want {
			t.Errorf("a narbor at %s is %s: %v, want %v", c.listens, c.substituter, got, c.want)
		}
	}
}
