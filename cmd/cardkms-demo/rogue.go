package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cardkms/softhsm/cardsim"
)

// rogue is the story of an administrator who may write everything in the
// database and has copies of all that was ever in it, but no key of the token.
type rogue struct {
	*demo
	second *cardsim.Card
	other  string // address of the second card
	past   string // the database as it was before the last entries
	golden string // a copy of the database from just before the attack
	// firstRow and secondRow are the names of the two cards' rows.
	firstRow, secondRow string
	found               int
}

func runRogue(ctx context.Context, d *demo) error {
	r := &rogue{demo: d, past: d.dir + "-past", golden: d.dir + "-golden"}
	for _, step := range []func(context.Context) error{
		d.setUp, d.loadKeys, r.makeCards, r.history,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	say("   Now the administrator of the database. After each attack what was changed is put right again.")
	for _, a := range []struct {
		what string
		do   func(context.Context) error
		undo func(context.Context) error
	}{
		{"lifts the quarantine of a card that failed three proofs, by editing its row", r.editRow, r.repair},
		{"copies the row of another card over it, with the MAC that the token made for that", r.copyRow, r.repair},
		{"puts back an older row of a card, with its genuine MAC, to lower its sequence counter", r.oldRow, r.repair},
		{"deletes the row of the quarantined card, so that it looks new", r.deleteRow, r.repair},
		{"edits an entry of the audit log and recomputes every hash above it", r.editEntry, r.putBack},
		{"deletes an entry and renumbers and rehashes all that follow", r.deleteEntry, r.putBack},
		{"cuts the newest entries off", r.truncate, r.putBack},
		{"edits an entry while the service runs and nobody reads it", r.editRunning, r.repair},
		{"runs a second copy of the service on a copy of the database, with the same token", r.twoCopies, r.putBack},
		{"restores a complete, consistent database of yesterday", r.restoreOld, r.leave},
	} {
		fmt.Printf("\n   Attack %d: somebody %s.\n", r.found+1, a.what)
		if err := copyDir(r.data(), r.golden); err != nil {
			return err
		}
		if err := a.do(ctx); err != nil {
			return err
		}
		r.stopServer()
		if err := a.undo(ctx); err != nil {
			return err
		}
		r.found++
	}
	if err := r.ceremony(ctx); err != nil {
		return err
	}
	say("Done: %d attacks, %d detected and refused.", r.found, r.found)
	return nil
}

func (r *rogue) makeCards(ctx context.Context) error {
	if err := r.makeCard(ctx); err != nil {
		return err
	}
	keys, err := cardsim.Personalise(r.master, [10]byte{9: 0x0A}, kvn, 16)
	if err != nil {
		return err
	}
	r.second, err = cardsim.New(cardsim.Config{KDD: [10]byte{9: 0x0A}, ISD: isd, KeySets: []cardsim.KeySet{keys}, I: cardI, ClassID: class, Component: isd, Version: [8]byte{1}, Image: []byte("x")}, nil)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.other = "tcp:" + l.Addr().String()
	go func() { _ = (&cardsim.Server{Card: r.second}).Serve(ctx, l) }()
	return nil
}

const (
	secondKDD = "0000000000000000000A"
	cardData  = "80CA006600" // GET DATA: what the card says of itself
)

// use authenticates a card and asks it for something.
func (r *rogue) use(ctx context.Context, address string) (string, error) {
	return r.command(ctx, "", "cardkms", "channel", "run", "--key", "isd", "--card", address, cardData)
}

// history makes something to attack: a card that was used, one in quarantine, and
// a copy of the database from before the end.
func (r *rogue) history(ctx context.Context) error {
	if err := r.serve(ctx); err != nil {
		return err
	}
	say("   Two cards are used; then somebody answers three times for the second with a wrong cryptogram: quarantine.")
	for _, address := range []string{r.address, r.other} {
		out, err := r.silently(ctx, "channel", "run", "--key", "isd", "--card", address, cardData)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		fmt.Printf("    the card at %s answers GET DATA 0066: %s\n", address, strings.TrimSpace(out))
	}
	r.stopServer()
	if err := copyDir(r.data(), r.past); err != nil {
		return err
	}
	if err := r.serveQuietly(ctx); err != nil {
		return err
	}
	if _, err := r.silently(ctx, "channel", "run", "--key", "isd", "--card", r.address, cardData); err != nil {
		return err
	}
	for range 3 {
		if err := r.wrongAnswer(ctx); err != nil {
			return err
		}
	}
	out, err := r.command(ctx, "", "cardkms", "card", "show", secondKDD)
	if err != nil || !strings.Contains(out, "QUARANTINED") {
		return fmt.Errorf("the second card is not in quarantine: %w", err)
	}
	r.stopServer()
	return r.findRows(ctx)
}

// findRows has the administrator look for the two cards. Their rows do not say which
// cards they are, but one of them says that it is in quarantine.
func (r *rogue) findRows(ctx context.Context) error {
	out, err := r.sql(ctx, `SELECT id FROM state_rows WHERE kind = 'card' ORDER BY CAST(body AS TEXT) LIKE '%"quarantined":true%';`, true)
	if err != nil {
		return err
	}
	ids := strings.Fields(out)
	if len(ids) != 2 {
		return fmt.Errorf("the database holds %d cards, want 2", len(ids))
	}
	r.firstRow, r.secondRow = ids[0], ids[1]
	say("   The rows have no card's name: %s and %s are MACs, and the identifiers in them are encrypted.", ids[0], ids[1])
	return nil
}

func (r *rogue) wrongAnswer(ctx context.Context) error {
	out, err := r.silently(ctx, "channel", "open", "--key", "isd")
	if err != nil {
		return err
	}
	id, rest, _ := strings.Cut(strings.TrimSpace(out), "\n")
	fields := strings.Fields(id + " " + rest)
	command, err := hex.DecodeString(last(fields, func(s string) bool { return strings.HasPrefix(s, "8050") }))
	if err != nil || len(command) == 0 {
		return fmt.Errorf("no INITIALIZE UPDATE in %q", out)
	}
	r.second.PowerOff()
	r.second.PowerOn()
	answer, err := r.second.Transmit(command)
	if err != nil {
		return err
	}
	answer[25] ^= 1
	channel := last(fields, func(s string) bool { return len(s) == 32 })
	_, err = r.silently(ctx, "channel", "authenticate", channel, hex.EncodeToString(answer))
	if err == nil {
		return errors.New("a wrong cryptogram was accepted")
	}
	return nil
}

// last returns the last field that is what is looked for.
func last(fields []string, is func(string) bool) (found string) {
	for _, f := range fields {
		if is(f) {
			found = f
		}
	}
	return found
}

func (r *rogue) silently(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, "cardkms"), args...)
	cmd.Env = append(os.Environ(), "CARDKMS_SERVER="+r.url, "CARDKMS_TLS="+filepath.Join(r.dir, "tls"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r *rogue) data() string { return filepath.Join(r.dir, "data") }

// repair puts back the rows and entries that an attack changed while the service
// went on and wrote others.
func (r *rogue) repair(ctx context.Context) error {
	ids := "('" + r.firstRow + "', '" + r.secondRow + "')"
	_, err := r.sql(ctx, "ATTACH '"+filepath.Join(r.golden, "cardkms.db")+"' AS golden; BEGIN;"+
		"DELETE FROM state_rows WHERE id IN "+ids+"; INSERT INTO state_rows SELECT * FROM golden.state_rows WHERE id IN "+ids+";"+
		"REPLACE INTO log_leaves SELECT * FROM golden.log_leaves; COMMIT;", false)
	return err
}

// putBack puts back the whole database, to which nothing was added.
func (r *rogue) putBack(context.Context) error { return copyDir(r.golden, r.data()) }

// leave keeps the database as it is, for the ceremony.
func (r *rogue) leave(context.Context) error { return nil }

// copyDir makes the files of one directory those of another. No process has a
// database in either open.
func copyDir(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(from))
}

