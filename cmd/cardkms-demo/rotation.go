package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"cardkms/softhsm/cardsim"
)

// fleetSize is how many simulated cards the rotation reaches.
const fleetSize = 1000

// cutOneIn is how often a command for a card meets a cut of its power.
const cutOneIn = 12

// rotation is the story of a master key that two officers replace, and of the
// cards that get their new keys while their power fails.
type rotation struct {
	*demo
	cards []*cardsim.Card
	where []string
	torn  atomic.Int32 // cuts of power that struck
	// patience says how often a card is tried, and after which time.
	patience []string
}

func runRotation(ctx context.Context, d *demo) error {
	r := &rotation{demo: d, patience: []string{"--wait", "20ms", "--tries", "40"}}
	for _, step := range []func(context.Context) error{
		d.setUp, d.loadKeys, r.makeFleet, d.serve, r.importFleet, r.newVersion, r.move, r.deactivate, r.prove, r.verify,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	say("Done: %d cards have new keys after %d cuts of power in steps 7 and 9; none is lost. Everything above was checked, not only printed.", fleetSize, r.torn.Load())
	return nil
}

func fleetKDD(n int) (kdd [10]byte) {
	binary.BigEndian.PutUint32(kdd[6:], uint32(n+1))
	return kdd
}

func (r *rotation) makeFleet(ctx context.Context) error {
	say("3. A factory personalises %d cards with keys derived from those masters.", fleetSize)
	for n := range fleetSize {
		keys, err := cardsim.Personalise(r.master, fleetKDD(n), kvn, 16)
		if err != nil {
			return err
		}
		c, err := cardsim.New(cardsim.Config{
			KDD: fleetKDD(n), ISD: isd, KeySets: []cardsim.KeySet{keys}, I: cardI, ClassID: class, Component: isd, Version: [8]byte{1}, Image: []byte("x"), BankBytes: 64,
		}, nil)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		reader := &cardsim.Server{Card: c, Before: r.weather(c)}
		go func() { _ = reader.Serve(ctx, l) }()
		r.cards, r.where = append(r.cards, c), append(r.where, "tcp:"+l.Addr().String())
	}
	return nil
}

// weather cuts a card's power now and then, at a random one of its next writes,
// in a random way. A cut that is to come gives way to a later one. The reader calls
// the function before each command, and after a cut there is another command.
func (r *rotation) weather(c *cardsim.Card) func([]byte) {
	due := 0 // number of the write at which the power is to fail
	return func(frame []byte) {
		if due > 0 && c.NVM().Writes() >= due {
			r.torn.Add(1)
			due = 0
		}
		if len(frame) > 4 && rand.IntN(cutOneIn) == 0 { //nolint:gosec // the weather need not be secret
			next := 1 + rand.IntN(8) //nolint:gosec // as above
			due = c.NVM().Writes() + next
			c.NVM().CutAt(next, cardsim.Tears[rand.IntN(len(cardsim.Tears))]) //nolint:gosec // as above
		}
	}
}

func (r *rotation) importFleet(ctx context.Context) error {
	say("5. An officer takes the factory's list of cards into the registry.")
	path := filepath.Join(r.dir, "fleet.ndjson")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for n := range fleetSize {
		fmt.Fprintf(f, `{"kdd": "%X", "kvn": "%02X"}`+"\n", fleetKDD(n), kvn)
	}
	if err := f.Close(); err != nil {
		return err
	}
	_, err = r.command(ctx, "", "cardkms", "fleet", "import", path, "--as", officers[0].as)
	return err
}

// officers of the development set-up: who proposes, and who approve.
var officers = []struct{ name, as string }{{"ada", "security-officer"}, {"bob", "security-officer-bob"}, {"cyd", "security-officer-cyd"}}

// decide has the first officer propose, the two others approve with their own
// keys, and the first execute.
func (d *demo) decide(ctx context.Context, operation, object string, params ...string) error {
	out, err := d.quiet(ctx, "", "cardkms", append([]string{"approval", "propose", operation, object, "--as", officers[0].as, "--json"}, params...)...)
	if err != nil {
		return err
	}
	var p struct{ ID string }
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		return err
	}
	fmt.Printf("    %s proposes %s %s %s\n", officers[0].name, operation, object, strings.Join(params, " "))
	for _, o := range officers[1:] {
		key := filepath.Join(d.dir, "officers", o.name)
		if _, err := d.quiet(ctx, "", "cardkms", "approval", "approve", p.ID, "--as", o.as, "--key", key, "--passphrase-file", filepath.Join(d.dir, "officers", "passphrase"), "--yes"); err != nil {
			return err
		}
		fmt.Printf("    %s approves it with a key of their own\n", o.name)
	}
	if _, err := d.quiet(ctx, "", "cardkms", "approval", "execute", p.ID, "--as", officers[0].as, "--yes"); err != nil {
		return err
	}
	fmt.Println("    executed")
	return nil
}

