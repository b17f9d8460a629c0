package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cardkms/api/client"
	"cardkms/audit"
)

func (a *app) showCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "show ENTRY", Short: "Show one entry, each field by its name",
		Long: `Show one entry, each field by its name.

ENTRY is its sequence. With --file the entry is read from a file that "prove"
wrote, and nothing is asked of any service.`,
		Args: func(_ *cobra.Command, args []string) error {
			if (file == "") != (len(args) == 1) {
				return errUsage{errors.New("name one entry, or --file")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				b, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				return a.showEntry(b)
			}
			seq, err := sequence(args[0])
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				b, err := entry(cmd.Context(), c, seq)
				if err != nil {
					return err
				}
				return a.showEntry(b)
			})
		},
	}
	c.Flags().StringVar(&file, "file", "", "`FILE` with the encoding of an entry")
	return c
}

// entry fetches the encoding of one entry.
func entry(ctx context.Context, c *client.Client, seq int64) ([]byte, error) {
	l, err := c.AuditEntries(ctx, seq, 1)
	if err != nil {
		return nil, err
	}
	if len(l.Entries) == 0 {
		return nil, fmt.Errorf("the log has no entry %d yet", seq)
	}
	return []byte(l.Entries[0].Text), nil
}

func (a *app) showEntry(encoding []byte) error {
	e, err := audit.ParseEntry(encoding)
	if err != nil {
		return negative(err)
	}
	fields, text := fieldsOf(encoding)
	if e.Detail != nil {
		fields["detail"] = e.Detail
	}
	return a.show(fields, "%s", text)
}

// fieldsOf reads the lines of a valid encoding. What is none is left out of the
// object, and named in the text.
func fieldsOf(encoding []byte) (fields map[string]any, text string) {
	fields = map[string]any{}
	lines := strings.Split(strings.TrimSuffix(string(encoding), "\n"), "\n")
	for i, line := range lines[1:] {
		name, value, _ := strings.Cut(line, " ")
		if value == "-" {
			value = "none"
		} else {
			fields[name] = value
		}
		if i > 0 {
			text += "\n"
		}
		text += fmt.Sprintf("%-10s %s", name, value)
	}
	return fields, text
}
