package hsm

import (
	"fmt"

	"github.com/miekg/pkcs11"

	"cardkms/kms/secret"
)

// Format initialises the first uninitialised slot of a module as a token with
// this label and PINs. It is for ceremonies and throw-away tokens: it must run
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
	slot, err := emptySlot(c)
	if err != nil {
		return err
	}
	if err := c.InitToken(slot, string(soPIN.Reveal()), label); err != nil {
		return failed("C_InitToken", err)
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
