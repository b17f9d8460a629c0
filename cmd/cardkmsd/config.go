package main

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"cardkms/kms"
	"cardkms/kms/channel"
	"cardkms/kms/report"
	"cardkms/kms/secret"
)

// config is the one YAML file. Unknown and duplicate fields are refused, and
// everything is checked before anything is opened. Paths are relative to the
// file.
type config struct {
	Development bool `yaml:"development"` // allows SoftHSM2
	// Experimental serves what only cards in software agree with, see kms.Config.
	Experimental bool                         `yaml:"experimental"`
	Listen       string                       `yaml:"listen"`
	Admin        string                       `yaml:"admin"` // address of the metrics, on this machine; empty for none
	Node         string                       `yaml:"node"`  // name among the nodes that share a database, or env:VARIABLE
	Data         string                       `yaml:"data"`  // directory of the SQLite database, and of this process
	Database     databaseConfig               `yaml:"database"`
	Token        tokenConfig                  `yaml:"token"`
	Tokens       map[string]ModuleConfig      `yaml:"tokens"` // beside it, by the name that keys have of them
	TLS          tlsConfig                    `yaml:"tls"`
	Log          logConfig                    `yaml:"log"`
	Anchors      anchorsConfig                `yaml:"anchors"`
	Witnesses    []witnessConfig              `yaml:"witnesses"`
	Clients      []clientConfig               `yaml:"clients"`
	Proxies      []string                     `yaml:"proxies"`     // SPIFFE URIs of load balancers
	People       peopleConfig                 `yaml:"people"`      // who come with a token of an OpenID provider
	Profiles     any                          `yaml:"profiles"`    // of earlier configurations; refused with a hint
	ReleaseKeys  map[string]map[string]string `yaml:"releaseKeys"` // issuer → name → PEM file
	Limits       limitsConfig                 `yaml:"limits"`
	Vault        *vaultConfig                 `yaml:"vault"`

	file, dir string            // its path, and the directory that paths in it start from
	sum       [sha256.Size]byte // of the file
	digest    string            // the same in base64; stands in every checkpoint

	// secrets are those that were read, by reference. Each is read once: afterwards a
	// variable is gone from the environment, and a pipe is empty. Owned by who opens.
	secrets   map[string]secret.Bytes
	fromVault *vaultLogin // nil before openVault
}

// databaseConfig says where a PostgreSQL database is; without it, rows are in SQLite.
type databaseConfig struct {
	URL         string `yaml:"url"`         // without a password
	Password    string `yaml:"password"`    // a reference
	Credentials string `yaml:"credentials"` // instead: vault:MOUNT/creds/ROLE
	Connections int32  `yaml:"connections"`
}

// tokenConfig is the main token, which holds the service's own keys and every key that
// names no token.
type tokenConfig struct {
	ModuleConfig `yaml:",inline"`
	Pseudonym    keyRef `yaml:"pseudonym"` // names cards in the log
	State        keyRef `yaml:"state"`     // makes the MACs of rows and of the log's head
}

// keyRef names a service key of the token.
type keyRef struct {
	Label string `yaml:"label"`
	KCV   string `yaml:"kcv"` // METHOD:VALUE
}

type tlsConfig struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	ClientCAs   string `yaml:"clientCAs"`
	// Revoked are client certificates that are not believed: by URI, or by serial number
	// as serial:HEX. CRL is a file of revocation lists of the client CAs (PEM).
	Revoked []string `yaml:"revoked"`
	CRL     string   `yaml:"crl"`

	Vault *vaultTLS `yaml:"vault"` // instead of certificate and key
}

type logConfig struct {
	Label    string `yaml:"label"` // of the signing key in the token
	Origin   string `yaml:"origin"`
	Verifier string `yaml:"verifier"` // verifier key, as auditors hold it
}

// anchorsConfig says where checkpoints are kept outside the database.
type anchorsConfig struct {
	File       string        `yaml:"file"`  // a file of this host, not in the data directory
	Token      string        `yaml:"token"` // label of a data object; empty for a token that keeps none
	TokenEvery time.Duration `yaml:"tokenEvery"`
}

