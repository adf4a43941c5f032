// Package winimage builds small images for Windows in memory: layers in the form of image-spec layer.md and of Windows' own tars (directories
// Files, Hives and UtilityVM; MSWINDOWS records), with what Windows cannot import a layer without. What is in the hives and in the
// utility machine is made up: the host that imports them is testsuite/hcssim or a fake.
//
//	img := winimage.Image("10.0.20348.2000", "cmd", "/c", "type", `C:\hello.txt`)
//	built, err := img.Build()
//
// Images are package ociimage's. The same input gives the same digests. It imports nothing of the product.
package winimage

import (
	"archive/tar"
	"encoding/base64"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// descriptor is the security descriptor O:BAG:SYD:P(A;;GA;;;SY), self-relative (MS-DTYP 2.4.6), that all files have.
const descriptor = "AQAEkBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgAcAAEAAAAAABQAAAAAEAEBAAAAAAAFEgAAAA=="

func with(f ociimage.File, attributes string) ociimage.File {
	f.Format = tar.FormatPAX
	f.ModTime, f.AccessTime, f.ChangeTime = ociimage.Epoch, ociimage.Epoch, ociimage.Epoch
	f.PAXRecords = map[string]string{
		"MSWINDOWS.fileattr": attributes, "MSWINDOWS.rawsd": descriptor, "LIBARCHIVE.creationtime": "1600000000.5",
	}
	return f
}

// Raw is an entry of a layer under its full name, such as UtilityVM/Files/bootmgr.
func Raw(name, body string) ociimage.File {
	return with(ociimage.Regular(name, 0o644, body), "32")
}

// RawDir is a directory under its full name.
func RawDir(name string) ociimage.File {
	f := with(ociimage.Dir(name, 0o755), "16")
	f.Name = name // Windows' tars have no slash at the end
	return f
}

// File is a file of the container, such as Users/a.txt, and Dir a directory.
func File(name, body string) ociimage.File { return Raw("Files/"+name, body) }
func Dir(name string) ociimage.File        { return RawDir("Files/" + name) }

// Gone hides a file of the layers below.
func Gone(name string) ociimage.File { return ociimage.Whiteout("Files/" + name) }

// Hardlink is another name of a file.
func Hardlink(name, target string) ociimage.File {
	return ociimage.Hardlink("Files/"+name, "Files/"+target)
}

// Symlink is a symbolic link to a file; Junction is one of directories, with an absolute target.
func Symlink(name, target string) ociimage.File {
	return with(ociimage.Symlink("Files/"+name, target), "1056")
}
func Junction(name, target string) ociimage.File {
	f := with(ociimage.Symlink("Files/"+name, target), "1040")
	f.PAXRecords["MSWINDOWS.mountpoint"] = "1"
	return f
}

// Stream is an alternate stream of the file right before it.
func Stream(name, stream, body string) ociimage.File {
	return ociimage.Regular("Files/"+name+":"+stream, 0o644, body)
}

// Attribute gives an entry an extended attribute.
func Attribute(f ociimage.File, name, value string) ociimage.File {
	f.PAXRecords["MSWINDOWS.xattr."+name] = base64.StdEncoding.EncodeToString([]byte(value))
	return f
}

// withDirs puts the directories before what is in them that are not there yet.
func withDirs(have []string, files []ociimage.File) (all []ociimage.File) {
	var add func(dir string)
	add = func(dir string) {
		if dir == "." || slices.Contains(have, dir) {
			return
		}
		add(path.Dir(dir))
		have = append(have, dir)
		all = append(all, RawDir(dir))
	}
	for _, f := range files {
		if f.Typeflag == tar.TypeDir {
			if slices.Contains(have, f.Name) {
				continue
			}
			have = append(have, f.Name)
		}
		if !strings.HasPrefix(path.Base(f.Name), ".wh.") {
			add(path.Dir(f.Name))
		}
		all = append(all, f)
	}
	return all
}

// Base is the layer of an operating system: the hives of its registry, a utility machine for Hyper-V isolation, and files, whose
// directories need not be named.
func Base(files ...ociimage.File) ociimage.Layer {
	var all []ociimage.File
	for _, hive := range []string{"DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM"} {
		all = append(all, File("Windows/System32/config/"+hive, "regf "+hive))
	}
	all = append(all, files...)
	for _, name := range []string{"BCD", "bootmgfw.efi"} {
		all = append(all, Raw("UtilityVM/Files/EFI/Microsoft/Boot/"+name, name))
	}
	return ociimage.Layer{Files: withDirs(nil, all)}
}

// Child is a layer on others: what it changes of the registry, and files.
func Child(files ...ociimage.File) ociimage.Layer {
	all := append([]ociimage.File{RawDir("Files")}, files...)
	all = append(all, RawDir("Hives"))
	for _, hive := range []string{"DefaultUser", "Sam", "Security", "Software", "System"} {
		all = append(all, Raw("Hives/"+hive+"_Delta", "regf "+hive))
	}
	return ociimage.Layer{Files: withDirs(nil, all)}
}

// Image is an image of two layers for a version of Windows, such as 10.0.20348.2000, which runs args: the base has hello.txt and gone.txt,
// the layer on it says something else in hello.txt, hides gone.txt and has new.txt.
func Image(version string, args ...string) ociimage.Image {
	return ociimage.Image{
		Platform: ocispec.Platform{OS: "windows", Architecture: "amd64", OSVersion: version},
		Config:   ocispec.ImageConfig{Cmd: args, WorkingDir: `C:\`, Env: []string{"SLIPWAY=" + version}},
		Layers: []ociimage.Layer{
			Base(File("hello.txt", "hello from the base\r\n"), File("gone.txt", "hidden\r\n"), Hardlink("link.txt", "hello.txt"), Dir("Users/ContainerUser")),
			Child(File("hello.txt", "hello from the top\r\n"), Gone("gone.txt"), File("new.txt", version+"\r\n")),
		},
	}
}

// Index has an image for each of these versions of Windows, and one without layers for Linux on amd64 and arm64.
func Index(versions ...string) ociimage.Index {
	x := ociimage.Index{Images: []ociimage.Image{
		{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}, {Platform: ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}},
	}}
	for _, v := range versions {
		x.Images = append(x.Images, Image(v, "cmd", "/c", "ver"))
	}
	return x
}
