package officerkey_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"cardkms/kms/approval/officerkey"
)

var (
	passphrase = []byte("correct horse")
	message    = []byte("message")
)

func TestKey(t *testing.T) {
	private, line, err := officerkey.New("ada", passphrase)
	if err != nil || !bytes.HasPrefix(line, []byte("ssh-ed25519 ")) || !bytes.HasSuffix(line, []byte(" ada\n")) {
		t.Fatalf("%q, %v", line, err)
	}
	public, err := officerkey.ParseLine(line)
	if err != nil {
		t.Fatal(err)
	}
	k, err := officerkey.Open(private, passphrase)
	if err != nil || !ed25519.Verify(public, message, ed25519.Sign(k, message)) {
		t.Fatalf("the key does not sign: %v", err)
	}
	if _, _, err := officerkey.New("ada", nil); err == nil {
		t.Error("a key without a passphrase")
	}
	for name, wrong := range map[string][]byte{"wrong": []byte("battery staple"), "none": nil} {
		_, err := officerkey.Open(private, wrong)
		if err == nil || strings.Contains(err.Error(), string(passphrase)) || len(wrong) > 0 && strings.Contains(err.Error(), string(wrong)) {
			t.Errorf("%s passphrase: %v", name, err)
		}
	}
	for n := range 64 { // each try may cost a bcrypt
		changed := bytes.Clone(private)
		changed[n] ^= 4
		if k, err := officerkey.Open(changed, passphrase); err == nil && !ed25519.Verify(public, message, ed25519.Sign(k, message)) {
			t.Fatalf("byte %d changed gives another key", n)
		}
	}
}

func TestOtherKeys(t *testing.T) {
	_, plain, _ := ed25519.GenerateKey(rand.Reader)
	block, err := ssh.MarshalPrivateKey(plain, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := officerkey.Open(pem.EncodeToMemory(block), passphrase); err == nil || !strings.Contains(err.Error(), "ssh-keygen -p") {
		t.Errorf("a key without protection: %v", err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if block, err = ssh.MarshalPrivateKeyWithPassphrase(ec, "", passphrase); err != nil {
		t.Fatal(err)
	}
	if _, err := officerkey.Open(pem.EncodeToMemory(block), passphrase); err == nil {
		t.Error("an ECDSA key")
	}
	pub, err := ssh.NewPublicKey(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"", "x", string(ssh.MarshalAuthorizedKey(pub))} {
		if _, err := officerkey.ParseLine([]byte(line)); err == nil {
			t.Errorf("%q is accepted", line)
		}
	}
	good, err := officerkey.Line("x", plain.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := officerkey.ParseLine(append(good, good...)); err == nil {
		t.Error("two lines are accepted")
	}
}

func TestAgent(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	stranger, _, _ := ed25519.GenerateKey(rand.Reader)
	for _, c := range []struct {
		key  ed25519.PublicKey
		good bool
	}{{public, true}, {stranger, false}} {
		here, there := net.Pipe()
		ended := make(chan bool)
		go func() { _ = agent.ServeAgent(ring, there); close(ended) }()
		signature, err := officerkey.SignWithAgent(here, c.key, message)
		if good := err == nil && ed25519.Verify(public, message, signature); good != c.good {
			t.Errorf("signed %v, %v", good, err)
		}
		_ = here.Close()
		<-ended
	}
}
