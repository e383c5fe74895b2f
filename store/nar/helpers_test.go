package nar_test

import (
	"bytes"

	"narbor/store"
)

const hpCurl = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")

// hugeDict changes the dictionary size in the first block of an xz file to 4 GiB.
func hugeDict(file []byte) []byte {
	file = bytes.Clone(file)
	at := bytes.Index(file[12:], []byte{0x21, 1})
	file[12+at+2] = 40
	return file
}
