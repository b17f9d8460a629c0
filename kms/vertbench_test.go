//go:build bench

package kms_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/emv"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/derive/scp80"
	"cardkms/kms"
	"cardkms/kms/apdu"
	"cardkms/kms/approval"
	"cardkms/kms/cardkey"
	"cardkms/kms/key"
	"cardkms/softhsm/cardsim"
)

var (
	benchMu       sync.Mutex
	benchVersions = map[string]key.Version{}
)

// TestBenchCards prints what the service adds to the token for EMV transactions and
// for scripts of cards that are not there: by one caller, whose every entry is a
// transaction of its own, and by several.
func TestBenchCards(t *testing.T) {
	const n = 500
	h := newHarness(t, speaking(0x55, 0x03))
	h.loadOld(1, oldKVN)
	h.enrol("ada", "bob", "cyd")
	h.whole(kms.ProposeInput{
		Issuer: h.issuer, Operation: approval.KeyAllowLegacy, Object: h.oldName(1),
		Params: map[string]string{"until": h.clock().AddDate(0, 0, 30).Format(time.DateOnly), "reason": "bench"},
	})
	h.loadEMV()
	h.loadOTA()
	const callers = 16
	compare := func(what string, service, bare func(i int)) {
		bare(0)
		_, used := took(n, service)
		_, bareUsed := took(n, bare)
		_, usedTogether := tookTogether(callers, n, func(i int) { service(n + i) })
		_, bareTogether := tookTogether(callers, n, bare)
		fmt.Printf("  %-36s %8v  %8v  %5.2f   %8v  %8v  %5.2f\n", what, used, bareUsed, float64(used)/float64(bareUsed), usedTogether, bareTogether, float64(usedTogether)/float64(bareTogether))
	}
	fmt.Printf("CPU of one operation, SoftHSM2:        1 caller: service, bare, ratio    %d callers: service, bare, ratio\n", callers)
	answering := h.transactions(2 * n)
	compare("ARQC verify + ARPC", func(i int) {
		_, err := h.service.ARPC(h.ctx, h.req(), kms.ARPCInput{Transaction: answering[i], Code: unhex("0010")})
		h.must(err)
	}, func(i int) { h.bareARPC(answering[i]) })
	compare("issuer script of one command", func(i int) {
		_, err := h.service.SecureEMVScript(h.ctx, h.req(), h.pinScript(answering[i]))
		h.must(err)
	}, func(i int) { h.bareARPC(answering[i]); h.bareScript(answering[i]) })

	old := h.oldCards(2 * n)
	compare("SCP02 authenticate", func(i int) { h.authenticateOld(old[i]) }, func(i int) { h.bareOld(old[i%len(old)]) })
	packet := kms.OTAPacketInput{
		OTACard: kms.OTACard{Issuer: h.issuer, Key: "ota", KVN: 1}, SPI: scp80.SPI{0x16, 0x00}, TAR: [3]byte{0xB0, 0x00, 0x11}, Data: make([]byte, 100),
	}
	compare("SCP80 packet of 100 bytes", func(i int) {
		one := packet
		kdd := kddOf(100_000 + i)
		one.KDD = kdd[:]
		_, err := h.service.SecureOTAPacket(h.ctx, h.req(), one)
		h.must(err)
	}, func(i int) { h.bareOTA(packet, kddOf(100_000+i)) })

	cards := make([]kms.ImportedCard, 2*n)
	for i := range cards {
		cards[i] = kms.ImportedCard{KDD: kddOf(i), KVN: kvn}
	}
	_, err := h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd", cards)
	h.must(err)
	in := h.prepareInput()
	in.Commands = nil
	for range 20 {
		in.Commands = append(in.Commands, append([]byte{0x80, 0xE2, 0x00, 0x00, 200}, make([]byte, 200)...))
	}
	compare("script of 20 APDUs, card not there", func(i int) {
		one := in
		one.Cards = []kms.CardAt{{KDD: kddOf(i), Counter: 1}}
		out, err := h.service.PrepareScripts(h.ctx, h.req(), one)
		h.must(err)
		h.must(out[0].Err)
	}, func(i int) { h.bareOffline(in, kddOf(i)) })
	h.fleetOfScripts(in)
}

