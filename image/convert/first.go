package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// known is a name in some layer of an image.
type known struct {
	layer  int
	kind   string
	target string // of a link
}

// order finds what of each layer comes first, so that the files a start needs do: they themselves in the topmost layer that
// has them, the links on the way to them, and the directories all that is in. Paths that lead nowhere are left out.
func (c *converter) order(ctx context.Context, jobs []*job) error {
	tree := map[string]known{}
	layers := make([]*toc, len(jobs))
	for i, j := range jobs {
		t, err := c.scan(ctx, j)
		if err != nil {
			return fmt.Errorf("layer %s: %w", j.desc.Digest, err)
		}
		layers[i] = t
		for name, e := range t.at {
			if !e.implied {
				tree[name] = known{i, e.Type, e.LinkName}
			}
		}
	}
	listed := map[*tocEntry]bool{}
	pick := func(name string) {
		layer := tree[name].layer
		if !layers[layer].tidy {
			return // the order of its entries has a meaning
		}
		for _, n := range append(above(name), name) {
			if e := layers[layer].at[n]; e != nil && !e.implied && !listed[e] {
				listed[e] = true
				jobs[layer].first = append(jobs[layer].first, n)
			}
		}
	}
	for _, name := range c.First {
		follow(tree, name, pick)
	}
	return nil
}

// scan reads the names of a layer. One that is not converted has none.
func (c *converter) scan(ctx context.Context, j *job) (*toc, error) {
	t := newTOC(false)
	if j.result.Digest != "" {
		return t, nil
	}
	err := c.open(ctx, j, c.progress(j.desc), func(r io.Reader) error {
		return entries(r, func(e entry) error {
			if readersOnly(e.Name) {
				return nil
			}
			_, err := t.add(e.Header)
			return err
		})
	})
	if errors.As(err, new(unfit)) {
		return newTOC(false), nil
	}
	return t, err
}

// entries calls fn for every entry of an archive. It may leave content unread.
func entries(r io.Reader, fn func(entry) error) error {
	a := newArchive(r)
	for {
		e, err := a.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
		if e.body != nil {
			if _, err := io.Copy(io.Discard, e.body); err != nil {
				return errContent(e, err)
			}
		}
	}
}

const maxLinks = 40 // as the kernel has it

// follow calls fn with each name on the way to a file that is a link, and with the file's.
func follow(tree map[string]known, name string, fn func(string)) {
	at := ""
	rest := strings.Split(clean(name), "/")
	for links := 0; len(rest) > 0; {
		at, rest = path.Join(at, rest[0]), rest[1:]
		k, ok := tree[at]
		switch {
		case !ok && len(rest) > 0: // a directory that only its files tell of
		case !ok:
			return
		case k.kind == "symlink":
			if links++; links > maxLinks {
				return
			}
			fn(at)
			to := path.Join("/", path.Dir(at), k.target)
			if strings.HasPrefix(k.target, "/") {
				to = k.target
			}
			at, rest = "", append(strings.Split(clean(to), "/"), rest...)
		case len(rest) == 0 && k.kind == "hardlink":
			fn(clean(k.target))
			fn(at)
		case len(rest) == 0:
			fn(at)
		}
	}
}

// above are the directories that a path is in, outermost first.
func above(name string) []string {
	var dirs []string
	for i := range name {
		if name[i] == '/' {
			dirs = append(dirs, name[:i])
		}
	}
	return dirs
}

// leading writes what comes before the other entries of an eStargz layer: the files of the job, and the mark that says
// whether there are any.
func (c *converter) leading(ctx context.Context, j *job, w *writer) error {
	if c.Format != EStargz {
		return nil
	}
	if len(j.first) == 0 {
		return w.padded(landmark(noPrefetchMark))
	}
	spool, err := os.CreateTemp(c.TempDir, "slipway-convert-")
	if err != nil {
		return fmt.Errorf("cannot make a file for what comes first: %w", err)
	}
	_ = os.Remove(spool.Name()) // it is gone with the process then; Windows wants it closed before
	defer os.Remove(spool.Name())
	defer spool.Close()
	found, err := c.spool(ctx, j, spool)
	if err != nil {
		return err
	}
	for _, name := range j.first {
		e, ok := found[name]
		if !ok {
			return fmt.Errorf("%.300q is not in the layer any more: %w", name, errdefs.ErrFailedPrecondition)
		}
		if e.body != nil {
			e.body = io.NewSectionReader(spool, e.at, e.Size)
		}
		if err := w.padded(e.entry); err != nil {
			return err
		}
	}
	return w.padded(landmark(prefetchMark))
}

type spooled struct {
	entry
	at int64
}

// spool copies the content of the files that come first.
func (c *converter) spool(ctx context.Context, j *job, to io.Writer) (map[string]spooled, error) {
	wanted, found := map[string]bool{}, map[string]spooled{}
	for _, name := range j.first {
		wanted[name] = true
	}
	offset := int64(0)
	err := c.open(ctx, j, c.progress(j.desc), func(r io.Reader) error {
		return entries(r, func(e entry) error {
			name := clean(e.Name)
			if !wanted[name] {
				return nil
			}
			e.raw = bytes.Clone(e.raw)
			found[name] = spooled{e, offset}
			if e.body == nil {
				return nil
			}
			n, err := io.Copy(to, e.body)
			offset += n
			if err != nil {
				return fmt.Errorf("cannot copy %.300q: %w", e.Name, err)
			}
			return nil
		})
	})
	return found, err
}

func contentSize(e entry) int64 {
	if e.body == nil {
		return 0
	}
	return e.Size
}

// padded writes an entry that is not followed by what followed it in an archive.
func (w *writer) padded(e entry) error {
	if err := w.add(e); err != nil {
		return err
	}
	return w.bytes(make([]byte, -contentSize(e)&(block-1)))
}