// sql is what the administrator types.
func (r *rogue) sql(ctx context.Context, query string, show bool) (string, error) {
	if show {
		fmt.Printf("    sqlite> %s\n", query)
	}
	cmd := exec.CommandContext(ctx, "sqlite3", "-cmd", ".timeout 5000", filepath.Join(r.data(), "cardkms.db"))
	cmd.Stdin = strings.NewReader(query)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("sqlite3: %w: %s", err, out)
	}
	return string(out), nil
}

// running starts the service, attacks it and shows what the next request gets.
func (r *rogue) running(ctx context.Context, address string, attack func() error) error {
	if err := r.serveQuietly(ctx); err != nil {
		return err
	}
	if err := attack(); err != nil {
		return err
	}
	out, err := r.use(ctx, address)
	if err == nil || !strings.Contains(out, "object_tampered") {
		return errors.New("the attack was not detected")
	}
	return nil
}

func (r *rogue) editRow(ctx context.Context) error {
	return r.running(ctx, r.other, func() error {
		_, err := r.sql(ctx, `UPDATE state_rows SET body = CAST(replace(CAST(body AS TEXT), '"quarantined":true', '"quarantined":false') AS BLOB) WHERE id = '`+r.secondRow+`';`, true)
		return err
	})
}

func (r *rogue) copyRow(ctx context.Context) error {
	return r.running(ctx, r.other, func() error {
		_, err := r.sql(ctx, `UPDATE state_rows SET (version, body, mac) = (SELECT version, body, mac FROM state_rows WHERE id = '`+r.firstRow+`') WHERE id = '`+r.secondRow+`';`, true)
		return err
	})
}

