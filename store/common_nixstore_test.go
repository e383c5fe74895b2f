package store_test

import (
	"narbor/store"
)

const hpCurl = store.HashPart("syd87l2rxw8cbsxmxl853h0r6pdwhwjr")