// oldCards are cards of SCP02, each used once.
func (h *harness) oldCards(n int) []*cardsim.Card {
	h.t.Helper()
	out := make([]*cardsim.Card, n)
	for i := range out {
		kdd := kddOf(200_000 + i)
		out[i] = h.cardOf(kdd, func(c *cardsim.Config) {
			c.BankBytes = 64
			c.Legacy = cardsim.PersonaliseLegacy(oldMaster, kdd, oldKVN, 0x55)
		})
	}
	return out
}

// authenticateOld has the service verify a card of SCP02; the card's own work counts on
// both sides.
func (h *harness) authenticateOld(c *cardsim.Card) {
	h.t.Helper()
	id, answer, err := h.answerOld(c)
	h.must(err)
	_, err = h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: answer})
	h.must(err)
	h.must(h.service.CloseChannel(h.ctx, h.req(), h.issuer, id)) // an entry more, which the bare calls do not have either
}

// bareOld makes the token calls of the same.
func (h *harness) bareOld(c *cardsim.Card) {
	h.t.Helper()
	v := h.versionOf("old")
	host, err := h.token.Random(h.ctx, 8)
	h.must(err)
	r, err := c.Transmit(scp02.InitializeUpdate(oldKVN, host).Bytes())
	h.must(err)
	a, err := scp02.ParseAnswer(r[:len(r)-2])
	h.must(err)
	of := func(p diversify.Purpose) *derive.Key {
		k, err := diversify.Card(diversify.VISA2, derive.FromRoot(cardkey.Root(v, key.Master)), a.KDD, diversify.Target{Purpose: p, Class: derive.StaticCBC, Algorithm: key.TDEA2})
		h.must(err)
		return k
	}
	static := scp02.Static{ENC: of(diversify.ENC), MAC: of(diversify.MAC)}
	s, err := scp02.SessionKeys(static, a.Counter)
	h.must(err)
	h.must(scp02.VerifyCard(h.ctx, h.token, s, host, a))
	h.must(scp02.VerifyChallenge(h.ctx, h.token, s, a, isdAID))
	m := scp02.Messaging{Token: h.token, Keys: s, Level: 0x03, I: 0x55}
	_, _, err = m.ExternalAuthenticate(h.ctx, host, a)
	h.must(err)
	h.token.Release(slices.DeleteFunc(append(s.Keys(), static.ENC, static.MAC), func(k *derive.Key) bool { return k == nil })...)
}

// bareOTA makes the token calls of one packet.
func (h *harness) bareOTA(in kms.OTAPacketInput, kdd [10]byte) {
	h.t.Helper()
	v := h.versionOf("ota")
	keys := scp80.Keys{KIc: h.bareKey(v, kdd[:], diversify.ENC, derive.SessionENC), KID: h.bareKey(v, kdd[:], diversify.MAC, derive.SessionMAC)}
	number := scp80.KeyByte(1, key.AES128)
	_, err := scp80.Command(h.ctx, h.token, keys, scp80.Header{SPI: in.SPI, KIc: number, KID: number, TAR: in.TAR}, 1, in.Data)
	h.must(err)
	h.token.Release(keys.KIc, keys.KID)
}

// tookTogether measures n calls by some callers at a time: their entries share the
// transactions of the log, as those of real callers do.
func tookTogether(callers, n int, f func(i int)) (perCall, cpuPerCall time.Duration) {
	next := make(chan int)
	var workers sync.WaitGroup
	began, used := time.Now(), cpu()
	for range callers {
		workers.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	workers.Wait()
	return time.Since(began) / time.Duration(n), (cpu() - used) / time.Duration(n)
}

// fleetOfScripts prepares scripts for many cards, as the client streams them, and
// prints the rate and the memory at the first tenth and at the end.
func (h *harness) fleetOfScripts(in kms.PrepareInput) {
	fleet, batch := 2_000, 200
	if os.Getenv("CARDKMS_LONG") != "" {
		fleet = 100_000
	}
	h.fill(10_000, 10_000+fleet)
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse) / (1 << 20)
	}
	began, used, early := time.Now(), cpu(), 0.0
	for i := 0; i < fleet; i += batch {
		one := in
		for n := range batch {
			one.Cards = append(one.Cards, kms.CardAt{KDD: kddOf(10_000 + i + n), Counter: 1})
		}
		out, err := h.service.PrepareScripts(h.ctx, h.req(), one)
		h.must(err)
		for _, p := range out {
			h.must(p.Err)
		}
		if i == fleet/10 {
			early = heap()
		}
	}
	fmt.Printf("  scripts of 20 APDUs for %d cards, %d to a request: %.0f cards/s, CPU %v a card, heap %.1f MiB after a tenth, %.1f MiB at the end\n",
		fleet, batch, float64(fleet)/time.Since(began).Seconds(), (cpu()-used)/time.Duration(fleet), early, heap())
}

