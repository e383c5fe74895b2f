package main

import (
	"fmt"
	"io"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLog makes the logger that --log-level and --log-format ask for. It writes to w.
func newLog(c *cli.Context, w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(c.String("log-level"))
	if err != nil {
		return nil, codedError{fmt.Errorf("--log-level %q is none of debug, info, warn, error", c.String("log-level")), exitUsage}
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	var enc zapcore.Encoder
	switch format := c.String("log-format"); format {
	case "json":
		enc = zapcore.NewJSONEncoder(cfg)
	case "auto", "console":
		cfg.EncodeLevel = zapcore.CapitalLevelEncoder
		f, ok := w.(*os.File)
		if format == "auto" && canRedraw(w) && os.Getenv("NO_COLOR") == "" {
			cfg.EncodeLevel = zapcore.CapitalColorLevelEncoder
		}
		if ok && f == os.Stderr && toJournal() {
			cfg.TimeKey = "" // the journal has its own
			cfg.EncodeLevel = journalLevel
		}
		cfg.ConsoleSeparator = "  "
		enc = zapcore.NewConsoleEncoder(cfg)
	default:
		return nil, codedError{fmt.Errorf("--log-format %q is none of auto, console, json", format), exitUsage}
	}
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(w)), level)), nil
}

func toJournal() bool {
	yes, err := journal.StderrIsJournalStream()
	return yes && err == nil
}

// journalLevel begins a line with its priority, as sd-daemon(3) has it; systemd takes that off again.
func journalLevel(l zapcore.Level, enc zapcore.PrimitiveArrayEncoder) {
	priority := journal.PriErr
	switch l {
	case zapcore.DebugLevel:
		priority = journal.PriDebug
	case zapcore.InfoLevel:
		priority = journal.PriInfo
	case zapcore.WarnLevel:
		priority = journal.PriWarning
	}
	enc.AppendString(fmt.Sprintf("<%d>%s", priority, l.CapitalString()))
}
