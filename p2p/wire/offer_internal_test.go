package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestOffersThatBreakTheFormat(t *testing.T) {
	good := goldenOffer(t).String()
	signature := "Sig: cache-1:c2ln\n"
	for name, text := range map[string]string{
		"empty":              "",
		"no signature":       strings.ReplaceAll(strings.ReplaceAll(good, signature, ""), "Sig: cache-2:c2ln\n", ""),
		"five signatures":    good + strings.Repeat(signature, maxOfferSigs-1),
		"content address":    good + "CA: fixed:r:sha256:0000000000000000000000000000000000000000000000000000\n",
		"deriver":            strings.Replace(good, "Sig:", "Deriver: "+string(partB)+"-hello.drv\nSig:", 1),
		"unknown line":       good + "URL: nar/x.nar\n",
		"other order":        signature + good,
		"no NarHash":         strings.Replace(good, "NarHash", "NarSome", 1),
		"no path":            "NarSize: 120\n" + signature,
		"cut":                good[:len(good)-1],
		"too long":           good + "Sig: cache-1:" + strings.Repeat("A", maxOfferLen-len(good)-len("Sig: cache-1:")) + "\n",
		"references twice":   strings.Replace(good, "References: ", "References: "+string(partB)+"-glibc ", 1),
		"reference unsorted": strings.Replace(good, "References: ", "References: zzzz"+string(partB)[4:]+"-glibc ", 1),
	} {
		body := append([]byte{byte(AskOffer)}, text...)
		frame := append(binary.AppendUvarint(nil, uint64(len(body))), body...)
		if r, err := ReadRequest(bufio.NewReader(bytes.NewReader(frame))); !errors.Is(err, ErrWire) {
			t.Errorf("%s: readRequest = %+v, %v, want ErrWire", name, r, err)
		}
	}
	longest := good + "Sig: cache-1:" + strings.Repeat("A", maxOfferLen-len(good)-len("Sig: cache-1:\n")) + "\n"
	body := append([]byte{byte(AskOffer)}, longest...)
	if _, err := ReadRequest(bufio.NewReader(bytes.NewReader(append(binary.AppendUvarint(nil, uint64(len(body))), body...)))); err != nil {
		t.Errorf("an offer of %d bytes: %v", len(longest), err)
	}
}

func TestAnswersToOffers(t *testing.T) {
	for in, want := range map[string]struct {
		here bool
		err  error
	}{"\x00": {}, "\x01": {here: true}, "\x02": {err: ErrWire}} {
		if here, err := ReadOffered(bufio.NewReader(strings.NewReader(in))); here != want.here || !errors.Is(err, want.err) {
			t.Errorf("readOffered(%q) = %t, %v, want %t, %v", in, here, err, want.here, want.err)
		}
	}
	if _, err := ReadOffered(bufio.NewReader(strings.NewReader(""))); err == nil || errors.Is(err, ErrWire) {
		t.Errorf("readOffered of an ended stream = %v", fmt.Sprint(err))
	}
}
