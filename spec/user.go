package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// User runs the process as resolved by ResolveUser.
func User(u specs.User) Opt {
	return func(s *specs.Spec) error {
		s.Process.User = u
		return nil
	}
}

// maxAccounts bounds what is read of an image's passwd and group files, in bytes: an image may hold anything.
const maxAccounts = 4 << 20

// NeedsFiles tells whether a user of the form of ResolveUser can only be resolved with the image's files at hand.
func NeedsFiles(spec string) bool {
	if spec == "" || spec == "root" || spec == "0" {
		return false
	}
	uid, gid, both := strings.Cut(spec, ":")
	_, uerr := strconv.ParseUint(uid, 10, 31)
	_, gerr := strconv.ParseUint(gid, 10, 31)
	return !both || uerr != nil || gerr != nil
}

// ResolveUser turns "user", "uid", "user:group" or any mix into ids and supplementary groups with the passwd and group
// files in root, which is the image's root file system (os.Root.FS keeps links inside it) and may be nil when NeedsFiles
// says so. An empty spec is root.
func ResolveUser(root fs.FS, spec string) (specs.User, error) {
	if spec == "" || spec == "root" || spec == "0" {
		return specs.User{}, nil // also where the image has no passwd file
	}
	a, err := ReadAccounts(root)
	if err != nil {
		return specs.User{}, err
	}
	return a.resolve(spec)
}

// Accounts are the passwd and group files of an image; empty where it has none.
type Accounts struct{ Passwd, Group []byte }

// ReadAccounts reads them from an image's root file system; nil is one without.
func ReadAccounts(root fs.FS) (a Accounts, err error) {
	if a.Passwd, err = readAccounts(root, "etc/passwd"); err != nil {
		return a, err
	}
	a.Group, err = readAccounts(root, "etc/group")
	return a, err
}

// resolve is ResolveUser for a spec that is not empty, with the groups of root too.
func (a Accounts) resolve(spec string) (specs.User, error) {
	u, err := user.GetExecUser(spec, nil, bytes.NewReader(a.Passwd), bytes.NewReader(a.Group))
	if err != nil {
		return specs.User{}, fmt.Errorf("cannot find user %q in the image's etc/passwd and etc/group: %w", spec, err)
	}
	out := specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	for _, g := range u.Sgids {
		if uint32(g) != out.GID {
			out.AdditionalGids = append(out.AdditionalGids, uint32(g))
		}
	}
	return out, nil
}

func readAccounts(root fs.FS, name string) ([]byte, error) {
	if root == nil {
		return nil, nil
	}
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("cannot read the image's %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	if err != nil {
		return nil, fmt.Errorf("cannot read the image's %s: %w", name, err)
	}
	return b, nil
}
