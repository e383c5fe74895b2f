package demo

import (
	"fmt"
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// verified names the bar of the bytes that were verified and served.
const verified = "verified"

// bars are progress bars on a terminal: one for each machine, and one for the verified bytes.
type bars struct {
	all *mpb.Progress
	of  map[string]*mpb.Bar
}

func newBars(out io.Writer, total int64, machines ...string) *bars {
	b := &bars{all: mpb.New(mpb.WithOutput(out), mpb.WithWidth(78)), of: map[string]*mpb.Bar{}}
	for _, name := range append(machines, verified) {
		label := "from " + name
		if name == verified {
			label = verified
		}
		b.of[name] = b.all.AddBar(total, mpb.PrependDecorators(decor.Name(fmt.Sprintf("  %-12s", label)),
			decor.CurrentKibiByte("% 9.1f", decor.WC{W: 10})))
	}
	return b
}

func (b *bars) set(name string, n int64) { b.of[name].SetCurrent(n) }

func (b *bars) say(text string) { fmt.Fprintln(b.all, text) }

// end leaves the bars as they are.
func (b *bars) end() {
	for _, bar := range b.of {
		bar.Abort(false)
	}
	b.all.Wait()
}
