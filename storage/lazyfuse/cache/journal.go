package cache

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
)

// The journal is journalMagic and then records, each of them
//
//	4 bytes  CRC-32C of the rest, big endian
//	1 byte   length of what follows
//	1 byte   kind
//	32 bytes key
//	uvarint  size of the content
//	uvarint  when it was last used, on a clock that counts uses
//	uvarint  offset of a range
//	uvarint  length of the range
//
// A later record counts on top of earlier ones. Reading ends at the first record that is not whole: what follows is lost,
// never trusted.
const journalMagic = "slipway cache 1\n"

const (
	kindHave byte = iota + 1 // the range is durable
	kindDrop                 // nothing of the content counts any more; numbers are 0
)

const (
	recordHead = 5
	recordMax  = recordHead + 1 + 32 + 4*binary.MaxVarintLen64
	// maxSize of a content, far above what file systems hold, keeps sums of offsets and lengths from overflowing.
	maxSize = 1 << 56
)

type record struct {
	kind     byte
	key      Key
	size     int64
	used     int64
	off, len int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// append adds the record's bytes to b.
func (r record) append(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, r.kind)
	b = append(b, r.key[:]...)
	for _, n := range []int64{r.size, r.used, r.off, r.len} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b[start+4] = byte(len(b) - start - recordHead)
	binary.BigEndian.PutUint32(b[start:], crc32.Checksum(b[start+4:], castagnoli))
	return b
}

// parseRecord reads the record that b begins with; n is its length, 0 when there is none that is whole.
func parseRecord(b []byte) (r record, n int) {
	if len(b) < recordHead || len(b) < recordHead+int(b[4]) {
		return r, 0
	}
	n = recordHead + int(b[4])
	if crc32.Checksum(b[4:n], castagnoli) != binary.BigEndian.Uint32(b) {
		return r, 0
	}
	body := b[recordHead:n]
	if len(body) < 1+len(r.key) {
		return r, 0
	}
	r.kind = body[0]
	body = body[1+copy(r.key[:], body[1:]):]
	for _, field := range []*int64{&r.size, &r.used, &r.off, &r.len} {
		v, used := binary.Uvarint(body)
		if used <= 0 || v > maxSize {
			return r, 0
		}
		*field, body = int64(v), body[used:]
	}
	switch {
	case len(body) > 0,
		r.kind != kindHave && r.kind != kindDrop,
		r.kind == kindHave && (r.len == 0 || r.off+r.len > r.size),
		r.kind == kindDrop && (r.size|r.off|r.len != 0):
		return r, 0
	}
	return r, n
}

// parseJournal calls fn for each whole record and answers how many bytes they take with the magic, 0 when even that is
// missing.
func parseJournal(data []byte, fn func(record)) (good int) {
	if len(data) < len(journalMagic) || string(data[:len(journalMagic)]) != journalMagic {
		return 0
	}
	good = len(journalMagic)
	for {
		r, n := parseRecord(data[good:])
		if n == 0 {
			return good
		}
		fn(r)
		good += n
	}
}

// journal appends to the file. It is not safe for concurrent use.
type journal struct {
	path string
	dir  *os.File // that the journal is in
	f    *os.File
	end  int64 // where the next record goes
	room int64 // up to where the disk has room set aside, so that a full one can be made less full
	base int64 // what end was, or would have been, when the journal was last rewritten
	bad  bool  // what the file holds is unknown: only rewrite helps
	buf  []byte
	step func(string) error
	sync func(*os.File) error
}

// readJournal opens the journal, making it when there is none, and replays it.
func readJournal(path string, dir *os.File, opts Options, fn func(record)) (_ *journal, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{path: path, dir: dir, f: f, step: opts.step, sync: opts.sync}
	data, err := io.ReadAll(f)
	if err == nil {
		// A rename that a killed process had not synced must not be undone by a power failure once we append.
		err = j.sync(dir)
	}
	if err == nil {
		j.end = int64(parseJournal(data, fn))
		if j.end == 0 { // a new one, or one that cannot be read: either way nothing counts
			err = j.rewrite(func(func(record)) {})
		} else { // what follows a torn record must not become readable behind records to come
			err = f.Truncate(j.end)
		}
	}
	if err != nil {
		return nil, errors.Join(err, j.f.Close())
	}
	return j, nil
}

// add makes records durable, all in one write and one sync. After an error none of them may be relied upon, and none comes
// back later.
func (j *journal) add(records []record) error {
	if j.bad {
		return errJournal
	}
	j.buf = j.buf[:0]
	for _, r := range records {
		j.buf = r.append(j.buf)
	}
	if err := j.at("journal: write"); err != nil {
		return err
	}
	if _, err := j.f.WriteAt(j.buf, j.end); err != nil {
		j.bad = j.f.Truncate(j.end) != nil
		return err
	}
	err := j.at("journal: sync")
	if err == nil {
		err = j.sync(j.f)
	}
	if err != nil {
		j.bad = true
		return err
	}
	j.end += int64(len(j.buf))
	j.setAside()
	if cap(j.buf) > 1<<20 {
		j.buf = nil
	}
	return nil
}

// setAside keeps some room on the disk for records of removal.
func (j *journal) setAside() {
	if j.end+64<<10 > j.room && setAside(j.f, j.end, 256<<10) == nil {
		j.room = j.end + 256<<10
	}
}

var errJournal = errors.New("the cache's journal could not be synced")

// rewrite replaces the journal by one with only the records that list calls add with.
func (j *journal) rewrite(list func(add func(record))) error {
	if err := j.at("journal: rewrite"); err != nil {
		return err
	}
	f, end, err := j.writeNew(list)
	if err != nil {
		return err
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		return errors.Join(err, f.Close())
	}
	// From here on the old file is out of use, but a power failure may bring it back until the directory is synced.
	_ = j.f.Close()
	j.f, j.end, j.room, j.base, j.bad = f, end, 0, end, true
	if err := errors.Join(j.at("journal: sync directory"), j.sync(j.dir)); err != nil {
		return err
	}
	j.bad = false
	j.setAside()
	return nil
}

// writeNew writes a durable journal beside the old one.
func (j *journal) writeNew(list func(add func(record))) (f *os.File, end int64, err error) {
	f, err = os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, 0, err
	}
	w := bufio.NewWriterSize(f, 64<<10)
	end = int64(len(journalMagic))
	_, _ = w.WriteString(journalMagic) // an error stays with the writer, until Flush
	list(func(r record) {
		j.buf = r.append(j.buf[:0])
		n, _ := w.Write(j.buf)
		end += int64(n)
	})
	if err := errors.Join(w.Flush(), j.sync(f), j.at("journal: rename")); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, end, nil
}

// grown says that the journal is mostly history.
func (j *journal) grown() bool { return j.bad || j.end > 2*j.base+1<<20 }

func (j *journal) at(step string) error {
	if j.step == nil {
		return nil
	}
	return j.step(step)
}
