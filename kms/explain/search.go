package explain

import (
	"context"
	"errors"
	"slices"
	"strings"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// first returns the first of some hypotheses that try accepts. try returns the words
// in which it differs from what the service expects. A key whose token is away keeps
// nobody from finding an explanation under another key, but from saying that there is none.
// A token that hangs ends the search: each try would take a session of it.
func first[H any](all []H, try func(H) (found bool, words []string, err error)) (Explanation, error) {
	var away error
	for _, h := range all {
		found, words, err := try(h)
		switch code := fault.CodeOf(err); {
		case code == fault.TokenUnable:
		case code == fault.TokenUnavailable && !errors.Is(err, context.DeadlineExceeded):
			away = err
		case err != nil:
			return "", err
		case found && len(words) == 0:
			return foundRight, nil
		case found:
			return Explanation(strings.Join(words, "/")), nil
		}
	}
	if away != nil {
		return "", away
	}
	return foundNothing, nil
}

// searchable reports whether the objects of a key version are there to search under.
func searchable(v key.Version) bool { return v.State != key.Destroyed && !v.Destroying }

// verified turns the answer of a proof into whether it verified.
func verified(err error) (bool, error) {
	if fault.CodeOf(err) == fault.ProofFailed {
		return false, nil
	}
	return err == nil, err
}

// tdea returns a token that computes what cards with 3DES keys compute.
func tdea(t derive.Token) (derive.TDEAToken, error) {
	able, ok := t.(derive.TDEAToken)
	if !ok {
		return nil, fault.New(fault.TokenUnable, "the token computes no retail MAC")
	}
	return able, nil
}

// only reports whether there are no other parameters than these.
func only(params map[string]string, names ...string) bool {
	for name := range params {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}
