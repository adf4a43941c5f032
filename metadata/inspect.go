package metadata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"time"
)

// bbolt panics on a damaged file, in goroutines of its own where nobody can recover, or reads beyond the end of its map. So
// before it opens a file for writing, inspect follows all pages by itself.
//
// The format is bbolt's (go.etcd.io/bbolt internal/common, version 2), in the byte order of the machine: pages that begin with
// a header; two meta pages; branch and leaf pages, whose elements tell how far behind themselves their keys and values are.
// A leaf's value can be a bucket: the page of its root, or an inline page after that number.
const (
	pageHeader    = 16 // id 8, flags 2, count 2, overflow 4
	branchElement = 16 // pos 4, ksize 4, page 8
	leafElement   = 16 // flags 4, pos 4, ksize 4, vsize 4
	bucketHeader  = 16 // root 8, sequence 8
	metaSize      = 64 // magic 4, version 4, page size 4, flags 4, root 8, sequence 8, freelist 8, high water 8, txid 8, checksum 8

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagBucket = 0x01 // of a leaf element

	boltMagic   = 0xED0CDAED
	boltVersion = 2

	maxHeight = 64 // of a tree, far more than a file can need
)

var order = binary.NativeEndian

// inspect checks an existing file under bbolt's lock for readers, so that no daemon changes it meanwhile.
func inspect(path string, timeout time.Duration) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open metadata: %w", err)
	}
	b, err := openBolt(path, timeout, true)
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // it was only read
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot open metadata: %w", err)
	}
	defer f.Close()
	if err := checkFile(f, info.Size()); err != nil {
		return damaged(path, err)
	}
	return nil
}

// checker walks the pages of one file.
type checker struct {
	r        io.ReaderAt
	pageSize int64
	pages    uint64 // below the high water mark
	seen     []bool
}

func checkFile(r io.ReaderAt, size int64) error {
	c := &checker{r: r}
	root, err := c.meta(size)
	if err != nil {
		return err
	}
	if c.pages > uint64(size/c.pageSize) {
		return fmt.Errorf("it ends at byte %d, before page %d", size, c.pages)
	}
	c.seen = make([]bool, c.pages)
	return c.page(root, 0, nil, nil)
}

// meta reads the newer of the two meta pages that are whole, and answers the root page.
func (c *checker) meta(size int64) (root uint64, err error) {
	var newest uint64
	for _, pageSize := range []int64{4096, 8192, 16384, 32768, 65536, 1024, 2048} {
		for i := range int64(2) {
			buf := make([]byte, metaSize)
			if _, err := c.r.ReadAt(buf, i*pageSize+pageHeader); err != nil {
				continue
			}
			sum := fnv.New64a()
			sum.Write(buf[:metaSize-8]) //nolint:errcheck // a hash takes everything
			if order.Uint32(buf) != boltMagic || order.Uint32(buf[4:]) != boltVersion || order.Uint64(buf[56:]) != sum.Sum64() ||
				int64(order.Uint32(buf[8:])) != pageSize {
				continue
			}
			if txid := order.Uint64(buf[48:]); c.pageSize == 0 || txid > newest {
				newest, c.pageSize, c.pages, root = txid, pageSize, order.Uint64(buf[40:]), order.Uint64(buf[16:])
			}
		}
	}
	if c.pageSize == 0 {
		return 0, errors.New("neither of its first two pages is whole")
	}
	return root, nil
}

// page reads a page with what follows it and checks it and all below it. Its keys are from low to below high, where nil is no
// bound.
func (c *checker) page(id uint64, height int, low, high []byte) error {
	if id < 2 || id >= c.pages || c.seen[id] || height > maxHeight {
		return fmt.Errorf("page %d is named where it cannot be", id)
	}
	buf := make([]byte, c.pageSize)
	if _, err := c.r.ReadAt(buf, int64(id)*c.pageSize); err != nil {
		return fmt.Errorf("page %d cannot be read: %w", id, err)
	}
	overflow := uint64(order.Uint32(buf[12:]))
	if order.Uint64(buf) != id || overflow >= c.pages-id {
		return fmt.Errorf("page %d has a wrong header", id)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	buf = append(buf, make([]byte, int64(overflow)*c.pageSize)...)
	if _, err := c.r.ReadAt(buf[c.pageSize:], int64(id+1)*c.pageSize); err != nil && overflow > 0 {
		return fmt.Errorf("page %d cannot be read: %w", id, err)
	}
	if err := c.elements(buf, height, low, high); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks a page that is in memory: of the file, or an inline one.
func (c *checker) elements(buf []byte, height int, low, high []byte) error {
	flags, count := order.Uint16(buf[8:]), int(order.Uint16(buf[10:]))
	if flags != flagBranch && flags != flagLeaf || flags == flagBranch && count == 0 || pageHeader+count*leafElement > len(buf) {
		return errors.New("its header is wrong")
	}
	type element struct {
		key, value []byte
		head       []byte
	}
	list := make([]element, count)
	for i := range list {
		at := pageHeader + i*leafElement
		e := buf[at : at+leafElement]
		pos, keySize, valueSize := uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])), uint64(0)
		if flags == flagLeaf {
			pos, keySize, valueSize = uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		}
		begin := uint64(at) + pos
		if begin+keySize+valueSize > uint64(len(buf)) {
			return fmt.Errorf("its element %d is outside", i)
		}
		list[i] = element{buf[begin : begin+keySize], buf[begin+keySize : begin+keySize+valueSize], e}
		if i > 0 && bytes.Compare(list[i-1].key, list[i].key) >= 0 {
			return fmt.Errorf("its element %d is out of order", i)
		}
	}
	if count > 0 && (bytes.Compare(list[0].key, low) < 0 || high != nil && bytes.Compare(list[count-1].key, high) >= 0) {
		return errors.New("its keys belong elsewhere")
	}
	for i, e := range list {
		var err error
		if flags == flagBranch {
			end := high
			if i+1 < count {
				end = list[i+1].key
			}
			err = c.page(order.Uint64(e.head[8:]), height+1, e.key, end)
		} else if order.Uint32(e.head)&flagBucket != 0 {
			err = c.bucket(e.value, height)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) bucket(value []byte, height int) error {
	if len(value) < bucketHeader {
		return errors.New("it has a bucket without a header")
	}
	if root := order.Uint64(value); root != 0 {
		return c.page(root, height+1, nil, nil)
	}
	if len(value) < bucketHeader+pageHeader || height > maxHeight {
		return errors.New("it has a bucket without a page")
	}
	return c.elements(value[bucketHeader:], height+1, nil, nil)
}
