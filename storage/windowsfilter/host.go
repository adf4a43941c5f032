package windowsfilter

import (
	"context"
	"io"
)

// Host is what only Windows can do with layers. Directories of layers are named by their last part too; parents are paths, nearest first.
// Calls for one directory are not made at the same time.
type Host interface {
	// Import unpacks a layer's tar, which was checked, into dir, which exists and is empty. It need not be durable.
	Import(ctx context.Context, tar io.Reader, dir string, parents []string) error
	// Export writes the tar of what the layer in dir, read only or a scratch, adds to its parents.
	Export(ctx context.Context, w io.Writer, dir string, parents []string) error
	// MakeScratch makes the virtual disk sandbox.vhdx in dir, which exists and is empty, for parents whose base has no template.
	MakeScratch(ctx context.Context, dir string, parents []string) error
	// Expand makes the virtual disk of the scratch in dir size bytes large.
	Expand(ctx context.Context, dir string, size uint64) error
	// Detach takes back what the death of a container's owner may have left attached of the scratch in dir.
	Detach(dir string) error
	// Destroy deletes dir, of which nothing is attached, with files that only backup privileges let go.
	Destroy(dir string) error
	// Sync makes all that was written below dir durable.
	Sync(dir string) error
}
