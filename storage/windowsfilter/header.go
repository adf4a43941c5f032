package windowsfilter

import (
	"archive/tar"
	"encoding/base64"
	"encoding/binary"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Records by which tars of Windows layers say what tar itself cannot (image-spec layer.md, "File Attributes", and as winio's backuptar
// reads and writes them).
const (
	recordAttributes = "MSWINDOWS.fileattr"   // decimal FILE_ATTRIBUTE_*
	recordRawSD      = "MSWINDOWS.rawsd"      // base64 of a self-relative security descriptor
	recordSDDL       = "MSWINDOWS.sd"         // the same as text, in older images
	recordMountPoint = "MSWINDOWS.mountpoint" // of symbolic links that are junctions
	recordEA         = "MSWINDOWS.xattr."     // base64 of an extended attribute
	recordCreated    = "LIBARCHIVE.creationtime"
)

const (
	attributeDirectory = 0x10 // FILE_ATTRIBUTE_DIRECTORY

	maxSD     = 64 << 10 // bytes; sizes of access lists are 16 bits wide
	maxEA     = 64<<10 - 1
	maxEAs    = 64 << 10 // bytes of all of a file, which the file system keeps in one piece
	maxTarget = (16<<10 - 20) / 4
)

var decimalTime = regexp.MustCompile(`^-?[0-9]{1,18}(\.[0-9]{1,18})?$`)

// checkHeader says whether an entry is of a type that layers of Windows have, and its records are in order. What it answers
// is the header that is passed on: with the clean name, and with nothing but what was checked.
func checkHeader(h *tar.Header, name string) (*tar.Header, error) {
	out := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Size: h.Size, Mode: h.Mode & 0o7777, ModTime: h.ModTime, AccessTime: h.AccessTime, ChangeTime: h.ChangeTime,
		Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	// Times that the tar does not have would be some in the year 1754.
	if h.AccessTime.IsZero() {
		out.AccessTime = h.ModTime
	}
	if h.ChangeTime.IsZero() {
		out.ChangeTime = h.ModTime
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink:
		out.Linkname = h.Linkname
		if h.Linkname == "" || utf16Len(h.Linkname) > maxTarget || strings.ContainsRune(h.Linkname, 0) || !utf8.ValidString(h.Linkname) {
			return nil, refuse("%s: it points to %.100q, which cannot be", name, h.Linkname)
		}
	case tar.TypeLink:
		target, stream, err := entryName(h.Linkname)
		if err == nil && stream != "" {
			err = refuse("%q names a stream", h.Linkname)
		}
		if err != nil {
			return nil, refuse("%s: cannot be a link to %.300q (%v)", name, h.Linkname, err)
		}
		out.Linkname = target
		return out, nil
	default:
		return nil, refuse("%s: an entry of type %q cannot be in a layer of Windows", name, h.Typeflag)
	}
	eas := 0
	for key, value := range h.PAXRecords {
		keep, err := checkRecord(h, key, value)
		if err != nil {
			return nil, refuse("%s: %v", name, err)
		}
		if keep {
			out.PAXRecords[key] = value
		}
		if strings.HasPrefix(key, recordEA) {
			eas += len(key) + len(value)
		}
	}
	if eas > maxEAs {
		return nil, refuse("%s: extended attributes of %d bytes are too many", name, eas)
	}
	return out, nil
}

// checkRecord says whether a record is one of Windows, which is passed on.
func checkRecord(h *tar.Header, key, value string) (ours bool, err error) {
	switch {
	case key == recordAttributes:
		attr, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return false, refuse("file attributes %.40q are not a number", value)
		}
		if dir := attr&attributeDirectory != 0; h.Typeflag != tar.TypeSymlink && dir != (h.Typeflag == tar.TypeDir) {
			return false, refuse("file attributes %#x contradict its type %q", attr, h.Typeflag)
		}
	case key == recordRawSD:
		sd, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return false, refuse("its security descriptor is not base64")
		}
		return true, checkSD(sd)
	case key == recordSDDL:
		if len(value) > maxSD || strings.ContainsRune(value, 0) {
			return false, refuse("its security descriptor is too long")
		}
	case key == recordMountPoint:
		if h.Typeflag != tar.TypeSymlink {
			return false, refuse("it is a mount point but no link")
		}
	case key == recordCreated:
		if !decimalTime.MatchString(value) {
			return false, refuse("creation time %.40q is no time", value)
		}
	case strings.HasPrefix(key, recordEA):
		data, err := base64.StdEncoding.DecodeString(value)
		if n := len(key) - len(recordEA); err != nil || n == 0 || n > 254 || len(data) > maxEA {
			return false, refuse("extended attribute %.100q is malformed", key)
		}
	default:
		return false, nil
	}
	return true, nil
}

// checkSD says whether sd is a self-relative security descriptor whose parts are all within it (MS-DTYP 2.4.6).
func checkSD(sd []byte) error {
	const header, selfRelative = 20, 0x8000
	if len(sd) > maxSD {
		return refuse("a security descriptor of %d bytes is too long", len(sd))
	}
	if len(sd) < header || sd[0] != 1 || binary.LittleEndian.Uint16(sd[2:])&selfRelative == 0 {
		return refuse("its security descriptor has no good beginning")
	}
	for i, what := range []string{"owner", "group", "SACL", "DACL"} {
		at := int64(binary.LittleEndian.Uint32(sd[4+4*i:]))
		if at == 0 {
			continue
		}
		if at < header || at+8 > int64(len(sd)) {
			return refuse("the %s of its security descriptor is outside of it", what)
		}
		part := sd[at:]
		size := int(binary.LittleEndian.Uint16(part[2:])) // of an ACL (MS-DTYP 2.4.5)
		if i < 2 {
			size = 8 + 4*int(part[1]) // of a SID (MS-DTYP 2.4.2.2)
		}
		if size < 8 || size > len(part) || i < 2 && (part[0] != 1 || part[1] > 15) {
			return refuse("the %s of its security descriptor is malformed", what)
		}
	}
	return nil
}
