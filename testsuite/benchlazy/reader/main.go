// Command reader is what the benchmark's own images run: a program that needs a small part of its image, or measures how fast
// a file of it reads. It is static, and built the same each time, so that the images are the same everywhere.
//
//	reader some FILE...  reads 64 KiB out of the middle of each
//	reader walk DIR      looks at all below, then lingers for some seconds
//	reader warm FILE     prints the speed of a first read in MB/s, the median of five more, and 4 KiB reads at random in a second
//
// When it has done what it was asked for, it prints "ready". It imports nothing of the product and leaves nothing.
package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		os.Exit(1)
	}
}

func run(what string, names []string) (err error) {
	for _, name := range names {
		switch what {
		case "some":
			err = some(name)
		case "walk":
			err = walk(name)
		case "warm":
			err = warm(name)
		default:
			err = fmt.Errorf("cannot do %q", what)
		}
		if err != nil {
			return err
		}
	}
	fmt.Println("ready")
	if what == "walk" {
		time.Sleep(5 * time.Second) // for somebody to look at what serves this
	}
	return nil
}

func some(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	p := make([]byte, min(64<<10, fi.Size()/2))
	_, err = f.ReadAt(p, fi.Size()/2)
	return err
}

func walk(dir string) error {
	return filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			_, err = d.Info()
		}
		return err
	})
}

func warm(name string) error {
	first, err := seq(name)
	if err != nil {
		return err
	}
	var again []float64
	for range 5 {
		speed, err := seq(name)
		if err != nil {
			return err
		}
		again = append(again, speed)
	}
	slices.Sort(again)
	places, err := random(name)
	fmt.Printf("%.0f %.0f %.0f\n", first, again[len(again)/2], places)
	return err
}

// seq answers MB/s.
func seq(name string) (float64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	begin, p := time.Now(), make([]byte, 1<<20)
	for off := int64(0); off+int64(len(p)) <= fi.Size(); off += int64(len(p)) {
		if _, err := f.ReadAt(p, off); err != nil {
			return 0, err
		}
	}
	return float64(fi.Size()) / 1e6 / time.Since(begin).Seconds(), nil
}

// random answers reads in a second.
func random(name string) (float64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	const n = 200_000
	begin, p, r := time.Now(), make([]byte, 4096), rand.New(rand.NewPCG(1, 2))
	for range n {
		if _, err := f.ReadAt(p, r.Int64N(fi.Size()/4096)*4096); err != nil {
			return 0, err
		}
	}
	return n / time.Since(begin).Seconds(), nil
}
