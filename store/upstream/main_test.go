package upstream_test

import (
	"flag"
	"testing"
)

// More parallel tests run at once than there are processors, for they mostly wait until a request is repeated.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	m.Run()
}
