package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// prompter asks people at the console. Input that is no terminal is read line by
// line, which is for tests and demonstrations: its buffer is not wiped.
type prompter struct {
	in       *bufio.Reader
	out      io.Writer
	terminal int // file descriptor; below 0 for none
}

func newPrompter(cmd *cobra.Command) *prompter {
	p := &prompter{in: bufio.NewReader(cmd.InOrStdin()), out: cmd.OutOrStdout(), terminal: -1}
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		p.terminal = fd
	}
	return p
}

// hidden reads a line that the screen does not show. The caller wipes it.
func (p *prompter) hidden(prompt string) ([]byte, error) {
	if p.terminal >= 0 {
		fmt.Fprintf(p.out, "%s: ", prompt)
		line, err := term.ReadPassword(p.terminal)
		fmt.Fprintln(p.out)
		return line, err
	}
	line, err := p.in.ReadBytes('\n')
	if err != nil && len(line) == 0 {
		return nil, err
	}
	return bytes.TrimSpace(line), nil
}

// next waits until a custodian has compared what is shown, and clears the screen with
// its memory of lines, so that the next one sees nothing of it.
func (p *prompter) next() {
	if p.terminal < 0 {
		return
	}
	fmt.Fprint(p.out, "Compare, then press Enter: the screen is cleared.")
	_, _ = p.in.ReadString('\n')
	fmt.Fprint(p.out, "\x1b[H\x1b[2J\x1b[3J")
}

// confirm has the person at the console type a word.
func (p *prompter) confirm(word string) error {
	fmt.Fprintf(p.out, "Type %s to go on: ", word)
	line, _ := p.in.ReadString('\n')
	if strings.TrimSpace(line) != word {
		return errUnconfirmed
	}
	return nil
}

// operator names the person at the console for the audit log.
func operator() string {
	u, err := user.Current()
	if err != nil {
		return "unknown"
	}
	return "os-user:" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '_'
	}, u.Username)
}