func (r *rogue) oldRow(ctx context.Context) error {
	return r.running(ctx, r.address, func() error {
		_, err := r.sql(ctx, `ATTACH '`+filepath.Join(r.past, "cardkms.db")+`' AS past; `+
			`REPLACE INTO state_rows SELECT * FROM past.state_rows WHERE id = '`+r.firstRow+`';`, true)
		return err
	})
}

func (r *rogue) deleteRow(ctx context.Context) error {
	return r.running(ctx, r.other, func() error {
		_, err := r.sql(ctx, `DELETE FROM state_rows WHERE id = '`+r.secondRow+`';`, true)
		return err
	})
}

// leaves reads the log as the administrator sees it.
func (r *rogue) leaves(ctx context.Context) ([][]byte, error) {
	out, err := r.sql(ctx, "SELECT hex(leaf) FROM log_leaves ORDER BY seq;", false)
	if err != nil {
		return nil, err
	}
	var leaves [][]byte
	for line := range strings.Lines(out) {
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, b)
	}
	return leaves, nil
}

// writeLog replaces the log by another one, with every hash of the tree as it has
// to be: the administrator knows RFC 6962 too.
func (r *rogue) writeLog(ctx context.Context, leaves [][]byte) error {
	fmt.Println("    (a program of the administrator's rewrites log_leaves, each leaf with the hashes that belong to it)")
	var q strings.Builder
	q.WriteString("BEGIN; DELETE FROM log_leaves;\n")
	var edge [][32]byte
	for n, leaf := range leaves {
		h := sha256.Sum256(append([]byte{0}, leaf...))
		record := h[:]
		for range bits.TrailingZeros(^uint(n)) {
			h = sha256.Sum256(append(append([]byte{1}, edge[len(edge)-1][:]...), h[:]...))
			edge = edge[:len(edge)-1]
			record = append(record, h[:]...)
		}
		edge = append(edge, h)
		fmt.Fprintf(&q, "INSERT INTO log_leaves (seq, leaf, hashes) VALUES (%d, x'%x', x'%x');\n", n, leaf, record)
	}
	q.WriteString("COMMIT;")
	_, err := r.sql(ctx, q.String(), false)
	return err
}

// stopped attacks a database whose service is not running, and shows what the
// start says.
func (r *rogue) stopped(ctx context.Context, attack func() error) error {
	if err := attack(); err != nil {
		return err
	}
	out, err := r.command(ctx, "", "cardkmsd", "serve", "--config", filepath.Join(r.dir, "cardkms.yaml"))
	if err == nil || !strings.Contains(out, "ledger:") {
		return errors.New("the attack was not detected")
	}
	return nil
}

// victim returns the number of an entry that somebody would rather not have.
func victim(leaves [][]byte) int {
	for i := len(leaves) - 1; i >= 0; i-- {
		if bytes.Contains(leaves[i], []byte("outcome proof_failed")) {
			return i
		}
	}
	return 0
}

func (r *rogue) editEntry(ctx context.Context) error {
	return r.stopped(ctx, func() error {
		leaves, err := r.leaves(ctx)
		if err != nil {
			return err
		}
		i := victim(leaves)
		leaves[i] = bytes.ReplaceAll(leaves[i], []byte("proof_failed"), []byte("ok"))
		leaves[i] = bytes.ReplaceAll(leaves[i], []byte("refused"), []byte("allowed"))
		fmt.Printf("    entry %d: \"outcome proof_failed\" becomes \"outcome ok\"\n", i)
		return r.writeLog(ctx, leaves)
	})
}

