package index

import (
	"errors"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// scanner reads JSON (RFC 8259) as it comes, with no more memory than a buffer and the text asked for. It is stricter than the
// format where documents never need it: depth, length of texts, and integers only.
type scanner struct {
	src      io.Reader
	buf      [32 << 10]byte
	pos, end int
	text     []byte // of the last string
}

const (
	maxDepth   = 16
	maxLiteral = 32
)

func damaged(what string) error { return invalid("JSON is damaged: %s", what) }

// byte reads the next byte; it is InvalidArgument at the end.
func (s *scanner) byte() (byte, error) {
	if s.pos == s.end {
		n, err := io.ReadAtLeast(s.src, s.buf[:], 1)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, damaged("it ends too early")
		}
		if err != nil {
			return 0, err
		}
		s.pos, s.end = 0, n
	}
	s.pos++
	return s.buf[s.pos-1], nil
}

// next reads the next byte that is not white space.
func (s *scanner) next() (byte, error) {
	for {
		c, err := s.byte()
		if err != nil || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c, err
		}
	}
}

// back gives the last byte back.
func (s *scanner) back() { s.pos-- }

func (s *scanner) expect(want byte) error {
	c, err := s.next()
	if err == nil && c != want {
		err = damaged("found " + strconv.QuoteRune(rune(c)) + " instead of " + strconv.QuoteRune(rune(want)))
	}
	return err
}

// null says whether the next value is null, and reads it if so.
func (s *scanner) null() (bool, error) {
	c, err := s.next()
	if err != nil {
		return false, err
	}
	s.back()
	if c != 'n' {
		return false, nil
	}
	word, err := s.literal()
	if err == nil && word != "null" {
		err = damaged("unknown word")
	}
	return true, err
}

// object calls field with each key of an object, which must read its value. key is valid until then. null is an empty object.
func (s *scanner) object(field func(key []byte) error) error {
	if isNull, err := s.null(); isNull || err != nil {
		return err
	}
	return s.list('{', '}', func() error {
		key, err := s.string(maxName)
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		return field(key)
	})
}

// array calls elem for each element of an array, which must read it. null is an empty array.
func (s *scanner) array(elem func() error) error {
	if isNull, err := s.null(); isNull || err != nil {
		return err
	}
	return s.list('[', ']', elem)
}

func (s *scanner) list(open, end byte, elem func() error) error {
	if err := s.expect(open); err != nil {
		return err
	}
	c, err := s.next()
	if err != nil || c == end {
		return err
	}
	s.back()
	for {
		if err := elem(); err != nil {
			return err
		}
		c, err := s.next()
		if err != nil || c == end {
			return err
		}
		if c != ',' {
			return damaged("no comma between two values")
		}
	}
}

// string reads a text of at most limit bytes, which is valid until the next one is read.
func (s *scanner) string(limit int) ([]byte, error) {
	if err := s.expect('"'); err != nil {
		return nil, err
	}
	s.text = s.text[:0]
	for {
		if s.pos == s.end {
			if _, err := s.byte(); err != nil {
				return nil, err
			}
			s.back()
		}
		from := s.pos
		for s.pos < s.end && s.buf[s.pos] != '"' && s.buf[s.pos] != '\\' && s.buf[s.pos] >= ' ' {
			s.pos++
		}
		s.text = append(s.text, s.buf[from:s.pos]...)
		if len(s.text) > limit {
			return nil, invalid("a text is longer than %d bytes", limit)
		}
		if s.pos == s.end {
			continue
		}
		s.pos++
		switch s.buf[s.pos-1] {
		case '"':
			return s.text, nil
		case '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		default:
			return nil, damaged("control character in a text")
		}
	}
}

func (s *scanner) escape() error {
	c, err := s.byte()
	if err != nil {
		return err
	}
	switch c {
	case '"', '\\', '/':
		s.text = append(s.text, c)
	case 'b':
		s.text = append(s.text, '\b')
	case 'f':
		s.text = append(s.text, '\f')
	case 'n':
		s.text = append(s.text, '\n')
	case 'r':
		s.text = append(s.text, '\r')
	case 't':
		s.text = append(s.text, '\t')
	case 'u':
		return s.unicode()
	default:
		return damaged("unknown escape")
	}
	return nil
}

func (s *scanner) unicode() error {
	r, err := s.hex4()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		// A lone half becomes U+FFFD, as encoding/json has it, and must not be a name that two files could share.
		c, err := s.byte()
		d, err2 := s.byte()
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		if c != '\\' || d != 'u' {
			return damaged("half of a surrogate pair")
		}
		low, err := s.hex4()
		if err != nil {
			return err
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return damaged("half of a surrogate pair")
		}
	}
	s.text = utf8.AppendRune(s.text, r)
	return nil
}

func (s *scanner) hex4() (rune, error) {
	var digits [4]byte
	for i := range digits {
		c, err := s.byte()
		if err != nil {
			return 0, err
		}
		digits[i] = c
	}
	v, err := strconv.ParseUint(string(digits[:]), 16, 16)
	if err != nil {
		return 0, damaged("wrong \\u escape")
	}
	return rune(v), nil
}

// integer reads a whole number; null is 0.
func (s *scanner) integer() (int64, error) {
	word, err := s.literal()
	if err != nil || word == "null" {
		return 0, err
	}
	v, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return 0, invalid("%.40q is not a number that can occur here", word)
	}
	return v, nil
}

// literal reads a number or a word.
func (s *scanner) literal() (string, error) {
	if _, err := s.next(); err != nil {
		return "", err
	}
	s.back()
	var word [maxLiteral]byte
	n := 0
	for {
		c, err := s.byte()
		if err != nil {
			return "", err
		}
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' && c != '+' && c != '.' && c != 'E' {
			s.back()
			if n == 0 {
				return "", damaged("a value is missing")
			}
			return string(word[:n]), nil
		}
		if n == maxLiteral {
			return "", damaged("a number is too long")
		}
		word[n] = c
		n++
	}
}

// skip reads a value of any kind.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return invalid("JSON is nested more than %d deep", maxDepth)
	}
	c, err := s.next()
	if err != nil {
		return err
	}
	s.back()
	switch c {
	case '{':
		return s.object(func([]byte) error { return s.skip(depth + 1) })
	case '[':
		return s.array(func() error { return s.skip(depth + 1) })
	case '"':
		_, err := s.string(maxXattrSize)
		return err
	}
	word, err := s.literal()
	if err != nil {
		return err
	}
	if _, err := strconv.ParseFloat(word, 64); err != nil && word != "true" && word != "false" && word != "null" {
		return damaged("unknown word")
	}
	return nil
}

// done checks that nothing but white space follows.
func (s *scanner) done() error {
	_, err := s.next()
	if errdefs.IsInvalidArgument(err) {
		return nil
	}
	if err == nil {
		err = damaged("something follows its end")
	}
	return err
}
