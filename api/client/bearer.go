package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
)

// bearerBytesMax bounds the file of a bearer token: the service takes 16 KiB of headers.
const bearerBytesMax = 12 << 10

// bearerForm is b64token, [RFC 6750], Section 2.1: The OAuth 2.0 Authorization Framework:
// Bearer Token Usage.
var bearerForm = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// readBearer reads the bearer token that is all there is in a file, but for white space
// around it. No error repeats anything of the file.
func readBearer(path string) (string, error) {
	// Without O_NONBLOCK a pipe would be waited for before it is refused.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("client: reading the bearer token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of what is read, whatever the path names by now
	if err != nil {
		return "", fmt.Errorf("client: reading the bearer token: %w", err)
	}
	wrong := func(what string) error { return errors.New("client: the bearer token's file " + path + " " + what) }
	switch {
	case !info.Mode().IsRegular():
		return "", wrong("is no regular file")
	case info.Mode().Perm()&0o077 != 0:
		return "", wrong("is open to others than its owner; chmod 600 makes it right")
	}
	b, err := io.ReadAll(io.LimitReader(f, bearerBytesMax+1))
	if err != nil {
		return "", fmt.Errorf("client: reading the bearer token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(b) > bearerBytesMax || !bearerForm.MatchString(token) {
		return "", wrong(fmt.Sprintf("holds something else than one bearer token of at most %d bytes", bearerBytesMax))
	}
	return token, nil
}
