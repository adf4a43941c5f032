package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/slipwayd/slipway/client"
)

// progress shows a transfer: bars on a terminal, a line for each change of state elsewhere.
type progress interface {
	update(client.Progress)
	finish(err error)
}

func newProgress(w io.Writer, quiet bool) progress {
	if quiet {
		return silent{}
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &bars{p: mpb.New(mpb.WithOutput(w), mpb.WithWidth(64)), parts: map[string]*bar{}}
	}
	return &lines{w: w, state: map[string]string{}}
}

type silent struct{}

func (silent) update(client.Progress) {}
func (silent) finish(error)           {}

// part is what a user calls a piece of an image: its kind and the beginning of its digest.
func part(p client.Progress) string {
	kind, d, ok := strings.Cut(p.Name, "-sha256:")
	if ok && len(d) > 12 {
		return kind + " " + d[:12]
	}
	if dg, err := digest.Parse(p.Digest); err == nil && p.Name == p.Digest {
		return dg.Encoded()[:12]
	}
	return p.Name
}

// lines prints a line when the state of a part changes.
type lines struct {
	w     io.Writer
	state map[string]string
}

func (l *lines) update(p client.Progress) {
	name := part(p)
	if l.state[name] == p.Event || len(p.Parents) == 0 && p.Event == "complete" { // of the image: "saved" follows
		return
	}
	l.state[name] = p.Event
	if name == "" { // of the transfer as a whole
		fmt.Fprintln(l.w, p.Event)
		return
	}
	if p.Total > 0 {
		fmt.Fprintf(l.w, "%s: %s (%s)\n", name, p.Event, size(p.Total))
		return
	}
	fmt.Fprintf(l.w, "%s: %s\n", name, p.Event)
}

func (l *lines) finish(error) {}

// bars draws one bar for each part.
type bars struct {
	p     *mpb.Progress
	parts map[string]*bar
}

type bar struct {
	*mpb.Bar
	event string
	total int64
}

func (b *bars) update(p client.Progress) {
	name := part(p)
	if name == "" {
		return // what the bars show anyway
	}
	have := b.parts[name]
	if have == nil {
		have = &bar{}
		event := decor.Any(func(decor.Statistics) string { return have.event }, decor.WCSyncSpaceR)
		if len(p.Parents) == 0 { // the image: a line without a bar
			have.Bar = b.p.New(0, mpb.NopStyle(), mpb.PrependDecorators(decor.Name(name+" ")), mpb.AppendDecorators(event))
		} else {
			have.Bar = b.p.AddBar(0,
				mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
				mpb.AppendDecorators(event, decor.CountersKiloByte("% .1f / % .1f", decor.WCSyncSpace)))
		}
		b.parts[name] = have
	}
	have.event = p.Event
	if p.Total > 0 && have.total != p.Total {
		have.total = p.Total
		have.SetTotal(p.Total, false)
	}
	switch p.Event {
	case "complete", "done", "exists", "already exists", "saved", "extracted", "unpacked":
		have.SetCurrent(have.total)
	default:
		have.SetCurrent(p.Offset)
	}
}

// finish leaves the bars as they are after a failure.
func (b *bars) finish(err error) {
	for _, have := range b.parts {
		if err != nil {
			have.Abort(false)
		} else {
			have.SetTotal(max(have.total, 1), true)
		}
	}
	b.p.Wait()
}
