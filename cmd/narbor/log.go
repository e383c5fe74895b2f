package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"
)

// libp2pPart stands for libp2p's own messages in the flag --log.
const libp2pPart = "p2p"

// noMessages is a level above that of every message.
const noMessages = zapcore.InvalidLevel

// logs are narbor's log and libp2p's own, of which each has a level that can be changed while narbor runs.
type logs struct {
	*zap.Logger
	libp2p             slog.Handler
	level, libp2pLevel zap.AtomicLevel
}

// set changes a level: "debug" that of narbor's messages, "p2p=debug" that of libp2p's. The level off is for libp2p alone.
func (l logs) set(text string) error {
	name, word, both := strings.Cut(text, "=")
	switch {
	case both && name == libp2pPart && word == "off":
		l.libp2pLevel.SetLevel(noMessages)
		return nil
	case both && name != libp2pPart:
		return codedError{fmt.Errorf("%q: the only part with a level of its own is %s, such as %s=debug", text, libp2pPart, libp2pPart), exitUsage}
	case !both:
		word = text
	}
	level, err := zapcore.ParseLevel(word)
	if err != nil || word == "" || level > zapcore.ErrorLevel {
		return codedError{fmt.Errorf("log level %q is none of debug, info, warn, error", word), exitUsage}
	}
	if both {
		l.libp2pLevel.SetLevel(level)
	} else {
		l.level.SetLevel(level)
	}
	return nil
}

// newLogs makes the logs that the flags ask for. They write to w.
func newLogs(c *cli.Context, w io.Writer) (logs, error) {
	enc, err := logEncoder(c.String("log-format"), w)
	if err != nil {
		return logs{}, err
	}
	out := zapcore.Lock(zapcore.AddSync(w))
	l := logs{level: zap.NewAtomicLevel(), libp2pLevel: zap.NewAtomicLevelAt(noMessages)}
	l.Logger = zap.New(zapcore.NewCore(enc, out, l.level))
	l.libp2p = zapslog.NewHandler(zapcore.NewCore(enc, out, l.libp2pLevel), zapslog.WithName("libp2p"))
	if err := l.set(c.String("log-level")); err != nil {
		return logs{}, fmt.Errorf("--log-level: %w", err)
	}
	for _, text := range c.StringSlice("log") {
		if err := l.set(text); err != nil {
			return logs{}, fmt.Errorf("--log: %w", err)
		}
	}
	return l, nil
}

func logEncoder(format string, w io.Writer) (zapcore.Encoder, error) {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	switch format {
	case "json":
		return zapcore.NewJSONEncoder(cfg), nil
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
		return zapcore.NewConsoleEncoder(cfg), nil
	default:
		return nil, codedError{fmt.Errorf("--log-format %q is none of auto, console, json", format), exitUsage}
	}
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
