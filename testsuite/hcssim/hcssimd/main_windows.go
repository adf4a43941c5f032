// Command hcssimd simulates Windows' compute, layer and network services for programs that load the stub DLLs. It keeps all in
// one folder, C:\hcssim by default, and writes its address there when it is ready.
package main

import (
	"crypto/rand"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/slipwayd/slipway/testsuite/hcssim/compute"
	"github.com/slipwayd/slipway/testsuite/hcssim/faults"
	"github.com/slipwayd/slipway/testsuite/hcssim/launch"
	"github.com/slipwayd/slipway/testsuite/hcssim/layers"
	"github.com/slipwayd/slipway/testsuite/hcssim/networks"
	"github.com/slipwayd/slipway/testsuite/hcssim/service"
)

func main() {
	dir := flag.String("dir", `C:\hcssim`, "folder of the state")
	flag.Parse()
	fmt.Fprintln(os.Stderr, "hcssimd:", run(*dir))
	os.Exit(1)
}

// run serves until that fails.
func run(dir string) error {
	volumes := filepath.Join(dir, "volumes")
	if prefix := os.Getenv("WINEPREFIX"); prefix != "" {
		volumes = "Z:" + filepath.FromSlash(prefix) + `\dosdevices` // see layers.New
	}
	store, err := layers.New(filepath.Join(dir, "layers"), volumes)
	if err != nil {
		return err
	}
	net_, err := networks.New(filepath.Join(dir, "networks.json"))
	if err != nil {
		return err
	}
	var token [16]byte
	_, _ = rand.Read(token[:]) // never fails
	s := service.New(service.Config{
		Token: fmt.Sprintf("%x", token), Layers: store, Networks: net_, Faults: &faults.Set{},
		Log:  log.New(os.Stdout, "", log.Ltime|log.Lmicroseconds),
		Exit: func() { os.Exit(3) },
	})
	host, err := compute.New(filepath.Join(dir, "systems"), &launch.Launcher{Files: store.Files}, s.Send)
	if err != nil {
		return err
	}
	s.SetHost(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := fmt.Sprintf("%d %x %d\n", l.Addr().(*net.TCPAddr).Port, token, os.Getpid())
	file := filepath.Join(dir, "addr")
	if err := os.WriteFile(file+".tmp", []byte(address), 0o600); err != nil {
		return err
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return err
	}
	return s.Serve(l)
}
