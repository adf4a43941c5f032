package fetch

import "slices"

// stream is a read that goes on: from range to range, or nearly so.
type stream struct {
	next int64 // up to here was asked for; who goes on there is the same reader
	mark int64 // who comes here, short of next, is given what follows next ahead of time
	size int64 // what is asked for where less is wanted
	long int   // ranges it has gone on for
}

const (
	maxStreams = 16
	// growth is how much larger each range of a stream is than the one before.
	growth = 2
	// longRead is from which range of a stream on the next one is asked for before somebody reads it.
	longRead = 2
)

// stream takes out the stream that a read at off goes on with, or begins one.
func (b *Blob) stream(off int64) stream {
	o := b.s.opts
	st := stream{size: b.host.line.carries(o.MinRange)}
	for i, s := range b.streams {
		// Somewhat behind counts too: what lies between may be here already.
		if off >= s.next && off-s.next <= o.MinRange/2 {
			st.size, st.long = min(growth*s.size, o.MaxRange), s.long+1
			b.streams = slices.Delete(b.streams, i, i+1)
			break
		}
	}
	if len(b.streams) == maxStreams {
		b.streams = slices.Delete(b.streams, 0, 1)
	}
	return st
}

// ahead asks for the range that follows a stream, after what is waited for. Whatever of it is here is passed over.
func (b *Blob) ahead(class Class, st *stream) {
	off := st.next
	for {
		if n := b.from(off); n > 0 {
			off += n
		} else if i := b.at(off); i < len(b.pieces) && b.pieces[i].off <= off {
			off = b.pieces[i].end
		} else {
			break
		}
	}
	st.mark = st.next
	if off >= b.desc.Size || off-st.next > st.size {
		return // all of what it will read soon is here
	}
	st.next = b.ask(max(class, Profile), off, st.size).end
}

// passed has the stream that has come to its mark at off go on.
func (b *Blob) passed(class Class, off int64) {
	if class == Profile {
		return // it knows what it wants
	}
	for i := range b.streams {
		if st := &b.streams[i]; off >= st.mark && off < st.next {
			st.size = min(growth*st.size, b.s.opts.MaxRange)
			b.ahead(class, st)
			return
		}
	}
}
