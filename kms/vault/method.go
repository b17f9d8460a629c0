package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/vault/api"

	"cardkms/kms/secret"
)

// Method is a way to log in: *AppRole, *Kubernetes or *Certificate.
type Method interface {
	// login returns the path of a login and what is written there. It may be called
	// again for every login of a client's life.
	login(ctx context.Context, c *Client) (path string, data map[string]any, err error)
}

// AppRole logs in with a secret id that came response-wrapped.
type AppRole struct {
	Mount  string // of the auth method, "approle"
	Role   string // its name, from which the wrapping token must come
	RoleID string
	// Wrapped returns the wrapping token; it is asked once.
	Wrapped func() (secret.Bytes, error)

	secretID secret.Bytes // once opened; owned by whoever holds Client.entering
}

// ErrSpent: the wrapping token is not valid any more, or not of this role. Whoever made
// the secret id did not give it to us alone.
var ErrSpent = errors.New("vault: the wrapped secret id was opened already, expired, or is not of this role: somebody else may have it. Destroy it in Vault, look for its use in Vault's audit log, and deliver a new one")

func (r *AppRole) login(ctx context.Context, c *Client) (string, map[string]any, error) {
	if r.secretID.Len() == 0 {
		if err := r.unwrap(ctx, c); err != nil {
			return "", nil, err
		}
	}
	return "auth/" + r.Mount + "/login", map[string]any{"role_id": r.RoleID, "secret_id": string(r.secretID.Reveal())}, nil
}

// unwrap opens the wrapping token. A Vault that is away changes nothing, unless its answer
// to the opening itself is lost: then the token is spent, and the next look at it says so.
func (r *AppRole) unwrap(ctx context.Context, c *Client) error {
	wrapped, err := r.Wrapped()
	if err != nil {
		return fmt.Errorf("reading the wrapped secret id: %w", err)
	}
	token := string(wrapped.Reveal())
	if token == "" {
		return errors.New("vault: the wrapped secret id is empty; it was not delivered yet")
	}
	// A client of its own: the library makes the wrapping token the token of the client
	// that opens it.
	a, err := c.newAPI("")
	if err != nil {
		return err
	}
	looked, err := a.Logical().WriteWithContext(ctx, "sys/wrapping/lookup", map[string]any{"token": token})
	if err == nil && !r.made(looked) {
		return ErrSpent
	}
	if err != nil {
		return spent(err)
	}
	opened, err := a.Logical().UnwrapWithContext(ctx, token)
	if err != nil {
		return spent(err)
	}
	if opened == nil || opened.Data["secret_id"] == nil {
		return errors.New("vault: the wrapping token holds no secret id")
	}
	id, _ := opened.Data["secret_id"].(string)
	r.secretID = secret.New([]byte(id))
	return nil
}

// spent turns Vault's opinion of a wrapping token into ErrSpent.
func spent(err error) error {
	if answered(err) {
		return fmt.Errorf("%w (%w)", ErrSpent, err)
	}
	return err
}

// made reports whether a wrapping token was made by the path of this role: a token that an
// attacker wrapped himself carries another.
func (r *AppRole) made(looked *api.Secret) bool {
	if looked == nil {
		return false
	}
	path, _ := looked.Data["creation_path"].(string)
	return path == "auth/"+r.Mount+"/role/"+r.Role+"/secret-id"
}

// Kubernetes logs in with the token of a service account.
type Kubernetes struct {
	Mount string // of the auth method, "kubernetes"
	Role  string
	Token string // file, which Kubernetes replaces from time to time
}

func (k *Kubernetes) login(context.Context, *Client) (string, map[string]any, error) {
	jwt, err := os.ReadFile(k.Token)
	if err != nil {
		return "", nil, fmt.Errorf("reading the service account's token: %w", err)
	}
	return "auth/" + k.Mount + "/login", map[string]any{"role": k.Role, "jwt": strings.TrimSpace(string(jwt))}, nil
}

// Certificate logs in with a client certificate.
type Certificate struct {
	Mount string // of the auth method, "cert"
	Role  string
	Cert  string // PEM files, read anew for every connection
	Key   string
}

func (x *Certificate) login(context.Context, *Client) (string, map[string]any, error) {
	// A handshake with a certificate that cannot be read would only say that it failed.
	if _, err := x.load(nil); err != nil {
		return "", nil, err
	}
	return "auth/" + x.Mount + "/login", map[string]any{"name": x.Role}, nil
}

func (x *Certificate) load(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(x.Cert, x.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate to log in with: %w", err)
	}
	return &pair, nil
}
