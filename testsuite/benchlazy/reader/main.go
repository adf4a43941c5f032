// Command reader is what the benchmark's own images run: a program that needs a small part of its image, or measures how fast
// a file of it reads. It is static, and built the same each time, so that the images are the same everywhere.
//
//	reader some FILE...       reads 64 KiB out of the middle of each, then prints "ready"
//	reader seq FILE           reads all in pieces of 1 MiB, prints bytes in a second
//	reader rand FILE          reads 4 KiB at 20,000 places, prints reads in a second
//
// It imports nothing of the product and leaves nothing.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		os.Exit(1)
	}
}

func run(what string, files []string) error {
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		switch what {
		case "some":
			err = at(f, make([]byte, min(64<<10, fi.Size())), fi.Size()/2)
		case "seq":
			err = seq(f, fi.Size())
		case "rand":
			err = random(f, fi.Size())
		}
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	fmt.Println("ready")
	return nil
}

func at(f *os.File, p []byte, off int64) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = f.ReadAt(p, min(off, fi.Size()-int64(len(p))))
	return err
}

func seq(f *os.File, size int64) error {
	begin, p := time.Now(), make([]byte, 1<<20)
	for off := int64(0); off+int64(len(p)) <= size; off += int64(len(p)) {
		if _, err := f.ReadAt(p, off); err != nil {
			return err
		}
	}
	fmt.Printf("%.0f\n", float64(size)/time.Since(begin).Seconds())
	return nil
}

func random(f *os.File, size int64) error {
	const n = 20_000
	begin, p, r := time.Now(), make([]byte, 4096), rand.New(rand.NewPCG(1, 2))
	for range n {
		if _, err := f.ReadAt(p, r.Int64N(size/4096)*4096); err != nil {
			return err
		}
	}
	fmt.Printf("%.0f\n", n/time.Since(begin).Seconds())
	return nil
}
