package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"

	"cardkms/kms/fault"
)

// document is a profile as it is written. Bytes are in hexadecimal, in quotes: YAML
// takes 55 for a number.
type document struct {
	Name      string       `yaml:"name"`
	Protocol  string       `yaml:"protocol"`
	I         string       `yaml:"i"`
	AID       string       `yaml:"aid"`
	Level     string       `yaml:"level"`
	Keys      keysDocument `yaml:"keys"`
	PutKey    string       `yaml:"putKey"`
	Suite     string       `yaml:"suite"`
	ChunkSize int          `yaml:"chunkSize"`
	Extended  bool         `yaml:"extendedLength"`
	Quirks    struct {
		PadEmpty  bool `yaml:"padEmptyCommands"`
		SkipEmpty bool `yaml:"skipEmptyCommands"`
	} `yaml:"quirks"`
	Certificates struct {
		Trusted   string `yaml:"trusted"` // PEM
		Host      string `yaml:"host"`    // PEM
		Authority *struct {
			KVN string `yaml:"kvn"`
			KID string `yaml:"kid"`
		} `yaml:"authority"`
	} `yaml:"certificates"`
	Attempts     *int             `yaml:"attempts"`
	KnownAnswers []answerDocument `yaml:"knownAnswers"`
}

type keysDocument struct {
	Algorithm       string `yaml:"algorithm"`
	Diversification string `yaml:"diversification"`
	KVN             struct {
		From string `yaml:"from"`
		To   string `yaml:"to"`
	} `yaml:"kvn"`
}

type answerDocument struct {
	Name       string `yaml:"name"`
	Source     string `yaml:"source"`
	TestMaster *struct {
		Algorithm string `yaml:"algorithm"`
		Value     string `yaml:"value"`
	} `yaml:"testMaster"`
	TestKeys    *threeDocument `yaml:"testKeys"`
	KDD         string         `yaml:"kdd"`
	CheckValues *threeDocument `yaml:"checkValues"`
	Session     *struct {
		HostChallenge        string `yaml:"hostChallenge"`
		Answer               string `yaml:"answer"`
		ExternalAuthenticate string `yaml:"externalAuthenticate"`
		Commands             []struct {
			Plain   string `yaml:"plain"`
			Secured string `yaml:"secured"`
		} `yaml:"commands"`
	} `yaml:"session"`
	PutKey *struct {
		KVN      string        `yaml:"kvn"`
		TestKeys threeDocument `yaml:"testKeys"`
		Data     string        `yaml:"data"`
	} `yaml:"putKey"`
	Agreement *struct {
		Ephemeral    string `yaml:"testEphemeral"`
		Static       string `yaml:"testStatic"`
		Card         string `yaml:"card"`
		Authenticate string `yaml:"authenticate"`
		Answer       string `yaml:"answer"`
		Commands     []struct {
			Plain   string `yaml:"plain"`
			Secured string `yaml:"secured"`
		} `yaml:"commands"`
	} `yaml:"agreement"`
}

type threeDocument struct {
	ENC string `yaml:"enc"`
	MAC string `yaml:"mac"`
	DEK string `yaml:"dek"`
}

// Problems are all that is wrong with a document.
type Problems []string

// Error joins them in one line.
func (p Problems) Error() string { return strings.Join(p, "; ") }

func (p *Problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// err is fault.InvalidInput with all problems as its detail; nil for none.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return fault.Because(fault.InvalidInput, "the card profile: "+p.Error(), p)
}

// Parse reads and checks a document. All that is wrong with it is one fault.InvalidInput
// that wraps Problems.
func Parse(b []byte) (p Profile, err error) {
	if len(b) > DocumentBytesMax {
		return p, fault.New(fault.TooLarge, fmt.Sprintf("a card profile has at most %d bytes", DocumentBytesMax))
	}
	var d document
	if err := decode(b, &d); err != nil {
		// The decoder's words repeat what stands in the document, which may be anything.
		return p, fault.Because(fault.InvalidInput, "the card profile is no YAML of the form that deploy/profiles/README.md explains", Problems{err.Error()})
	}
	var wrong Problems
	p = d.profile(&wrong)
	return p, wrong.err()
}

// decode reads YAML strictly. goccy/go-yaml 1.19.2 panics on some input that is no YAML.
func decode(b []byte, d *document) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("it is no YAML of the form that deploy/profiles/README.md explains")
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict())
	if err := dec.Decode(d); err != nil {
		return errors.New(yaml.FormatError(err, false, false))
	}
	var more any
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one YAML document; nobody would read the others")
	}
	return nil
}
