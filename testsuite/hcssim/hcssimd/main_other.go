//go:build !windows

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "hcssimd runs on Windows, or under wine: GOOS=windows go build, and see ci/wine")
	os.Exit(1)
}
