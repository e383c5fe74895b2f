package demo

import (
	"context"
	"errors"
	"fmt"
	"os"

	"narbor/cmd/narbor/dashboard"
)

// Run shows the demo, and returns nil if the fourth machine got everything. It ends early when ctx does. Processes are
// gone when it returns, and so are files, unless the error says otherwise. It is not to be called twice at the same
// time with one Out.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := os.MkdirTemp("", "narbor-demo-")
	if err != nil {
		return err
	}
	d := &demo{Options: o, dir: dir}
	defer func() {
		d.stop()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := d.prepare(ctx); err != nil {
		return interrupted(ctx, err)
	}
	if err := d.fetch(ctx); err != nil {
		return interrupted(ctx, err)
	}
	d.report(ctx)
	if o.Keep {
		d.say("The three that are left run on; Ctrl-C ends them and deletes what they have.")
		<-ctx.Done()
	}
	return nil
}

// interrupted replaces an error that Ctrl-C has caused.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("the demo was interrupted")
	}
	return err
}

func (d *demo) report(ctx context.Context) {
	d.say("")
	d.say("%s has all %s, %s in %.1f s, and nothing came from the internet.", fresh, dashboard.Plural(packages, "path"),
		dashboard.Amount(d.corpus.bytes), d.took.Seconds())
	for _, m := range d.holders {
		remark := ""
		switch m.name {
		case killed:
			remark = "until it was killed"
		case liar:
			remark = "what was changed was thrown away"
			if st, err := m.status(ctx); err == nil && len(st.Damaged) > 0 {
				remark += fmt.Sprintf("; it was told, and shares %d of them no more", len(st.Damaged))
			}
		}
		d.say("  %-8s %9s  %s", m.name, dashboard.Amount(d.board.bytes[m.name]), remark)
	}
	d.say("Each archive was compared with the hash that the key has signed before the first byte of it was handed on.")
}
