// Package officerkey keeps the Ed25519 keys of security officers outside the
// service: in a file of OpenSSH's private key format under a passphrase
// (openssh-key-v1, PROTOCOL.key of OpenSSH), or in an SSH agent
// (draft-ietf-sshm-ssh-agent). The public half is a line as in authorized_keys.
//
// It leaves out what is signed. It promises that a key is never written without a
// passphrase, and that no error holds a passphrase or a private key. A Go program
// cannot wipe every copy of a key from its memory; the process that signs should be
// short.
//
// The caller must verify a signature that an agent made: an agent may hold another
// key than it says.
package officerkey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

var (
	errPassphrase = errors.New("an officer's key needs a passphrase")
	errNotEd25519 = errors.New("an officer's key is an Ed25519 key (ssh-ed25519)")
)

// New makes a key and returns its private file and its public line.
func New(name string, passphrase []byte) (private, public []byte, err error) {
	if len(passphrase) == 0 {
		return nil, nil, errPassphrase
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, name, passphrase)
	if err != nil {
		return nil, nil, fmt.Errorf("encrypting the key: %w", err)
	}
	public, err = Line(name, pub)
	return pem.EncodeToMemory(block), public, err
}

// Line returns the public line of a key: "ssh-ed25519 BASE64 NAME".
func Line(name string, public ed25519.PublicKey) ([]byte, error) {
	k, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("writing a public key: %w", err)
	}
	return append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(k)), []byte(" "+name+"\n")...), nil
}

// ParseLine returns the key of a public line.
func ParseLine(line []byte) (ed25519.PublicKey, error) {
	k, _, _, rest, err := ssh.ParseAuthorizedKey(line)
	if err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("this is not one public key line (ssh-ed25519 BASE64 NAME)")
	}
	return ed25519Of(k)
}

func ed25519Of(k ssh.PublicKey) (ed25519.PublicKey, error) {
	c, ok := k.(ssh.CryptoPublicKey)
	if !ok {
		return nil, errNotEd25519
	}
	pub, ok := c.CryptoPublicKey().(ed25519.PublicKey)
	if !ok {
		return nil, errNotEd25519
	}
	return pub, nil
}

// Open returns the private key of a file. One that nothing protects is refused.
func Open(private, passphrase []byte) (ed25519.PrivateKey, error) {
	if _, err := ssh.ParseRawPrivateKey(private); err == nil {
		return nil, errors.New("the key file has no passphrase; set one with ssh-keygen -p")
	}
	if len(passphrase) == 0 {
		return nil, errPassphrase
	}
	raw, err := ssh.ParseRawPrivateKeyWithPassphrase(private, passphrase)
	if err != nil {
		return nil, errors.New("the key file does not open: another passphrase, or no OpenSSH private key")
	}
	switch k := raw.(type) {
	case *ed25519.PrivateKey:
		return *k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, errNotEd25519
}

// SignWithAgent has the agent at conn sign with this key. A connection serves one
// call; closing it ends the wait for an agent that asks its user.
func SignWithAgent(conn net.Conn, public ed25519.PublicKey, message []byte) ([]byte, error) {
	k, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, errNotEd25519
	}
	s, err := agent.NewClient(conn).Sign(k, message)
	if err != nil {
		return nil, fmt.Errorf("the agent does not sign with this officer's key; is it added (ssh-add)? %w", err)
	}
	if s.Format != ssh.KeyAlgoED25519 {
		return nil, errNotEd25519
	}
	return s.Blob, nil
}