type witnessConfig struct {
	Name string `yaml:"name"`
	URL  string `yaml:"url"`
	Key  string `yaml:"key"` // verifier key of its cosignatures

	Kind    string `yaml:"kind"`    // empty for a witness with a url, or transit
	Transit string `yaml:"transit"` // MOUNT/KEY of a Transit engine
	Memory  string `yaml:"memory"`  // MOUNT/PATH#FIELD of a KV engine
}

type clientConfig struct {
	ID     string     `yaml:"id"`
	Role   kms.Role   `yaml:"role"`
	Issuer string     `yaml:"issuer"`
	Cards  *cardRange `yaml:"cards"`
	Quota  quota      `yaml:"quota"`
}

// quota is what one client may use; 0 is what everybody may.
type quota struct {
	PerSecond int `yaml:"perSecond"`
	Channels  int `yaml:"channels"`
}

type cardRange struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

type limitsConfig struct {
	Channels          int           `yaml:"channels"`
	AnswerWithin      time.Duration `yaml:"answerWithin"`
	Idle              time.Duration `yaml:"idle"`
	Absolute          time.Duration `yaml:"absolute"`
	RequestsPerSecond int           `yaml:"requestsPerSecond"`
	ImageBytes        int64         `yaml:"imageBytes"`
	Drain             time.Duration `yaml:"drain"` // between SIGTERM and the end of the listener
}

// load reads and checks a configuration file.
func load(path string) (*config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, errUsage{fmt.Errorf("reading the configuration: %w", err)}
	}
	l := channel.DefaultLimits()
	c := &config{Limits: limitsConfig{
		Channels: 100_000, AnswerWithin: l.AnswerWithin, Idle: l.Idle, Absolute: l.Absolute,
		RequestsPerSecond: 5000, ImageBytes: 64 << 20,
	}, Anchors: anchorsConfig{TokenEvery: 10 * time.Second}}
	if err := decode(b, c); err != nil {
		return nil, errUsage{fmt.Errorf("the configuration %s: %w", path, err)}
	}
	if name, ok := strings.CutPrefix(c.Node, "env:"); ok { // pods share a configuration and have names of their own
		c.Node = os.Getenv(name)
	}
	c.sum, c.file = sha256.Sum256(b), path
	c.digest = base64.StdEncoding.EncodeToString(c.sum[:])
	if c.dir, err = filepath.Abs(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, errUsage{fmt.Errorf("the configuration %s:\n%w", path, err)}
	}
	return c, nil
}

// decode reads YAML strictly. The decoder panics on some input that is no YAML.
func decode(b []byte, c *config) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is no YAML: %v", p)
		}
	}()
	return yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(c)
}

func (c *config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// resolve returns the secret that a reference names.
func (c *config) resolve(ref string) (secret.Bytes, error) {
	kind, rest, _ := strings.Cut(ref, ":")
	if kind == "file" {
		rest = c.path(rest)
	}
	if have, ok := c.secrets[kind+":"+rest]; ok {
		return have, nil
	}
	read, err := readSecret(kind, rest)
	if err != nil {
		return secret.Bytes{}, err
	}
	if c.secrets == nil {
		c.secrets = map[string]secret.Bytes{}
	}
	c.secrets[kind+":"+rest] = read
	return read, nil
}

func readSecret(kind, rest string) (secret.Bytes, error) {
	switch kind {
	case "file":
		b, err := os.ReadFile(rest)
		if err != nil {
			return secret.Bytes{}, fmt.Errorf("reading a secret: %w", err)
		}
		return secret.New(bytes.TrimRight(b, "\r\n")), nil
	case "env":
		v, ok := os.LookupEnv(rest)
		if !ok {
			return secret.Bytes{}, fmt.Errorf("the environment variable %s is not set", rest)
		}
		return secret.New([]byte(v)), os.Unsetenv(rest)
	}
	return secret.Bytes{}, errNoReference
}

var errNoReference = errors.New("a secret is a reference: file:PATH or env:NAME, never the value; vault: is for token.pin and database.credentials")

// checkReference refuses what names no secret, and says nothing of it: it may be one.
func checkReference(ref string) error {
	if kind, _, ok := strings.Cut(ref, ":"); !ok || kind != "file" && kind != "env" {
		return errNoReference
	}
	return nil
}

// callers returns the clients by identity.
func (c *config) callers() (map[string]kms.Caller, error) {
	out := map[string]kms.Caller{}
	var wrong []error
	for _, cl := range c.Clients {
		caller, err := cl.caller()
		if caller.RequestsPerSecond == 0 {
			caller.RequestsPerSecond = c.Limits.RequestsPerSecond
		}
		if _, twice := out[cl.ID]; twice || cl.ID == "" {
			err = errors.New("it is named twice or not at all")
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("client %q: %w", cl.ID, err))
		}
		out[cl.ID] = caller
	}
	return out, errors.Join(wrong...)
}

