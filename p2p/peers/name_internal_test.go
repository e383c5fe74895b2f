package peers

import (
	"strings"
	"testing"
)

func TestNamesAreHarmless(t *testing.T) {
	for _, name := range []string{"a", "laptop", "Nas-2.home.arpa", strings.Repeat("x", MaxName)} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	var y Tally
	for _, name := range []string{"", " ", "two words", "under_score", "-a", "a-", ".", "a.", "näs", "nas\n",
		"\x1b[31mred", "a\x00b", "a\u202eb",
		"<b>a</b>", "a&amp;b", "a\"b", "a'b", "a/b", "a~b", "…", "\xff", strings.Repeat("x", MaxName+1), strings.Repeat("x", 1<<20)} {
		if CheckName(name) == nil {
			t.Errorf("CheckName(%.99q) allows it", name)
		}
		y.SetName("laptop")
		if y.SetName(name); y.Name() != "" {
			t.Errorf("SetName(%.99q) keeps %q", name, y.Name())
		}
	}
	if y.SetName("laptop"); y.Name() != "laptop" || new(Tally).Name() != "" {
		t.Errorf("the names are %q and %q", y.Name(), new(Tally).Name())
	}
}
