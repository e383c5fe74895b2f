package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func TestFileRequestsThatBreakTheFormat(t *testing.T) {
	good := goldenFile(t).String()
	for name, text := range map[string]string{
		"empty":             "",
		"no algorithm":      "fixed:" + good[strings.LastIndex(good, ":")+1:],
		"unknown algorithm": strings.Replace(good, "sha512", "sha3", 1),
		"another length":    strings.Replace(good, "sha512", "sha256", 1),
		"a NAR":             strings.Replace(good, "fixed:", "fixed:r:", 1),
		"text":              strings.Replace(good, "fixed:", "text:", 1),
		"without a kind":    strings.TrimPrefix(good, "fixed:"),
		"base 16":           "fixed:sha512:" + strings.Repeat("0f", 64),
		"upper case":        strings.ToUpper(good),
		"a byte more":       good + "\n",
		"a byte less":       good[:len(good)-1],
		"long":              good + strings.Repeat("0", 10_000),
	} {
		body := append([]byte{byte(AskFile)}, text...)
		frame := append(binary.AppendUvarint(nil, uint64(len(body))), body...)
		if r, err := ReadRequest(bufio.NewReader(bytes.NewReader(frame))); !errors.Is(err, ErrWire) {
			t.Errorf("%s: readRequest = %+v, %v, want ErrWire", name, r, err)
		}
	}
}
