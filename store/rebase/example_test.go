package rebase_test

import (
	"fmt"
	"os"

	"narbor/store"
	"narbor/store/rebase"
)

// A library was rebuilt with a patch. The program that uses it was rebuilt too, with the same content.
func Example() {
	claim := func(text string) store.Info {
		info, err := store.ParseInfo(text)
		if err != nil {
			fmt.Println(err)
		}
		return info
	}
	old := claim(`StorePath: /nix/store/c1b94qy6q6z2p0cpb96ifqkqv1jy2p6j-hello-2.12
NarHash: sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0
NarSize: 226560
References: 8yf8x1vkj0c2ajb1w3i2rmpqdj1v3xlk-libc-2.36 c1b94qy6q6z2p0cpb96ifqkqv1jy2p6j-hello-2.12
`)
	wanted := claim(`StorePath: /nix/store/i7lzk4g5hcxjl8i5cd6dnkw1ljq2nv0a-hello-2.12
NarHash: sha256:05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56
NarSize: 226560
References: i7lzk4g5hcxjl8i5cd6dnkw1ljq2nv0a-hello-2.12 zmsf63vv9gnz6ryq6l8pbqn3c0h5xzw4-libc-2.37
`)
	pairs, err := rebase.Pairs(old, wanted)
	if err != nil {
		fmt.Println(err)
		return
	}
	w := rebase.NewWriter(os.Stdout, pairs)
	fmt.Fprintln(w, "/nix/store/8yf8x1vkj0c2ajb1w3i2rmpqdj1v3xlk-libc-2.36/lib")
	fmt.Fprintln(w, "/nix/store/c1b94qy6q6z2p0cpb96ifqkqv1jy2p6j-hello-2.12/share")
	if err := w.Close(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// /nix/store/zmsf63vv9gnz6ryq6l8pbqn3c0h5xzw4-libc-2.37/lib
	// /nix/store/i7lzk4g5hcxjl8i5cd6dnkw1ljq2nv0a-hello-2.12/share
}
