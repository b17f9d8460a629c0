package server

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"time"
)

// Timeouts of the HTTP server. Streams extend the last one as they go.
const (
	ReadHeaderTimeout = 10 * time.Second
	IdleTimeout       = 2 * time.Minute
	WriteTimeout      = time.Minute
	HeaderBytesMax    = 16 << 10
)

// Certificate returns the server's certificate for a handshake, as tls.Config wants it.
type Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// TLSConfig returns TLS 1.3 with a client certificate of clientCAs required from
// everybody.
func TLSConfig(cert Certificate, clientCAs *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: cert,
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      clientCAs,
		NextProtos:     []string{"h2", "http/1.1"},
	}
}

// HTTPServer returns an http.Server with the limits that the handler relies on.
// Call its ServeTLS with empty file names, and its Shutdown.
func HTTPServer(h http.Handler, c *tls.Config) *http.Server {
	return &http.Server{
		Handler:           h,
		TLSConfig:         c,
		ReadHeaderTimeout: ReadHeaderTimeout,
		IdleTimeout:       IdleTimeout,
		WriteTimeout:      WriteTimeout,
		MaxHeaderBytes:    HeaderBytesMax,
	}
}
