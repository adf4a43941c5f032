package storage

import "context"

// A Starter is a Lazy driver that can tell what of its served layers is read, and fetch that before it is read.
type Starter interface {
	Lazy
	// Record begins anew to note what is read of a layer. NotFound when it is not served.
	Record(ctx context.Context, id string) error
	// Touched lists the files of a layer that were opened since Record, the first one first. What they were before the server
	// was started again is forgotten.
	Touched(ctx context.Context, id string) ([]Touch, error)
	// Replay has what a start will read fetched, in about this order, after what readers wait for and before what nobody waits for. It
	// answers at once, and needs all layers of the stack that the files are in: nearest first, as in Layer.Parents. What there is not
	// is left out. With no files, it is what the layers' makers want to be fetched first.
	Replay(ctx context.Context, stack []string, files []Wanted) error
}

// Touch is a file that was opened.
type Touch struct {
	Path   string
	Millis int64      // since Record
	Ranges [][2]int64 // that were read of it: from, up to
	Whole  bool       // it may have been read in whole, unseen
}

// Wanted is a file that will be read: ranges of it, or all.
type Wanted struct {
	ID     string // of the layer
	Path   string
	Ranges [][2]int64
}

// An Observer is a driver that can tell which files of its layers a container opens that has them mounted, served or not.
type Observer interface {
	// Observe begins to note what is opened of the parents of l in the root of the process pid, until the observation is closed. It
	// slows nobody down. FailedPrecondition when that root is no mount of l, NotImplemented where it cannot be done.
	Observe(ctx context.Context, l Layer, pid int) (Observation, error)
}

// Observation is what Observe notes. The caller closes it.
type Observation interface {
	// Opened lists the files by id of the layer that they are in, the first one first. Of how much was read it only guesses.
	Opened(ctx context.Context) (map[string][]Touch, error)
	Close() error
}
