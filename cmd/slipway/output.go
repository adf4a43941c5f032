package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// format is the value of --format.
type format string

func (f *format) add(cmd *cobra.Command) {
	*f = "table"
	cmd.Flags().Var(f, "format", "output: table or json")
}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "json|table" }
func (f *format) Set(s string) error {
	if s != "json" && s != "table" {
		return fmt.Errorf("%q is neither json nor table", s)
	}
	*f = format(s)
	return nil
}

// list prints rows as JSON, or as a table with the columns of header that row answers.
func list[T any](w io.Writer, f format, rows []T, header []string, row func(T) []string) error {
	if f == "json" {
		if rows == nil {
			rows = []T{}
		}
		return printJSON(w, rows)
	}
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(row(r), "\t"))
	}
	return t.Flush()
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func ago(t time.Time) string {
	if t.IsZero() || t.Unix() <= 0 {
		return ""
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// short cuts text for a table cell.
func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
