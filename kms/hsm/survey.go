package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"cardkms/kms/fault"
)

// Survey is what a look at every key object of the token found.
type Survey struct {
	// Foreign are the labels of objects that are not ours and do no harm, sorted.
	Foreign []string
	// Dangers say what is wrong with which object, sorted.
	Dangers []string
}

// Err refuses a token with dangerous objects; nil if there are none.
func (s Survey) Err() error {
	if len(s.Dangers) == 0 {
		return nil
	}
	return fault.New(fault.KeyState, "the token holds dangerous objects: "+strings.Join(s.Dangers, "; "))
}

// surveyRoles are the uses of which one object may have one. Verification is left
// out: it gives nothing away.
var surveyRoles = []struct {
	name string
	attr uint
}{
	{"wrap", pkcs11.CKA_WRAP}, {"unwrap", pkcs11.CKA_UNWRAP}, {"encrypt", pkcs11.CKA_ENCRYPT},
	{"decrypt", pkcs11.CKA_DECRYPT}, {"sign", pkcs11.CKA_SIGN}, {"derive", pkcs11.CKA_DERIVE},
}

// Survey looks at every private and secret key that lives in the token, whoever made
// it. An object with two uses, or that can be changed or taken out, or that has the
// label of one of ours a second time is a danger: with the PIN it is a way to the
// other keys ([Clulow] Clulow, On the Security of PKCS #11, CHES 2003). ours are the
// labels that the service knows. That ours are what they should be is for Check.
func (t *Token) Survey(ctx context.Context, ours []string) (Survey, error) {
	out, err := answerWithin(ctx, t, t.slowly(), nil, func(_ context.Context, s pkcs11.SessionHandle, _ *object) (out Survey, err error) {
		count := map[string]int{}
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY} {
			hs, err := t.findUpTo(s, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			}, labelsMax)
			if err != nil {
				return out, err
			}
			for _, h := range hs {
				label, wrong, err := t.survey(s, h)
				if err != nil {
					return out, err
				}
				count[label]++
				switch {
				case wrong != "":
					out.Dangers = append(out.Dangers, fmt.Sprintf("%q %s", label, wrong))
				case slices.Contains(ours, label) && count[label] == 2:
					out.Dangers = append(out.Dangers, fmt.Sprintf("%q is there more than once", label))
				case !slices.Contains(ours, label):
					out.Foreign = append(out.Foreign, label)
				}
			}
		}
		return out, nil
	})
	slices.Sort(out.Foreign)
	slices.Sort(out.Dangers)
	return out, err
}

// survey returns what is wrong with one object, "" if nothing is.
func (t *Token) survey(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (label, wrong string, err error) {
	got, err := t.ctx.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
	if err != nil {
		return "", "", failed("C_GetAttributeValue", err)
	}
	label = string(got[0].Value)
	has := func(attr uint) bool {
		var is bool
		if err == nil {
			is, err = t.flag(s, h, attr)
		}
		return is
	}
	var why, roles []string
	if !has(pkcs11.CKA_SENSITIVE) {
		why = append(why, "is not sensitive")
	}
	if has(pkcs11.CKA_EXTRACTABLE) {
		why = append(why, "is extractable")
	}
	if has(pkcs11.CKA_MODIFIABLE) {
		why = append(why, "is modifiable")
	}
	for _, r := range surveyRoles {
		if has(r.attr) {
			roles = append(roles, r.name)
		}
	}
	if len(roles) > 1 {
		why = append(why, "may "+strings.Join(roles, " and "))
	}
	return label, strings.Join(why, ", "), err
}

// flag reads a boolean attribute. One that this type of key does not have is false.
func (t *Token) flag(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, attr uint) (bool, error) {
	got, err := t.ctx.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(attr, nil)})
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)) {
		return false, nil
	}
	if err != nil {
		return false, failed("C_GetAttributeValue", err)
	}
	return len(got[0].Value) == 1 && got[0].Value[0] != 0, nil
}
