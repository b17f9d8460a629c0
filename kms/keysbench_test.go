//go:build bench

package kms_test

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/apdu"
	"cardkms/kms/cardkey"
	"cardkms/kms/channel"
	"cardkms/kms/key"
	"cardkms/kms/profile"
	"cardkms/kms/store"
	"cardkms/softhsm/cardsim"
)

// cpu is what this process used so far, the token and the simulated cards included.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// took measures n calls.
func took(n int, f func(i int)) (perCall, cpuPerCall time.Duration) {
	began, used := time.Now(), cpu()
	for i := range n {
		f(i)
	}
	return time.Since(began) / time.Duration(n), (cpu() - used) / time.Duration(n)
}

// TestBenchKeys prints what keys and their fleet cost: the move of a card beside
// the bare token calls of the same exchange, and the registry as it grows. It runs
// in one goroutine, so that the two figures of a pair differ in nothing else.
func TestBenchKeys(t *testing.T) {
	fleet, sizes := 500, []int{1_000, 100_000}
	if os.Getenv("CARDKMS_LONG") != "" {
		fleet, sizes = 10_000, append(sizes, 1_000_000)
	}
	fmt.Printf("Moving %d cards to a new key version (two authentications, PUT KEY, check values, DELETE), SoftHSM2, one goroutine:\n", fleet)
	h, _ := rotating(t)
	service, serviceCPU := took(fleet, func(i int) {
		if i%200 == 0 {
			h.advance(10 * time.Minute)
			h.service.Sweep()
		}
		h.must(h.move(h.cardOf(kddOf(1_000_000 + i))))
	})
	bare, bareCPU := took(fleet, func(i int) { h.bareMove(h.cardOf(kddOf(2_000_000 + i))) })
	fmt.Printf("  service  %6.0f cards/s  CPU %8v a card\n", float64(time.Second)/float64(service), serviceCPU)
	fmt.Printf("  bare     %6.0f cards/s  CPU %8v a card\n", float64(time.Second)/float64(bare), bareCPU)
	fmt.Printf("  service/bare: wall %.2f, CPU %.2f\n\n", float64(service)/float64(bare), float64(serviceCPU)/float64(bareCPU))

	fmt.Println("The registry, with as many cards in it:")
	fmt.Println("     cards   import cards/s   look-up CPU   ratio   update CPU   ratio")
	var firstLook, firstUpdate time.Duration
	have := 0
	for _, size := range sizes {
		began := time.Now()
		h.fill(have, size)
		rate := float64(size-have) / time.Since(began).Seconds()
		have = size
		_, look := took(2000, func(i int) { h.stored(kddOf(i * (size / 2000) % size)) })
		_, update := took(2000, func(i int) { h.touch(kddOf((i*(size/2000) + 7) % size)) })
		if firstLook == 0 {
			firstLook, firstUpdate = look, update
		}
		fmt.Printf("  %8d   %14.0f   %11v   %5.2f   %10v   %5.2f\n", size, rate, look, float64(look)/float64(firstLook), update, float64(update)/float64(firstUpdate))
	}
}

// fill takes cards from to size into the registry.
func (h *harness) fill(from, size int) {
	h.t.Helper()
	for from < size {
		n := min(kms.ImportMax, size-from)
		list := make([]kms.ImportedCard, n)
		for i := range list {
			list[i] = kms.ImportedCard{KDD: kddOf(from + i), KVN: kvn}
		}
		_, err := h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd", list)
		h.must(err)
		from += n
	}
}

// touch changes the row of a card, as an authentication does.
func (h *harness) touch(kdd [10]byte) {
	ref, err := h.service.CardRow(h.ctx, h.issuer, kdd[:])
	h.must(err)
	_, err = h.ledger.Do(h.ctx, func(rows store.Rows) (audit.Entry, error) {
		row, err := rows.Get(ref)
		if err != nil {
			return audit.Entry{}, err
		}
		row.Version++
		return audit.Entry{Actor: audit.ActorService, Operation: "test.touch", Decision: audit.Allowed, Outcome: audit.OutcomeOK}, rows.Put(row)
	})
	h.must(err)
}

