package p2p

import (
	"narbor/store/storetest"
)

var (
	atMost     = storetest.AtMost
	eventually = storetest.Eventually
	// FileNAR is for the tests outside of the package, too.
	FileNAR = storetest.FileNAR
)
