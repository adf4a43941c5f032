package filter

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// Bounds on what a client may send. A label's key and value together are at most 4096 bytes.
const (
	maxFilters = 256
	maxBytes   = 64 << 10 // all filters of a list together
)

// Parse reads filters, any of which must match. None, or an empty one among them, matches everything. InvalidArgument when
// one cannot be read.
func Parse(filters ...string) (Filter, error) {
	var f Filter
	total, everything := 0, false
	for _, s := range filters {
		total += len(s)
	}
	if len(filters) > maxFilters || total > maxBytes {
		return Filter{}, fmt.Errorf("%d filters of %d bytes are too many, send at most %d of %d bytes together: %w",
			len(filters), total, maxFilters, maxBytes, errdefs.ErrInvalidArgument)
	}
	for _, s := range filters {
		if s == "" {
			everything = true
			continue
		}
		p := parser{input: s}
		all, err := p.filter()
		if err != nil {
			return Filter{}, fmt.Errorf("cannot read filter %q: at byte %d: %w: %w", s, p.pos, err, errdefs.ErrInvalidArgument)
		}
		f.any = append(f.any, all)
	}
	if everything {
		return Filter{}, nil
	}
	return f, nil
}

type parser struct {
	input string
	pos   int
}

func (p *parser) filter() ([]selector, error) {
	var all []selector
	for {
		s, err := p.selector()
		if err != nil {
			return nil, err
		}
		all = append(all, s)
		p.space()
		if p.end() {
			return all, nil
		}
		if !p.take(",") {
			return nil, fmt.Errorf("expected a comma or the end")
		}
	}
}

func (p *parser) selector() (s selector, err error) {
	for more := true; more; more = p.take(".") {
		field, err := p.field()
		if err != nil {
			return s, err
		}
		s.path = append(s.path, field)
	}
	p.space()
	if p.end() || p.input[p.pos] == ',' {
		return s, nil
	}
	switch {
	case p.take("=="):
		s.op = equal
	case p.take("!="):
		s.op = notEqual
	case p.take("~="):
		s.op = matches
	default:
		return s, fmt.Errorf("expected an operator (==, != or ~=), a dot or a comma; put a field with other characters than letters, digits and _ in double quotes")
	}
	start := p.pos
	if s.value, err = p.value(s.op == matches); err != nil || s.op != matches {
		return s, err
	}
	if s.re, err = regexp.Compile(s.value); err != nil {
		p.pos = start
	}
	return s, err
}

func (p *parser) field() (string, error) {
	p.space()
	if !p.end() && p.input[p.pos] == '"' {
		return p.quoted()
	}
	word := p.while(func(r rune) bool {
		return r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	})
	if word == "" {
		return "", fmt.Errorf("expected a field name")
	}
	return word, nil
}

func (p *parser) value(expression bool) (string, error) {
	p.space()
	if p.end() {
		return "", fmt.Errorf("expected a value")
	}
	switch c := p.input[p.pos]; {
	case c == '"', expression && (c == '/' || c == '|'):
		return p.quoted()
	case strings.IndexByte("/|,.=!~", c) >= 0:
		return "", fmt.Errorf("expected a value, in double quotes when it begins with %q", c)
	}
	word := p.while(func(r rune) bool {
		return r != ',' && r != utf8.RuneError && !unicode.IsSpace(r) && unicode.IsGraphic(r)
	})
	if word == "" {
		return "", fmt.Errorf("expected a value, in double quotes when it has odd characters")
	}
	return word, nil
}

// quoted reads Go's interpreted string syntax (Go spec, "String literals") with the delimiter that stands at pos.
func (p *parser) quoted() (string, error) {
	quote, rest := p.input[p.pos], p.input[p.pos+1:]
	var text strings.Builder
	for rest != "" && rest[0] != '\n' {
		if rest[0] == quote {
			p.pos = len(p.input) - len(rest) + 1
			return text.String(), nil
		}
		if len(rest) > 1 && rest[0] == '\\' && rest[1] == quote {
			text.WriteByte(quote)
			rest = rest[2:]
			continue
		}
		r, multibyte, tail, err := strconv.UnquoteChar(rest, 0)
		if err != nil {
			p.pos = len(p.input) - len(rest)
			return "", fmt.Errorf("this escape is not known")
		}
		if multibyte || r < utf8.RuneSelf {
			text.WriteRune(r)
		} else {
			text.WriteByte(byte(r))
		}
		rest = tail
	}
	return "", fmt.Errorf("the quote that begins here does not end")
}

func (p *parser) space() { p.while(unicode.IsSpace) }

func (p *parser) end() bool { return p.pos == len(p.input) }

func (p *parser) take(s string) bool {
	if !strings.HasPrefix(p.input[p.pos:], s) {
		return false
	}
	p.pos += len(s)
	return true
}

func (p *parser) while(ok func(rune) bool) string {
	rest := p.input[p.pos:]
	n := strings.IndexFunc(rest, func(r rune) bool { return !ok(r) })
	if n < 0 {
		n = len(rest)
	}
	p.pos += n
	return rest[:n]
}
