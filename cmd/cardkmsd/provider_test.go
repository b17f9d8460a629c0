package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// providerVariable makes the test binary an OpenID provider with its files in the
// directory that it names.
const providerVariable = "CARDKMSD_TEST_PROVIDER"

// provider is an OpenID provider: discovery, keys, and tokens for whoever asks.
type provider struct {
	issuer string
	mu     sync.Mutex
	keys   []jose.JSONWebKey // the last one signs; guarded by mu
}

// runProvider serves until it is killed. It prints its address.
func runProvider(dir string) error {
	ca, err := newDevCA(dir)
	if err != nil {
		return err
	}
	if err := ca.server(); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p := &provider{issuer: "https://" + l.Addr().String()}
	p.rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.issuer, "jwks_uri": p.issuer + "/keys", "authorization_endpoint": p.issuer + "/authorize", "token_endpoint": p.issuer + "/token",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		var public jose.JSONWebKeySet
		for _, k := range p.keys {
			public.Keys = append(public.Keys, k.Public())
		}
		_ = json.NewEncoder(w).Encode(public)
	})
	mux.HandleFunc("GET /rotate", func(http.ResponseWriter, *http.Request) { p.rotate() })
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, p.token(r)) })
	fmt.Println(p.issuer)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	return srv.ServeTLS(l, filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
}

// rotate makes a key that signs from now on, and forgets those before.
func (p *provider) rotate() {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = []jose.JSONWebKey{{Key: k, KeyID: rand.Text(), Algorithm: "ES256", Use: "sig"}}
}

// token signs an ID token as a request asks: sub, and what is to be wrong with it.
func (p *provider) token(r *http.Request) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	claims := map[string]any{"iss": p.issuer, "aud": "cardkms", "sub": r.FormValue("sub"), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	key, alg := p.keys[len(p.keys)-1], jose.ES256
	switch r.FormValue("wrong") {
	case "audience":
		claims["aud"] = "another"
	case "issuer":
		claims["iss"] = "https://another.example"
	case "expired":
		claims["exp"] = now.Add(-time.Minute).Unix()
	case "not yet":
		claims["nbf"] = now.Add(time.Hour).Unix()
	case "key":
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		key.Key = other
	case "secret": // the public key, taken for a secret of HMAC
		b, err := key.Public().MarshalJSON()
		if err != nil {
			panic(err)
		}
		key, alg = jose.JSONWebKey{Key: b, KeyID: key.KeyID}, jose.HS256
	case "none":
		b, _ := json.Marshal(claims)
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(b) + "."
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		panic(err)
	}
	b, _ := json.Marshal(claims)
	signed, err := signer.Sign(b)
	if err != nil {
		panic(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return text
}

// providerMain is the child's main.
func providerMain() {
	fmt.Fprintln(os.Stderr, runProvider(os.Getenv(providerVariable)))
	os.Exit(1)
}
