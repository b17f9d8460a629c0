package main

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"cardkms/audit"
	"cardkms/audit/witness"
	"cardkms/kms/ledger"
)

// witnessTimeout bounds one request to a witness, beside the ledger's own bound.
const witnessTimeout = 5 * time.Second

// witnesses returns the connections to the configured witnesses that have a url; those
// of Vault need a login first, and are only checked.
func (c *config) witnesses() ([]ledger.Witness, error) {
	seen := map[string]bool{}
	var out []ledger.Witness
	for _, w := range c.Witnesses {
		if w.Name == "" || seen[w.Name] {
			return nil, fmt.Errorf("witness %q is named twice or not at all", w.Name)
		}
		seen[w.Name] = true
		if w.Kind == transitKind {
			if _, _, _, err := w.transit(); err != nil {
				return nil, fmt.Errorf("witness %s: %w", w.Name, err)
			}
			continue
		}
		if w.Kind != "" || w.Transit != "" || w.Memory != "" {
			return nil, fmt.Errorf("witness %s: kind is transit or empty, and transit and memory belong to kind transit", w.Name)
		}
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !net.ParseIP(u.Hostname()).IsLoopback()) {
			return nil, fmt.Errorf("witness %s: url is https://HOST, or http://127.0.0.1:PORT: whoever can answer in its place could stop the service", w.Name)
		}
		v, err := audit.NewVerifier(w.Key)
		if err != nil || !audit.IsCosigner(v) {
			return nil, fmt.Errorf("witness %s: key is the verifier key that \"cardkms witness init\" printed", w.Name)
		}
		client := &witness.Client{URL: w.URL, Verifier: v, HTTP: &http.Client{Timeout: witnessTimeout}}
		out = append(out, ledger.Witness{Name: w.Name, Cosigner: client})
	}
	return out, nil
}
