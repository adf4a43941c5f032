package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/sys/windows/svc/eventlog"
)

// eventID is that of all our events: EventCreate's messages, which show any text, have the ids 1 to 1000.
const eventID = 1

// maxEvent bounds the text of an event in bytes; ReportEvent takes 31,839 characters.
const maxEvent = 31000

// eventLog is Windows' log of applications under the name of the service, where there is no standard error that anybody reads.
type eventLog struct{ to *eventlog.Log }

func openEventLog(source string) (*eventLog, error) {
	to, err := eventlog.Open(source)
	if err != nil {
		return nil, fmt.Errorf("cannot open the event log: %w", err)
	}
	return &eventLog{to: to}, nil
}

func (l *eventLog) close() { _ = l.to.Close() }

// tell writes one event. There is nowhere to tell that it failed.
func (l *eventLog) tell(level slog.Level, text string) {
	text = strings.ReplaceAll(text, "\x00", " ")
	text = text[:min(len(text), maxEvent)]
	switch {
	case level >= slog.LevelError:
		_ = l.to.Error(eventID, text)
	case level >= slog.LevelWarn:
		_ = l.to.Warning(eventID, text)
	default:
		_ = l.to.Info(eventID, text)
	}
}

// logger writes lines as newLog's does, less time and level, which an event has itself.
func (l *eventLog) logger(format string, level slog.Leveler) *slog.Logger {
	h := &eventHandler{shared: &eventShared{log: l}}
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}}
	if format == "json" {
		h.Handler = slog.NewJSONHandler(&h.shared.text, o)
	} else {
		h.Handler = slog.NewTextHandler(&h.shared.text, o)
	}
	return slog.New(h)
}

// eventHandler formats with another Handler, and sends what that wrote as an event of the record's level.
type eventHandler struct {
	slog.Handler
	shared *eventShared
}

type eventShared struct {
	log  *eventLog
	mu   sync.Mutex
	text bytes.Buffer
}

// Handle implements slog.Handler.
func (h *eventHandler) Handle(ctx context.Context, r slog.Record) error {
	h.shared.mu.Lock()
	defer h.shared.mu.Unlock()
	h.shared.text.Reset()
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	h.shared.log.tell(r.Level, h.shared.text.String())
	return nil
}

// WithAttrs implements slog.Handler.
func (h *eventHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &eventHandler{Handler: h.Handler.WithAttrs(attrs), shared: h.shared}
}

// WithGroup implements slog.Handler.
func (h *eventHandler) WithGroup(name string) slog.Handler {
	return &eventHandler{Handler: h.Handler.WithGroup(name), shared: h.shared}
}
