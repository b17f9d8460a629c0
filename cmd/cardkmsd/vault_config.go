package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"cardkms/audit"
	"cardkms/kms/secret"
	"cardkms/kms/vault"
)

// vaultConfig says where a Vault is and how the node logs in, in one of three ways.
type vaultConfig struct {
	Address string `yaml:"address"`
	CACert  string `yaml:"caCert"`
	Auth    struct {
		AppRole    *appRoleConfig    `yaml:"approle"`
		Kubernetes *kubernetesConfig `yaml:"kubernetes"`
		Cert       *certConfig       `yaml:"cert"`
	} `yaml:"auth"`
}

type appRoleConfig struct {
	Mount           string `yaml:"mount"` // of the auth method; its own name if empty
	Role            string `yaml:"role"`
	RoleID          string `yaml:"roleID"`
	WrappedSecretID string `yaml:"wrappedSecretID"` // file:PATH of the wrapping token
}

type kubernetesConfig struct {
	Mount     string `yaml:"mount"`
	Role      string `yaml:"role"`
	TokenFile string `yaml:"tokenFile"`
}

type certConfig struct {
	Mount       string `yaml:"mount"`
	Role        string `yaml:"role"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// vaultTLS asks Vault's PKI for the certificate that the node serves with.
type vaultTLS struct {
	PKI        string        `yaml:"pki"` // MOUNT/sign/ROLE
	CommonName string        `yaml:"commonName"`
	IPSANs     []string      `yaml:"ipSANs"`
	TTL        time.Duration `yaml:"ttl"`
}

// vaultPrefix begins a reference to something that Vault gives.
const vaultPrefix = "vault:"

const filePrefix = "file:"

const certificateTTLMin = time.Hour

// wrongVault returns what is wrong with the section vault and with what refers to it.
func (c *config) wrongVault() (wrong []error) {
	users := 0
	for _, t := range c.allTokens() {
		ref, ok := strings.CutPrefix(t.PIN, vaultPrefix)
		if !ok {
			continue
		}
		users++
		if _, err := vault.ParseRef(ref); err != nil {
			wrong = append(wrong, fmt.Errorf("%s.pin: %w", t.field, err))
		}
	}
	if path, ok := strings.CutPrefix(c.Database.Credentials, vaultPrefix); ok || c.Database.Credentials != "" {
		users++
		if !ok || !strings.Contains(path, "/creds/") {
			wrong = append(wrong, errors.New("database.credentials is vault:MOUNT/creds/ROLE"))
		}
	}
	if c.TLS.Vault != nil {
		users++
		wrong = append(wrong, c.TLS.Vault.wrong())
	}
	for _, w := range c.Witnesses {
		if w.Kind == transitKind {
			users++
		}
	}
	switch {
	case c.Vault == nil && users > 0:
		wrong = append(wrong, errors.New("vault is missing, and other fields refer to it"))
	case c.Vault != nil && users == 0:
		wrong = append(wrong, errors.New("vault is for nothing: no field refers to it"))
	case c.Vault != nil:
		wrong = append(wrong, c.Vault.wrong())
	}
	return wrong
}

func (v *vaultConfig) wrong() error {
	var wrong []error
	if err := vault.CheckAddress(v.Address); err != nil {
		wrong = append(wrong, fmt.Errorf("vault.address: %w", err))
	}
	if v.CACert == "" {
		wrong = append(wrong, errors.New("vault.caCert is missing"))
	}
	a, methods, complete := v.Auth, 0, false
	if m := a.AppRole; m != nil {
		methods, complete = methods+1, m.Role != "" && m.RoleID != "" && strings.HasPrefix(m.WrappedSecretID, filePrefix)
	}
	if m := a.Kubernetes; m != nil {
		methods, complete = methods+1, m.Role != "" && m.TokenFile != ""
	}
	if m := a.Cert; m != nil {
		methods, complete = methods+1, m.Role != "" && m.Certificate != "" && m.Key != ""
	}
	if methods != 1 || !complete {
		wrong = append(wrong, errors.New("vault.auth is one of approle {role, roleID, wrappedSecretID: file:PATH}, kubernetes {role, tokenFile} and cert {role, certificate, key}, all of it"))
	}
	return errors.Join(wrong...)
}

func (t *vaultTLS) wrong() error {
	_, err := t.ips()
	mount, role, ok := strings.Cut(t.PKI, "/sign/")
	if err != nil || !ok || mount == "" || role == "" || t.CommonName == "" || t.TTL < certificateTTLMin {
		return fmt.Errorf("tls.vault is {pki: MOUNT/sign/ROLE, commonName, ipSANs, ttl}, with a ttl of at least %s", certificateTTLMin)
	}
	return nil
}

func (t *vaultTLS) ips() (out []net.IP, err error) {
	for _, s := range t.IPSANs {
		ip := net.ParseIP(s)
		if ip == nil {
			return nil, errors.New("tls.vault.ipSANs holds what is no address")
		}
		out = append(out, ip)
	}
	return out, nil
}

// method returns how to log in.
func (c *config) method() vault.Method {
	switch a := c.Vault.Auth; {
	case a.AppRole != nil:
		return &vault.AppRole{
			Mount: cmp.Or(a.AppRole.Mount, "approle"), Role: a.AppRole.Role, RoleID: a.AppRole.RoleID,
			// Not by resolve, which reads once: while Vault is away the token may expire, and
			// another be delivered.
			Wrapped: func() (secret.Bytes, error) {
				return readSecret("file", c.path(strings.TrimPrefix(a.AppRole.WrappedSecretID, filePrefix)))
			},
		}
	case a.Kubernetes != nil:
		return &vault.Kubernetes{Mount: cmp.Or(a.Kubernetes.Mount, "kubernetes"), Role: a.Kubernetes.Role, Token: c.path(a.Kubernetes.TokenFile)}
	default:
		return &vault.Certificate{
			Mount: cmp.Or(a.Cert.Mount, "cert"), Role: a.Cert.Role,
			Cert: c.path(a.Cert.Certificate), Key: c.path(a.Cert.Key),
		}
	}
}

// transitKind is the kind of a witness whose key a Transit engine holds.
const transitKind = "transit"

// transit returns where key and memory of a witness are.
func (w witnessConfig) transit() (mount, name string, memory vault.Ref, err error) {
	memory, err = vault.ParseRef(w.Memory)
	mount, name, ok := strings.Cut(w.Transit, "/")
	if err != nil || !ok || mount == "" || name == "" || w.URL != "" {
		return "", "", memory, errors.New("a witness of kind transit has transit: MOUNT/KEY and memory: MOUNT/PATH#FIELD, and no url")
	}
	if w.Key == "" {
		return mount, name, memory, nil // the start says which one it is
	}
	v, err := audit.NewVerifier(w.Key)
	if err != nil || !audit.IsCosigner(v) {
		return "", "", memory, errors.New("key is the verifier key that the node names at its start when there is none")
	}
	return mount, name, memory, nil
}