func (r *rogue) deleteEntry(ctx context.Context) error {
	return r.stopped(ctx, func() error {
		leaves, err := r.leaves(ctx)
		if err != nil {
			return err
		}
		i := victim(leaves)
		leaves = append(leaves[:i:i], leaves[i+1:]...)
		for n := i; n < len(leaves); n++ {
			leaves[n] = bytes.Replace(leaves[n], fmt.Appendf(nil, "sequence %d\n", n+1), fmt.Appendf(nil, "sequence %d\n", n), 1)
		}
		fmt.Printf("    entry %d is gone, and the sequence has no gap\n", i)
		return r.writeLog(ctx, leaves)
	})
}

func (r *rogue) truncate(ctx context.Context) error {
	return r.stopped(ctx, func() error {
		_, err := r.sql(ctx, "DELETE FROM log_leaves WHERE seq > (SELECT max(seq) FROM log_leaves) - 5;", true)
		return err
	})
}

func (r *rogue) editRunning(ctx context.Context) error {
	if err := r.serveQuietly(ctx); err != nil {
		return err
	}
	if _, err := r.sql(ctx, "UPDATE log_leaves SET leaf = CAST(replace(CAST(leaf AS TEXT), 'allowed', 'refused') AS BLOB) WHERE seq = 3;", true); err != nil {
		return err
	}
	fmt.Println("    ... nobody asks for that entry; we wait until the service notices by itself ...")
	began := time.Now()
	for time.Since(began) < time.Minute {
		time.Sleep(time.Second)
		if out, err := r.silently(ctx, "key", "list", "--as", "security-officer"); err != nil {
			if !strings.Contains(out, "rollback_detected") {
				return fmt.Errorf("%s", out)
			}
			noticed(began, "the service", out)
			return nil
		}
	}
	return errors.New("the attack was not detected within a minute")
}

// noticed tells how long an attack went unnoticed, and what a caller heard then.
func noticed(began time.Time, who, out string) {
	fmt.Printf("    after %.1f s %s answers:\n      %s\n", time.Since(began).Seconds(), who, strings.ReplaceAll(strings.TrimSpace(out), "\n", "\n      "))
}

// twoCopies starts a second service on a copy of everything but the token.
func (r *rogue) twoCopies(ctx context.Context) error {
	twin := &demo{dir: r.dir + "-twin", bin: r.bin}
	if err := copyDir(r.dir, twin.dir); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(twin.dir) }()
	addr, err := freePort()
	if err != nil {
		return err
	}
	twin.url = "https://" + addr
	path := filepath.Join(twin.dir, "cardkms.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(b), strings.TrimPrefix(r.url, "https://"), addr)
	text = strings.Replace(text, "softhsm: softhsm", "softhsm: "+filepath.Join(r.dir, "softhsm"), 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if err := r.serveQuietly(ctx); err != nil {
		return err
	}
	if err := twin.serveQuietly(ctx); err != nil {
		return err
	}
	defer twin.stopServer()
	fmt.Println("    both serve, and each writes a log of its own; what they share is the checkpoint inside the token")
	began := time.Now()
	for i := 0; time.Since(began) < time.Minute; i++ {
		for _, one := range []*demo{r.demo, twin} {
			if out, err := (&rogue{demo: one}).silently(ctx, "channel", "open", "--key", "isd"); strings.Contains(out, "rollback_detected") {
				noticed(began, "one of them", out)
				return nil
			} else if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
		time.Sleep(500 * time.Millisecond)
	}
	return errors.New("two copies ran for a minute")
}

func (r *rogue) restoreOld(ctx context.Context) error {
	return r.stopped(ctx, func() error {
		fmt.Println("    $ cp yesterday/cardkms.db data/")
		return copyDir(r.past, r.data())
	})
}

// ceremony shows the way back for a restore that is meant.
func (r *rogue) ceremony(ctx context.Context) error {
	say("5. If that last one was no attack, because a disk had died, two officers say so, and the log says that they did:")
	file := filepath.Join(r.dir, "restoration")
	restore := []string{"restore", "--config", filepath.Join(r.dir, "cardkms.yaml"), file}
	if _, err := r.command(ctx, "", "cardkmsd", append(restore, "--reason", "a disk had died")...); err != nil {
		return err
	}
	if err := r.sign(ctx, file); err != nil {
		return err
	}
	if _, err := r.command(ctx, "", "cardkmsd", append(restore, "--yes")...); err != nil {
		return err
	}
	if err := r.serveQuietly(ctx); err != nil {
		return err
	}
	defer r.stopServer()
	out, err := r.command(ctx, "", "cardkms", "audit", "verify", "--as", "auditor", "--log-key", filepath.Join(r.dir, "log.vkey"))
	if err == nil && !strings.Contains(out, "verified") {
		err = errors.New("the restored log does not verify")
	}
	return err
}
