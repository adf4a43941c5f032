package ociimage

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BusyboxPath is where Debian's package busybox-static puts its program.
const BusyboxPath = "/bin/busybox"

// Busybox is an image like docker.io/library/busybox, made of this host's static busybox with its applets as hard links.
// It answers an error that says what to install when there is none.
func Busybox() (Image, error) {
	program, err := os.ReadFile(BusyboxPath)
	if err != nil {
		return Image{}, fmt.Errorf("cannot make a busybox image: %w (on Debian: apt-get install busybox-static)", err)
	}
	if err := static(BusyboxPath); err != nil {
		return Image{}, fmt.Errorf("cannot make a busybox image: %w (on Debian: apt-get install busybox-static)", err)
	}
	applets, err := exec.Command(BusyboxPath, "--list").Output()
	if err != nil {
		return Image{}, fmt.Errorf("cannot list busybox's applets: %w", err)
	}
	files := []File{
		Dir("bin", 0o755), Dir("dev", 0o755), Dir("etc", 0o755), Dir("home", 0o755), Dir("proc", 0o755),
		Dir("root", 0o700), Dir("sys", 0o755), Dir("tmp", 0o1777), Dir("usr", 0o755), Dir("var", 0o755),
		Dir("var/spool", 0o755), Dir("var/www", 0o755), Symlink("usr/bin", "../bin"), Symlink("usr/sbin", "../bin"), Symlink("sbin", "bin"),
		Regular("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"+
			"www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"),
		Regular("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnobody:x:65534:\n"),
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, Body: program},
	}
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" && !strings.Contains(name, "/") {
			link := Hardlink("bin/"+name, "bin/busybox")
			link.Header.Mode = 0o755 // as tar writes it; dockerd gives it to the file
			files = append(files, link)
		}
	}
	return Image{
		Layers: []Layer{{Files: files}},
		Config: ocispec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"sh"},
		},
	}, nil
}

// static is an error for a program that needs a dynamic loader, which the image would not have.
func static(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New(path + " is not statically linked")
		}
	}
	return nil
}
