package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"cardkms/kms/secret"
)

// Ref names a field of a secret in a KV engine of version 2.
type Ref struct{ Mount, Path, Field string }

// ParseRef reads MOUNT/PATH#FIELD.
func ParseRef(s string) (Ref, error) {
	where, field, _ := strings.Cut(s, "#")
	mount, path, _ := strings.Cut(where, "/")
	if mount == "" || path == "" || field == "" || strings.ContainsAny(where, "?*+ ") || strings.Contains(where, "..") || strings.Contains(where, "//") {
		return Ref{}, errors.New("a secret of Vault is vault:MOUNT/PATH#FIELD")
	}
	return Ref{mount, path, field}, nil
}

func (r Ref) data() string { return r.Mount + "/data/" + r.Path }

// ErrNotFound: there is no such secret, or no such field in it.
var ErrNotFound = errors.New("vault: no such secret")

// secretBytesMax bounds the answer with a secret.
const secretBytesMax = 64 << 10

// Read returns a field and the version of the secret, which may be logged. The caller
// wipes the field. Of what Vault sent, only the buffers of the connection keep a copy.
func (c *Client) Read(ctx context.Context, r Ref) (value secret.Bytes, version int, err error) {
	err = c.do(ctx, func(ctx context.Context, l *login) error {
		// Not the library's own reader of KV, whose strings nobody can wipe.
		resp, err := l.api.Logical().ReadRawWithContext(ctx, r.data())
		if resp != nil {
			defer func() { _ = resp.Body.Close() }()
		}
		if status(err, http.StatusNotFound) {
			value, err = secret.Bytes{}, nil
			return err
		}
		if err != nil {
			return err
		}
		value, version, err = decode(resp.Body, r.Field)
		return err
	})
	if err == nil && value.Len() == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return secret.Bytes{}, 0, fmt.Errorf("reading %s from Vault: %w", r.data(), err)
	}
	return value, version, nil
}

// decode takes one field out of an answer and wipes the rest.
func decode(body io.Reader, field string) (secret.Bytes, int, error) {
	buffer := make([]byte, secretBytesMax)
	defer clear(buffer)
	n, err := io.ReadFull(body, buffer)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return secret.Bytes{}, 0, errors.New("the answer is empty, too long or broke off")
	}
	var answer struct {
		Data struct {
			Data     map[string]json.RawMessage
			Metadata struct{ Version int }
		}
	}
	if json.Unmarshal(buffer[:n], &answer) != nil { // its error could quote the secret
		return secret.Bytes{}, 0, errors.New("the answer is no secret of a KV engine of version 2")
	}
	defer func() {
		for _, raw := range answer.Data.Data {
			clear(raw)
		}
	}()
	raw := answer.Data.Data[field]
	if raw == nil {
		return secret.Bytes{}, 0, nil
	}
	value, err := jsontext.AppendUnquote(make([]byte, 0, len(raw)), raw)
	if err != nil {
		return secret.Bytes{}, 0, errors.New("the field is no text")
	}
	return secret.New(value), answer.Data.Metadata.Version, nil
}

// Write replaces a secret by one with this field alone, if its version is still the one
// that the caller saw; 0 is for a secret that does not exist.
func (c *Client) Write(ctx context.Context, r Ref, value string, seen int) (version int, err error) {
	err = c.do(ctx, func(ctx context.Context, l *login) error {
		s, err := l.api.Logical().WriteWithContext(ctx, r.data(), map[string]any{
			"data": map[string]any{r.Field: value}, "options": map[string]any{"cas": seen},
		})
		if err != nil {
			return err
		}
		number, ok := s.Data["version"].(json.Number)
		if !ok {
			return errors.New("the answer has no version")
		}
		n, err := number.Int64()
		version = int(n)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("writing %s to Vault: %w", r.data(), err)
	}
	return version, nil
}
