package channel_test

import (
	"bytes"
	"context"
	"crypto/cipher"
	"errors"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

var (
	ctx   = context.Background()
	start = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	kENC  = []byte("K-ENC of a card!")
	kMAC  = []byte("K-MAC of a card!")
)

// counting is a Token that knows which derived keys a real one would hold now,
// and can fail.
type counting struct {
	derivetest.Token
	live map[*derive.Key]bool
	fail error
}

func (c *counting) touch(k *derive.Key) error {
	if c.live == nil {
		c.live = map[*derive.Key]bool{}
	}
	for ; k.Parent() != nil; k = k.Parent() {
		c.live[k] = true
	}
	return c.fail
}

func (c *counting) MAC(x context.Context, k *derive.Key, m []byte) ([]byte, error) {
	if err := c.touch(k); err != nil {
		return nil, err
	}
	return c.Token.MAC(x, k, m)
}

func (c *counting) Encrypt(x context.Context, k *derive.Key, d []byte) ([]byte, error) {
	if err := c.touch(k); err != nil {
		return nil, err
	}
	return c.Token.Encrypt(x, k, d)
}

func (c *counting) Decrypt(x context.Context, k *derive.Key, iv, d []byte) ([]byte, error) {
	if err := c.touch(k); err != nil {
		return nil, err
	}
	return c.Token.Decrypt(x, k, iv, d)
}

func (c *counting) RetailMAC(x context.Context, k derive.RetailKey, m []byte) ([]byte, error) {
	if err := errors.Join(c.touch(k.Whole()), c.touch(k.Left())); err != nil {
		return nil, err
	}
	return c.Token.RetailMAC(x, k, m)
}

func (c *counting) Release(keys ...*derive.Key) {
	for _, k := range keys {
		delete(c.live, k)
	}
}

// static refers to the card's keys behind a derivation, so that the token has
// something to release.
func (c *counting) static() scp03.Static {
	one := func(label string, value []byte) *derive.Key {
		return c.Add(label, key.AES128, derive.Static, value)
	}
	return scp03.Static{ENC: one("enc", kENC), MAC: one("mac", kMAC)}
}

// card is the card's half of SCP03 over plain session keys. It shares CMAC with
// derivetest and nothing with derive/scp03 but the types.
type card struct {
	mode           scp03.Mode
	i, kvn         byte
	enc, mac, rmac []byte
	level          scp03.Level
	chaining       [16]byte
	counter        uint32
}

func cmac(k, m []byte) []byte { return derivetest.CMAC(derivetest.Cipher(key.AES128, k), m, 1) }

func kdf(k []byte, constant byte, bits int, context []byte) []byte {
	m := make([]byte, 16, 48)
	m[11], m[13], m[14], m[15] = constant, byte(bits>>8), byte(bits), 1
	return cmac(k, append(m, context...))[:bits/8]
}

// initialize answers INITIALIZE UPDATE.
func (c *card) initialize(cmd apdu.Command) apdu.Response {
	challenge := bytes.Repeat([]byte{0xC5}, int(c.mode))
	context := append(bytes.Clone(cmd.Data), challenge...)
	c.enc, c.mac, c.rmac = kdf(kENC, 4, 128, context), kdf(kMAC, 6, 128, context), kdf(kMAC, 7, 128, context)
	out := append(make([]byte, 10), c.kvn, 0x03, c.i)
	out = append(append(out, challenge...), kdf(c.mac, 0, 8*int(c.mode), context)...)
	return apdu.Response{Data: out, SW: apdu.Success}
}

var errCard = errors.New("the card refuses the command")

// receive checks a command's C-MAC and returns its plain data.
func (c *card) receive(cmd apdu.Command) ([]byte, error) {
	n := len(cmd.Data) - int(c.mode)
	if n < 0 || cmd.CLA&0x04 == 0 {
		return nil, errCard
	}
	in := append(c.chaining[:], cmd.CLA&0xF4, cmd.INS, cmd.P1, cmd.P2)
	mac := cmac(c.mac, append(append(in, cmd.Lc(len(cmd.Data))...), cmd.Data[:n]...))
	if !bytes.Equal(mac[:c.mode], cmd.Data[n:]) {
		return nil, errCard
	}
	copy(c.chaining[:], mac)
	if cmd.INS == 0x82 {
		c.level, c.counter = scp03.Level(cmd.P1), 0
		return cmd.Data[:n], nil
	}
	c.counter++
	data := cmd.Data[:n]
	if c.level&scp03.CDecryption != 0 && n > 0 {
		data = c.crypt(0, data, cipher.NewCBCDecrypter)
		data = data[:bytes.LastIndexByte(data, 0x80)]
	}
	return data, nil
}

// respond protects a response to the last command.
func (c *card) respond(data []byte, sw apdu.SW) apdu.Response {
	if c.level&scp03.RMAC == 0 {
		return apdu.Response{Data: data, SW: sw}
	}
	if sw != apdu.Success && !sw.Warning() {
		return apdu.Response{SW: sw}
	}
	if c.level&scp03.REncryption != 0 && len(data) > 0 {
		data = c.crypt(0x80, derive.Pad2(data, 16), cipher.NewCBCEncrypter)
	}
	in := append(append(c.chaining[:], data...), byte(sw>>8), byte(sw))
	return apdu.Response{Data: append(bytes.Clone(data), cmac(c.rmac, in)[:c.mode]...), SW: sw}
}

func (c *card) crypt(first byte, data []byte, mode func(cipher.Block, []byte) cipher.BlockMode) []byte {
	b := derivetest.Cipher(key.AES128, c.enc)
	iv := make([]byte, 16)
	iv[0], iv[12], iv[13], iv[14], iv[15] = first, byte(c.counter>>24), byte(c.counter>>16), byte(c.counter>>8), byte(c.counter)
	b.Encrypt(iv, iv)
	out := make([]byte, len(data))
	mode(b, iv).CryptBlocks(out, data)
	return out
}

// pair is a channel and its card, at some step.
type pair struct {
	ch   *channel.Channel
	tok  *counting
	card *card
	now  time.Time
}

// open gives the channel and the card's answer to its INITIALIZE UPDATE.
func open(tb testing.TB, p channel.Profile, l channel.Limits) (*pair, apdu.Response) {
	tb.Helper()
	if p.Mode == 0 {
		p.Mode = scp03.S8
	}
	x := &pair{tok: &counting{}, card: &card{mode: p.Mode, kvn: 0x30, i: 0x60}, now: start}
	if p.Mode == scp03.S16 {
		x.card.i |= scp03.ISixteen
	}
	challenge := bytes.Repeat([]byte{0x4C}, int(p.Mode))
	ch, cmd := channel.Open(p, l, 0x30, challenge, x.now)
	x.ch = ch
	return x, x.card.initialize(cmd)
}

// authenticated gives a channel whose card took EXTERNAL AUTHENTICATE.
func authenticated(tb testing.TB, p channel.Profile, l channel.Limits, level scp03.Level) *pair {
	tb.Helper()
	x, answer := open(tb, p, l)
	if _, err := x.ch.Answer(answer, x.now); err != nil {
		tb.Fatal(err)
	}
	cmd, err := x.ch.Authenticate(ctx, x.tok, x.tok.static(), level, x.now)
	if err != nil {
		tb.Fatal(err)
	}
	host, err := x.card.receive(cmd)
	if want := kdf(x.card.mac, 1, 8*int(x.card.mode), x.ch.Context()); err != nil || !bytes.Equal(host, want) {
		tb.Fatalf("the card refuses the host cryptogram %X: %v", host, err)
	}
	return x
}

func wantCode(tb testing.TB, what string, err error, want fault.Code) {
	tb.Helper()
	if got := fault.CodeOf(err); got != want {
		tb.Errorf("%s: %s (%v), want %s", what, got, err, want)
	}
}
