// Command registryd serves an in-memory registry with a busybox image made on the spot, for `make demo`.
//
//	registryd [-listen 127.0.0.1:0] [-image busybox:latest]
//
// It prints the reference of the image on one line when it is ready, and serves until it is signalled. Nothing is kept.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to serve on")
	name := flag.String("image", "busybox:latest", "repository and tag of the image")
	flag.Parse()
	if err := serve(*listen, *name); err != nil {
		fmt.Fprintln(os.Stderr, "registryd:", err)
		os.Exit(1)
	}
}

func serve(listen, name string) error {
	image, err := ociimage.Busybox()
	if err != nil {
		return err
	}
	r := registry.New()
	if err := r.Listen(listen); err != nil {
		return err
	}
	r.Push(name, image)
	fmt.Println(r.Host() + "/" + name)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	return r.Close()
}
