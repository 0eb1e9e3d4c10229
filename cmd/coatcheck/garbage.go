package main

import "os"

// heapFloor is memory that is never touched, so it takes none, and makes the garbage
// collector run no more often than once in so many bytes. What a gateway holds between
// two calls is so little that it would run twenty times a second under load, for a
// seventh of the gateway's CPU time. The price is up to as much garbage.
const heapFloor = 16 << 20

// floor is held for as long as the process runs; nil where the operator sets the
// collector's pace.
var floor []byte

func raiseFloor() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		floor = make([]byte, heapFloor)
	}
}
