package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
)

// Limits of one request, as the API has them.
const (
	preparedCards    = 500
	preparedCommands = 4000
)

type prepareFlags struct {
	key, profile, commands, out string
	kvn, level                  string
}

func (a *app) scriptsCommand() *cobra.Command {
	c := &cobra.Command{Use: "script", Short: "Secured scripts for cards that are not there"}
	var f prepareFlags
	prepare := &cobra.Command{
		Use: "prepare CARDS --commands FILE --kvn KVN --out FILE", Short: "Secure one script for each card of a file", Args: exactly(1),
		Long: `Secure one script for each card of a file, without the cards: one JSON object a line,

  {"kdd": "00010203040506070809", "counter": 13}

with the sequence counter that the card will have when the script runs. The plain
C-APDUs stand in the file of --commands, one in hexadecimal a line. For each card
a line is added to the file of --out, with the secured commands or with the code
that says why there are none. Run again, it goes on behind the last whole line of
that file: a script that was made but did not arrive here is given again. A counter
serves one script only, so with other commands a card needs its next one.

Cards of SCP03 need pseudo-random challenges ("i" & 10), cards of SCP02 i 45, 55, 75
or 1A; under SCP02 the level is 01.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ask, err := f.request()
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error { return a.prepareFleet(cmd.Context(), c, ask, args[0], f.out) })
		},
	}
	fl := prepare.Flags()
	fl.StringVar(&f.key, "key", "isd", "name of the gp-scp03 key, or gp-scp02 as the profile says")
	fl.StringVar(&f.profile, "card-profile", "", "card profile of the server")
	fl.StringVar(&f.kvn, "kvn", "", "Key Version Number of the cards' keys, in `HEX`")
	fl.StringVar(&f.level, "level", "03", "security level 01 or 03")
	fl.StringVar(&f.commands, "commands", "", "`FILE` with the plain commands")
	fl.StringVar(&f.out, "out", "", "`FILE` that gets the scripts")
	for _, name := range []string{"kvn", "commands", "out"} {
		_ = prepare.MarkFlagRequired(name)
	}
	c.AddCommand(prepare)
	return c
}

// request reads what all cards have in common.
func (f prepareFlags) request() (out api.PrepareScripts, err error) {
	out = api.PrepareScripts{Key: f.key, Profile: f.profile}
	if out.KVN, err = hexByte("--kvn", f.kvn); err != nil {
		return out, err
	}
	if out.Level, err = hexByte("--level", f.level); err != nil {
		return out, err
	}
	b, err := os.ReadFile(f.commands)
	if err != nil {
		return out, err
	}
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		c, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil || len(c) < 4 {
			return out, errUsage{fmt.Errorf("%s, line %d: no C-APDU in hexadecimal", f.commands, i+1)}
		}
		out.Commands = append(out.Commands, c)
	}
	if len(out.Commands) > preparedCommands {
		return out, errUsage{fmt.Errorf("%s holds more than %d commands", f.commands, preparedCommands)}
	}
	return out, nil
}

func hexByte(name, text string) (api.HexByte, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 1 {
		return 0, errUsage{fmt.Errorf("%s is two hexadecimal digits", name)}
	}
	return api.HexByte(b[0]), nil
}

// prepareFleet streams: it holds one request and its answer.
func (a *app) prepareFleet(ctx context.Context, c *client.Client, ask api.PrepareScripts, cards, file string) (err error) {
	total, err := eachLine(cards, func(line int64, text []byte) error {
		if _, err := parseCardAt(text); err != nil {
			return onLine(cards, line, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	out, done, err := goOnWith(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	bar := a.progress(total, "cards")
	_ = bar.Add64(done)
	refused := int64(0)
	flush := func() error {
		if len(ask.Cards) == 0 {
			return nil
		}
		scripts, err := c.PrepareScripts(ctx, a.issuer, ask)
		if err != nil {
			return fmt.Errorf("after card %d (run it again to go on): %w", done, err)
		}
		n, err := writeScripts(out, scripts)
		refused, done = refused+n, done+int64(len(scripts))
		_ = bar.Add(len(scripts))
		ask.Cards = ask.Cards[:0]
		return err
	}
	batch := max(1, min(preparedCards, preparedCommands/len(ask.Commands)))
	skip := done
	_, err = eachLine(cards, func(line int64, text []byte) error {
		if line <= skip {
			return nil
		}
		at, _ := parseCardAt(text) // checked above
		if ask.Cards = append(ask.Cards, at); len(ask.Cards) == batch {
			return flush()
		}
		return nil
	})
	if err = errors.Join(err, flush()); err != nil {
		return err
	}
	return a.show(map[string]int64{"cards": total, "refused": refused}, "%s in the file, %d of them without a script now", count(total, "card"), refused)
}

// writeScripts adds lines and returns how many cards have no script.
func writeScripts(out *os.File, scripts []api.PreparedScript) (refused int64, err error) {
	w := bufio.NewWriter(out)
	for _, s := range scripts {
		if s.Code != "" {
			refused++
		}
		if err := json.MarshalWrite(w, s); err != nil {
			return refused, err
		}
		_ = w.WriteByte('\n')
	}
	return refused, errors.Join(w.Flush(), out.Sync())
}

// goOnWith opens a file of scripts behind its last whole line and returns how many
// lines it has. What follows the last line is of a request that broke off.
func goOnWith(file string) (f *os.File, lines int64, err error) {
	if f, err = os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, 0, err
	}
	whole := int64(0)
	r := bufio.NewReader(f)
	for begun := int64(0); !errors.Is(err, io.EOF); { // begun is the length of a line so far
		var part []byte
		part, err = r.ReadSlice('\n')
		begun += int64(len(part))
		switch {
		case err == nil:
			whole, begun, lines = whole+begun, 0, lines+1
		case !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull):
			return nil, 0, errors.Join(err, f.Close())
		}
	}
	if err := f.Truncate(whole); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	_, err = f.Seek(0, io.SeekEnd)
	return f, lines, err
}

// eachLine calls f for every line of a file, and returns how many there are.
func eachLine(file string, f func(line int64, text []byte) error) (lines int64, err error) {
	in, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	for scan := bufio.NewScanner(in); ; {
		if !scan.Scan() {
			if err := scan.Err(); err != nil {
				return lines, onLine(file, lines+1, err)
			}
			return lines, nil
		}
		lines++
		if err := f(lines, scan.Bytes()); err != nil {
			return lines, err
		}
	}
}

func onLine(file string, line int64, err error) error {
	return fmt.Errorf("%s, line %d: %w", file, line, err)
}

func parseCardAt(text []byte) (at api.CardAt, err error) {
	var line struct {
		KDD     api.Hex `json:"kdd"`
		Counter *uint32 `json:"counter"` // 0 is the first one of some cards
	}
	if err := json.Unmarshal(text, &line, json.RejectUnknownMembers(true)); err != nil || len(line.KDD) != 10 || line.Counter == nil {
		return at, errUsage{errors.New("not a JSON object with kdd (20 hexadecimal digits) and counter")}
	}
	return api.CardAt{KDD: line.KDD, Counter: *line.Counter}, nil
}
