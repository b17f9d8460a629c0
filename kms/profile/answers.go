package profile

import (
	"strings"

	"cardkms/derive/diversify"
	"cardkms/kms/apdu"
	"cardkms/kms/key"
)

// Answer is a known answer: a card with test keys, and what it says and is sent. The
// keys are public, and Prove refuses those that a service uses.
type Answer struct {
	Name, Source string
	Master       *TestMaster // or Keys
	Keys         *Three      // of the card itself
	KDD          []byte      // with Master
	CheckValues  *CheckValues
	Session      *Session
	PutKey       *PutKey
	Agreement    *Agreement // under SCP11, in the place of all that
}

// TestMaster is a master key that anybody may know.
type TestMaster struct {
	Algorithm key.Algorithm
	Value     []byte
}

// Three are K-ENC, K-MAC and K-DEK.
type Three [3][]byte

// CheckValues are those of K-ENC, K-MAC and K-DEK, by the method of their algorithm.
type CheckValues [3]string

// Session is the beginning of a Secure Channel Session at the level of the profile.
type Session struct {
	HostChallenge        []byte
	Answer               []byte // to INITIALIZE UPDATE, without its status word
	ExternalAuthenticate apdu.Command
	Commands             []Exchange
}

// Exchange is a command and its secured form.
type Exchange struct{ Plain, Secured apdu.Command }

// PutKey is what replaces the keys of the card.
type PutKey struct {
	KVN  byte
	Keys Three
	Data []byte // data field: KVN and three key blocks
}

// answers reads the known answers.
func (d document) answers(p *Profile, wrong *Problems) {
	if len(d.KnownAnswers) > answersMax {
		wrong.add("there are at most %d known answers", answersMax)
		return
	}
	seen, derived := map[string]bool{}, false
	for _, one := range d.KnownAnswers {
		if !key.ValidName(one.Name) || seen[one.Name] || one.Source == "" {
			wrong.add("each known answer has a name of its own and a source")
			continue
		}
		seen[one.Name] = true
		var here Problems
		a := one.answer(*p, &here)
		for _, w := range here {
			wrong.add("known answer %s: %s", one.Name, w)
		}
		derived = derived || a.Master != nil && a.CheckValues != nil
		p.Answers = append(p.Answers, a)
	}
	if strings.Contains(d.Keys.Diversification, ":") && !derived {
		wrong.add("a diversification by a template needs a known answer with testMaster and checkValues: nothing else says that it is the one of the cards")
	}
}

func (d answerDocument) answer(p Profile, wrong *Problems) Answer {
	a := Answer{Name: d.Name, Source: d.Source}
	if p.Agreed() || d.Agreement != nil {
		a.Agreement = d.agreement(p, wrong)
		return a
	}
	d.keys(&a, p, wrong)
	if d.CheckValues != nil {
		a.CheckValues = &CheckValues{d.CheckValues.ENC, d.CheckValues.MAC, d.CheckValues.DEK}
		for _, v := range a.CheckValues {
			if len(octets(wrong, "checkValues", v)) != 3 || strings.ToUpper(v) != v {
				wrong.add("checkValues are three upper-case bytes each, of enc, mac and dek")
			}
		}
	}
	if d.Session != nil {
		a.Session = d.session(a, p, wrong)
	}
	if d.PutKey != nil {
		a.PutKey = d.putKey(p, wrong)
	}
	if p.Implicit() && (d.Session != nil || d.PutKey != nil) {
		wrong.add("session and putKey begin with INITIALIZE UPDATE, which cards of i 1A do not know")
	}
	if a.CheckValues == nil && a.Session == nil && a.PutKey == nil {
		wrong.add("it answers nothing: it has checkValues, session or putKey")
	}
	return a
}

// keys reads the test keys: of the card, or the master that they come from.
func (d answerDocument) keys(a *Answer, p Profile, wrong *Problems) {
	diversified := p.Keys.Diversification != diversify.None
	if (d.TestMaster == nil) == (d.TestKeys == nil) || d.TestMaster != nil && !diversified {
		wrong.add("its keys are testKeys, or testMaster where they are diversified")
		return
	}
	if d.TestKeys != nil {
		a.Keys = d.TestKeys.three(p.Keys.Algorithm, "testKeys", wrong)
		if d.KDD != "" {
			wrong.add("kdd is of testMaster")
		}
		return
	}
	m := TestMaster{key.Algorithm(d.TestMaster.Algorithm), octets(wrong, "testMaster.value", d.TestMaster.Value)}
	if len(m.Value) != m.Algorithm.Size() || len(m.Value) == 0 {
		wrong.add("testMaster has an algorithm, and a value of its length")
	} else if err := diversify.Fits(p.Keys.Diversification, m.Algorithm, p.Keys.Algorithm); err != nil {
		wrong.add("testMaster: %v", err)
	}
	a.Master = &m
	if a.KDD = octets(wrong, "kdd", d.KDD); len(a.KDD) != diversify.KDDBytes {
		wrong.add("testMaster needs a kdd of %d bytes", diversify.KDDBytes)
	}
}

func (d threeDocument) three(a key.Algorithm, field string, wrong *Problems) *Three {
	out := Three{octets(wrong, field+".enc", d.ENC), octets(wrong, field+".mac", d.MAC), octets(wrong, field+".dek", d.DEK)}
	for _, v := range out {
		if len(v) != a.Size() {
			wrong.add("%s are enc, mac and dek, each of %s", field, a)
			break
		}
	}
	return &out
}

func (d answerDocument) session(a Answer, p Profile, wrong *Problems) *Session {
	out := &Session{
		HostChallenge:        octets(wrong, "session.hostChallenge", d.Session.HostChallenge),
		Answer:               octets(wrong, "session.answer", d.Session.Answer),
		ExternalAuthenticate: command(wrong, "session.externalAuthenticate", d.Session.ExternalAuthenticate),
	}
	if len(out.HostChallenge) != int(p.Mode) {
		wrong.add("session.hostChallenge has %d bytes, as i says", int(p.Mode))
	}
	if a.KDD != nil && !strings.HasPrefix(string(out.Answer), string(a.KDD)) {
		wrong.add("session.answer begins with another kdd")
	}
	if len(d.Session.Commands) > commandsMax {
		wrong.add("session.commands are at most %d", commandsMax)
		return out
	}
	for _, c := range d.Session.Commands {
		out.Commands = append(out.Commands, Exchange{command(wrong, "plain", c.Plain), command(wrong, "secured", c.Secured)})
	}
	return out
}

func command(wrong *Problems, field, s string) apdu.Command {
	c, err := apdu.ParseCommand(octets(wrong, field, s))
	if err != nil {
		wrong.add("%s is a command APDU", field)
	}
	return c
}

func (d answerDocument) putKey(p Profile, wrong *Problems) *PutKey {
	out := &PutKey{KVN: octet(wrong, "putKey.kvn", d.PutKey.KVN), Data: octets(wrong, "putKey.data", d.PutKey.Data)}
	out.Keys = *d.PutKey.TestKeys.three(p.Keys.Algorithm, "putKey.testKeys", wrong)
	if p.Legacy() && d.Session == nil {
		wrong.add("putKey needs a session under scp02: its key encrypts the new ones")
	}
	if p.Keys.Diversification == diversify.None {
		wrong.add("putKey: keys that are not derived for each card cannot be replaced")
	}
	return out
}