const (
	oldVersion = "issuers/demo/keys/isd/versions/1"
	newVersion = "issuers/demo/keys/isd/versions/2"
)

func (r *rotation) newVersion(ctx context.Context) error {
	say("6. The master is to be replaced. No officer can do that alone; one proposes, two approve.")
	if err := r.decide(ctx, "key.create", newVersion, "usage=gp-scp03", "algorithm=aes-256", "card_algorithm=aes-128", "diversification=kdf3", "kvn=31", "cryptoperiod_days=365"); err != nil {
		return err
	}
	if err := r.decide(ctx, "key.activate", newVersion); err != nil {
		return err
	}
	say("   The old version may not go yet, because cards need it:")
	if err := r.decide(ctx, "key.deactivate", oldVersion); err == nil || !strings.Contains(err.Error(), "still need this version") {
		return fmt.Errorf("the old version was deactivated under its cards: %w", err)
	}
	fmt.Printf("    refused: cards that still need this version: %d\n", fleetSize)
	_, err := r.command(ctx, "", "cardkms", "rotation", "status", "isd", "--as", officers[0].as)
	return err
}

func (r *rotation) move(ctx context.Context) error {
	say("7. The cards move, eight at a time, while their power fails at random: PUT KEY beside the old keys, check values\n" +
		"   compared, the new keys proved, the old ones taken away.")
	path := filepath.Join(r.dir, "cards.txt")
	if err := os.WriteFile(path, []byte(strings.Join(r.where, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	_, err := r.command(ctx, "", "cardkms", append([]string{"fleet", "move", "--cards", path}, r.patience...)...)
	if err == nil {
		fmt.Printf("    (an interruption is an exchange that broke off and began again; the power was cut %d times so far)\n", r.torn.Load())
	}
	return err
}

func (r *rotation) deactivate(ctx context.Context) error {
	say("8. Now the old version may go.")
	if _, err := r.command(ctx, "", "cardkms", "rotation", "status", "isd", "--as", officers[0].as); err != nil {
		return err
	}
	return r.decide(ctx, "key.deactivate", oldVersion)
}

// prove authenticates every card once more, each at its reader, and looks that
// none has other keys than the new ones.
func (r *rotation) prove(ctx context.Context) error {
	before := r.torn.Load()
	say("9. Every card proves the new keys once more, while its power fails as before.")
	path := filepath.Join(r.dir, "cards.txt")
	out, err := r.quiet(ctx, "", "cardkms", append([]string{"fleet", "move", "--cards", path, "--json"}, r.patience...)...)
	if err != nil {
		return err
	}
	var result struct{ Total, Moved int }
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&result); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if result.Moved != fleetSize {
		return fmt.Errorf("%d of %d cards proved the new keys", result.Moved, fleetSize)
	}
	fmt.Printf("    %d of %d cards authenticated with version 2, in %d more cuts of power\n", result.Moved, fleetSize, r.torn.Load()-before)
	return nil
}

func (r *rotation) verify(ctx context.Context) error {
	say("10. An auditor takes the log away and verifies it offline: complete, unchanged, and every approval proven.")
	export := filepath.Join(r.dir, "export")
	key := filepath.Join(r.dir, "log.vkey")
	if _, err := r.quiet(ctx, "", "cardkms", "audit", "export", export, "--as", "auditor", "--log-key", key); err != nil {
		return err
	}
	r.stopServer()
	out, err := r.command(ctx, "", "cardkms", "audit", "verify", export, "--log-key", key)
	if err == nil && (!strings.Contains(out, "complete and unchanged") || !strings.Contains(out, "all proven")) {
		err = errors.New("the log was not verified")
	}
	return err
}
