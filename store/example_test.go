package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"narbor/store"
)

func ExampleParseInfo() {
	info, err := store.ParseInfo(`StorePath: /nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin
URL: nar/05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56.nar.xz
Compression: xz
NarHash: sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0
NarSize: 196040
References: 0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0
`)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(info.Path.HashPart(), info.Path.Name())
	fmt.Println(info.NarHash, info.NarSize, store.NumBlocks(info.NarSize), "block")
	// Output:
	// syd87l2rxw8cbsxmxl853h0r6pdwhwjr curl-7.82.0-bin
	// sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0 196040 1 block
}

// A Source answers exact questions. A path that it lacks is ErrNotFound; its bytes are unchecked.
func ExampleSource() {
	path, _ := store.ParsePath("/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-hello")
	nar := "not a real archive"
	mem := new(store.Mem)
	mem.Add(store.Info{Path: path, NarSize: int64(len(nar))}, []byte(nar))

	var src store.Source = mem
	ctx := context.Background()
	info, err := src.Info(ctx, path.HashPart())
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := src.NAR(ctx, info)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	var text strings.Builder
	if _, err := io.Copy(&text, io.NewSectionReader(r, 0, info.NarSize)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(text.String())

	_, err = src.Info(ctx, "0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
	fmt.Println(errors.Is(err, store.ErrNotFound))
	// Output:
	// not a real archive
	// true
}
