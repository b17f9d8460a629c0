package hsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"cardkms/kms/secret"
)

// Format initialises the first uninitialised slot of a module as a token with
// this label and PINs. A token of this label without a User PIN is one that an
// attempt which broke off left, and gets its PIN. It is for ceremonies and throw-away tokens: it must run
// before Open, in a process that has no Token of the module.
func Format(module, label string, soPIN, userPIN secret.Bytes) error {
	c := pkcs11.New(module)
	if c == nil {
		return fmt.Errorf("hsm: %s cannot be loaded as a PKCS#11 module", module)
	}
	defer c.Destroy()
	if err := initialize(c, ""); err != nil {
		return err
	}
	defer func() { _ = c.Finalize() }()
	slot, err := findSlot(c, label)
	if errors.Is(err, errNoToken) {
		if slot, err = emptySlot(c); err == nil {
			err = failed("C_InitToken", c.InitToken(slot, string(soPIN.Reveal()), label))
		}
	} else if err == nil && hasPIN(c, slot) {
		err = fmt.Errorf("hsm: there is a token labelled %q", label)
	}
	if err != nil {
		return err
	}
	s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return failed("C_OpenSession", err)
	}
	if err := c.Login(s, pkcs11.CKU_SO, string(soPIN.Reveal())); err != nil {
		return failed("C_Login", err)
	}
	return failed("C_InitPIN", c.InitPIN(s, string(userPIN.Reveal())))
}

// hasPIN reports whether the User PIN of a token was set.
func hasPIN(c *pkcs11.Ctx, slot uint) bool {
	info, err := c.GetTokenInfo(slot)
	return err == nil && info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED != 0
}

// Exists reports whether a module has a token of this label that Format finished. Like
// Format it must run in a process that has no Token of the module.
func Exists(module, label string) (bool, error) {
	c := pkcs11.New(module)
	if c == nil {
		return false, fmt.Errorf("hsm: %s cannot be loaded as a PKCS#11 module", module)
	}
	defer c.Destroy()
	if err := initialize(c, ""); err != nil {
		return false, err
	}
	defer func() { _ = c.Finalize() }()
	slot, err := findSlot(c, label)
	if errors.Is(err, errNoToken) {
		return false, nil
	}
	return err == nil && hasPIN(c, slot), err
}

func emptySlot(c *pkcs11.Ctx) (uint, error) {
	slots, err := c.GetSlotList(true)
	if err != nil {
		return 0, failed("C_GetSlotList", err)
	}
	for _, s := range slots {
		info, err := c.GetTokenInfo(s)
		if err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			return s, nil
		}
	}
	return 0, fmt.Errorf("hsm: the module has no slot with an uninitialised token")
}
