package doctor

import (
	"fmt"
	"os"
	"strings"
)

type owner struct {
	pid  int
	name string
}

func (o owner) narbor() bool { return o.name == "narbor" || o.pid == os.Getpid() }

func names(owners []owner) string {
	var out []string
	for _, o := range owners {
		out = append(out, fmt.Sprintf("%s (process %d)", o.name, o.pid))
	}
	return strings.Join(out, ", ")
}
