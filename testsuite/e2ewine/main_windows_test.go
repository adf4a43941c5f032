package e2ewine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets this program be others under their names: a CNI plugin, and hcsshim's shim.
func TestMain(m *testing.M) {
	switch strings.ToLower(filepath.Base(os.Args[0])) {
	case runhcs:
		end(madeUpShim(os.Args[1:]))
	case plugin:
		end(bePlugin())
	}
	os.Exit(m.Run())
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