func (cl clientConfig) caller() (kms.Caller, error) {
	caller := kms.Caller{ID: cl.ID, Role: cl.Role, Issuer: cl.Issuer, RequestsPerSecond: cl.Quota.PerSecond, ChannelsMax: cl.Quota.Channels}
	switch {
	case cl.Quota.PerSecond < 0 || cl.Quota.Channels < 0:
		return caller, errors.New("a quota is not negative")
	case !slices.Contains(kms.Roles(), cl.Role):
		return caller, errors.New("no such role")
	case cl.Role == kms.Auditor && cl.Issuer != "":
		return caller, errors.New("the log is one for all issuers, so an auditor is bound to none")
	case cl.Role == kms.UpdateServer && (cl.Issuer == "" || cl.Cards == nil):
		return caller, errors.New("an update server needs an issuer and a card range")
	case cl.Cards == nil:
		return caller, nil
	}
	return caller, cmp.Or(bound(caller.Cards.From[:], cl.Cards.From), bound(caller.Cards.To[:], cl.Cards.To))
}

// clients returns who may call, as the access report shows it.
func (c *config) clients() ([]report.Client, error) {
	callers, err := c.callers()
	var out []report.Client
	for _, id := range slices.Sorted(maps.Keys(callers)) {
		cl := report.Client{ID: id, Role: string(callers[id].Role), Issuer: callers[id].Issuer}
		if callers[id].Role == kms.UpdateServer {
			cl.Cards = fmt.Sprintf("%X-%X", callers[id].Cards.From, callers[id].Cards.To)
		}
		out = append(out, cl)
	}
	return out, err
}

func bound(dst []byte, s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(dst) {
		return fmt.Errorf("a card range is bounded by %d hexadecimal digits", 2*len(dst))
	}
	copy(dst, b)
	return nil
}

func (c *config) releaseKeys() (map[string]map[string]crypto.PublicKey, error) {
	out := map[string]map[string]crypto.PublicKey{}
	var wrong []error
	for _, issuer := range slices.Sorted(maps.Keys(c.ReleaseKeys)) {
		out[issuer] = map[string]crypto.PublicKey{}
		for _, name := range slices.Sorted(maps.Keys(c.ReleaseKeys[issuer])) {
			k, err := publicKey(c.path(c.ReleaseKeys[issuer][name]))
			if err != nil {
				wrong = append(wrong, fmt.Errorf("release key %s of %s: %w", name, issuer, err))
			}
			out[issuer][name] = k
		}
	}
	return out, errors.Join(wrong...)
}

func publicKey(path string) (crypto.PublicKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s holds no PEM public key", path)
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// serviceKeys returns the labels of the service's own keys, by token.
func (c *config) serviceKeys() map[string][]string {
	out := map[string][]string{"": append([]string{c.Log.Label, c.Token.Pseudonym.Label, c.Token.State.Label}, c.Token.KEKs...)}
	for name, t := range c.Tokens {
		out[name] = t.KEKs
	}
	return out
}

// issuers returns the issuers that clients and release keys name.
func (c *config) issuers() []string {
	seen := map[string]bool{}
	var out []string
	add := func(s string) {
		if s != "" && !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	for _, cl := range c.Clients {
		add(cl.Issuer)
	}
	for issuer := range c.ReleaseKeys {
		add(issuer)
	}
	return out
}