// transactions returns transactions of one card with rising ATCs.
func (h *harness) transactions(n int) []kms.Transaction {
	h.t.Helper()
	out := make([]kms.Transaction, n)
	for i := range out {
		in := mchip(h.issuer)
		in.Card.PAN = fmt.Sprintf("%016d", 4929000000000000+i)
		out[i] = h.arqc(in, 1)
	}
	return out
}

func (h *harness) bareMaster(t kms.Transaction, name string) (emv.Profile, emv.Master) {
	h.t.Helper()
	p, err := emv.ProfileOf(t.Profile)
	h.must(err)
	v := h.versionOf(name)
	m, err := emv.NewMaster(p.Option, derive.FromRoot(cardkey.Root(v, key.Master)), t.Card)
	h.must(err)
	return p, m
}

// versionOf returns the newest version of a key, which is asked for once.
func (h *harness) versionOf(name string) (found key.Version) {
	h.t.Helper()
	benchMu.Lock()
	defer benchMu.Unlock()
	if v, ok := benchVersions[name]; ok {
		return v
	}
	defer func() { benchVersions[name] = found }()
	all, err := h.service.Keys(h.ctx, h.as(kms.SecurityOfficer), h.issuer)
	h.must(err)
	for _, v := range all {
		if v.ID.Name == name && (name != "ota" || v.KVN == 1) {
			found = v
		}
	}
	return found
}

func (h *harness) bareARPC(t kms.Transaction) {
	h.t.Helper()
	p, m := h.bareMaster(t, "ac")
	k, err := m.MAC(p.Cryptogram, t.Input, false)
	h.must(err)
	h.must(emv.Verify(h.ctx, h.token, k, p.Padding, t.Data, t.ARQC))
	_, err = p.Answer(h.ctx, h.token, m, t.Input, unhex("0010"), nil)
	h.must(err)
	h.token.Release(append(k.Keys(), m.Key())...)
}

func (h *harness) bareScript(t kms.Transaction) {
	h.t.Helper()
	p, smi := h.bareMaster(t, "smi")
	_, smc := h.bareMaster(t, "smc")
	keys, err := p.Keys(smi, smc, t.Input)
	h.must(err)
	_, err = p.Secure(h.ctx, h.token, keys, t.Input, h.pinScript(t).Commands[0])
	h.must(err)
	h.token.Release(append(keys.MAC.Keys(), smi.Key(), smc.Key(), keys.ENC)...)
}

func (h *harness) bareOffline(in kms.PrepareInput, kdd [10]byte) {
	h.t.Helper()
	v := h.versionOf("isd")
	host, err := h.token.Random(h.ctx, 8)
	h.must(err)
	static := scp03.Static{ENC: h.bareKey(v, kdd[:], diversify.ENC, derive.Static), MAC: h.bareKey(v, kdd[:], diversify.MAC, derive.Static)}
	var script []apdu.Command
	for _, b := range in.Commands {
		c, err := apdu.ParseCommand(b)
		h.must(err)
		script = append(script, c)
	}
	o := scp03.Offline{Keys: static, HostChallenge: host, KVN: kvn, Counter: 1, AID: h.profile.AID, Level: 3}
	s, _, err := o.Prepare(h.ctx, h.token, h.token, script)
	h.must(err)
	h.token.Release(s.ENC, s.MAC, static.ENC, static.MAC)
}
