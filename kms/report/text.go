package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// sheet is the text form of a report while it is written.
type sheet struct{ strings.Builder }

func page(h Head, title string) *sheet {
	p := &sheet{}
	p.line("%s of %s", title, h.Log)
	p.line("made %s from %d entries, root %s", h.Made.UTC().Format(time.RFC3339), h.Entries, h.Root)
	if !h.From.IsZero() {
		p.line("covers %s to %s", h.From.UTC().Format(time.RFC3339), h.To.UTC().Format(time.RFC3339))
	}
	p.line("")
	return p
}

func (p *sheet) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *sheet) table(rows [][]string) {
	w := tabwriter.NewWriter(p, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
	p.line("")
}

// counts writes a table of counts, the largest first.
func (p *sheet) counts(head string, c map[string]int64) {
	rows := [][]string{{head, "COUNT"}}
	for _, k := range slices.SortedFunc(maps.Keys(c), func(a, b string) int {
		if c[a] != c[b] {
			return int(c[b] - c[a])
		}
		return strings.Compare(a, b)
	}) {
		rows = append(rows, []string{k, fmt.Sprint(c[k])})
	}
	p.table(rows)
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateOnly)
}