// bareMove is the same exchange without service, log and database.
func (h *harness) bareMove(c *cardsim.Card) {
	h.t.Helper()
	all, err := h.service.Keys(h.ctx, h.as(kms.SecurityOfficer), h.issuer)
	h.must(err)
	var versions []key.Version
	for _, v := range all {
		if v.ID.Name == "isd" {
			versions = append(versions, v)
		}
	}
	ch, kdd := h.bareOpen(c, versions[0])
	dek := h.bareKey(versions[0], kdd, diversify.DEK, derive.DataEncryption)
	data := []byte{versions[1].KVN}
	for _, p := range []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK} {
		block, err := scp03.KeyBlock(h.ctx, h.token, dek, h.bareKey(versions[1], kdd, p, derive.Transport), scp03.WithLength)
		h.must(err)
		data = append(data, block...)
	}
	answer := h.bareSend(c, ch, apdu.Command{CLA: 0x80, INS: 0xD8, P2: 0x81, Data: data})
	for i, p := range []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK} {
		kcv, err := h.token.KCV(h.ctx, h.bareKey(versions[1], kdd, p, derive.Transport))
		h.must(err)
		if !bytes.Equal(unhex(kcv.Value), answer.Data[1+3*i:4+3*i]) {
			h.t.Fatal("a wrong check value")
		}
	}
	ch.Close(h.token)
	ch, _ = h.bareOpen(c, versions[1])
	h.bareSend(c, ch, apdu.Command{CLA: 0x80, INS: 0xE4, Data: []byte{0xD2, 1, versions[0].KVN}})
	ch.Close(h.token)
	h.token.Release(dek)
}

func (h *harness) bareKey(v key.Version, kdd []byte, p diversify.Purpose, c derive.Class) *derive.Key {
	k, err := diversify.Card(diversify.KDF3, derive.FromRoot(cardkey.Root(v, key.Master)), kdd, diversify.Target{Purpose: p, Class: c, Algorithm: v.CardAlgorithm})
	h.must(err)
	return k
}

func (h *harness) bareOpen(c *cardsim.Card, v key.Version) (*channel.Channel, []byte) {
	h.t.Helper()
	challenge, err := h.token.Random(h.ctx, 8)
	h.must(err)
	p, err := profile.Parse([]byte(written(h.profile)))
	h.must(err)
	ch, cmd := channel.Open(p.Profile, channel.DefaultLimits(), v.KVN, challenge, h.clock())
	raw, err := c.Transmit(cmd.Bytes())
	h.must(err)
	r, err := apdu.ParseResponse(raw)
	h.must(err)
	a, err := ch.Answer(r, h.clock())
	h.must(err)
	static := scp03.Static{ENC: h.bareKey(v, a.KDD, diversify.ENC, derive.Static), MAC: h.bareKey(v, a.KDD, diversify.MAC, derive.Static)}
	ext, err := ch.Authenticate(h.ctx, h.token, static, h.profile.Level, h.clock())
	h.must(err)
	_, err = c.Transmit(ext.Bytes())
	h.must(err)
	return ch, a.KDD
}

func (h *harness) bareSend(c *cardsim.Card, ch *channel.Channel, cmd apdu.Command) apdu.Response {
	h.t.Helper()
	w, err := ch.Wrap(h.ctx, []apdu.Command{cmd}, h.clock())
	h.must(err)
	raw, err := c.Transmit(w[0].Bytes())
	h.must(err)
	r, err := apdu.ParseResponse(raw)
	h.must(err)
	plain, err := ch.Unwrap(h.ctx, []apdu.Response{r}, h.clock())
	h.must(err)
	if plain[0].SW != apdu.Success {
		h.t.Fatalf("the card answered %s", plain[0].SW)
	}
	return plain[0]
}
