package hsm

import (
	"sync"

	"github.com/miekg/pkcs11"
)

// Results are what Call.Result may be: "ok", or what had to be done about it.
func Results() []string {
	return []string{"ok", "session", "handle", "lost", "pin", "unable", "error"}
}

// Call names PKCS#11 calls that are counted together.
type Call struct {
	Function string // e.g. "C_DeriveKey"
	// Result is one of Results: "session" (it was spoilt), "handle" (it was stale), "lost"
	// (library or token), "pin" (refused), "unable" (the token cannot do this), "error".
	Result string
}

// counted is a PKCS#11 library that counts the calls of one token. It does not embed the
// library, so that a call which is not counted does not compile.
type counted struct {
	lib *pkcs11.Ctx
	mu  sync.Mutex
	n   map[Call]uint64 // guarded by mu
}

func newCounted(lib *pkcs11.Ctx) *counted { return &counted{lib: lib, n: map[Call]uint64{}} }

// count counts a call and returns its error.
func (c *counted) count(function string, err error) error {
	call := Call{Function: function, Result: resultOf(failed(function, err))}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[call]++
	return err
}

func resultOf(err error) string {
	switch remedyFor(err) {
	case newSession:
		return "session"
	case findAgain:
		return "handle"
	case reconnect:
		return "lost"
	case stop:
		return "pin"
	}
	switch {
	case err == nil:
		return "ok"
	case unable(err):
		return "unable"
	}
	return "error"
}

func (c *counted) GetInfo() (pkcs11.Info, error) {
	out, err := c.lib.GetInfo()
	return out, c.count("C_GetInfo", err)
}

func (c *counted) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	out, err := c.lib.GetTokenInfo(slot)
	return out, c.count("C_GetTokenInfo", err)
}

func (c *counted) GetMechanismList(slot uint) ([]*pkcs11.Mechanism, error) {
	out, err := c.lib.GetMechanismList(slot)
	return out, c.count("C_GetMechanismList", err)
}

func (c *counted) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	out, err := c.lib.OpenSession(slot, flags)
	return out, c.count("C_OpenSession", err)
}

func (c *counted) CloseSession(s pkcs11.SessionHandle) error {
	return c.count("C_CloseSession", c.lib.CloseSession(s))
}

func (c *counted) CloseAllSessions(slot uint) error {
	return c.count("C_CloseAllSessions", c.lib.CloseAllSessions(slot))
}

func (c *counted) GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error) {
	out, err := c.lib.GetSessionInfo(s)
	return out, c.count("C_GetSessionInfo", err)
}

func (c *counted) Login(s pkcs11.SessionHandle, user uint, pin string) error {
	return c.count("C_Login", c.lib.Login(s, user, pin))
}

func (c *counted) CreateObject(s pkcs11.SessionHandle, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	out, err := c.lib.CreateObject(s, t)
	return out, c.count("C_CreateObject", err)
}

func (c *counted) DestroyObject(s pkcs11.SessionHandle, h pkcs11.ObjectHandle) error {
	return c.count("C_DestroyObject", c.lib.DestroyObject(s, h))
}

func (c *counted) GetAttributeValue(s pkcs11.SessionHandle, h pkcs11.ObjectHandle, t []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	out, err := c.lib.GetAttributeValue(s, h, t)
	return out, c.count("C_GetAttributeValue", err)
}

func (c *counted) FindObjectsInit(s pkcs11.SessionHandle, t []*pkcs11.Attribute) error {
	return c.count("C_FindObjectsInit", c.lib.FindObjectsInit(s, t))
}

func (c *counted) FindObjectsFinal(s pkcs11.SessionHandle) error {
	return c.count("C_FindObjectsFinal", c.lib.FindObjectsFinal(s))
}

func (c *counted) EncryptInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h pkcs11.ObjectHandle) error {
	return c.count("C_EncryptInit", c.lib.EncryptInit(s, m, h))
}

func (c *counted) Encrypt(s pkcs11.SessionHandle, data []byte) ([]byte, error) {
	out, err := c.lib.Encrypt(s, data)
	return out, c.count("C_Encrypt", err)
}

func (c *counted) DecryptInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h pkcs11.ObjectHandle) error {
	return c.count("C_DecryptInit", c.lib.DecryptInit(s, m, h))
}

func (c *counted) Decrypt(s pkcs11.SessionHandle, data []byte) ([]byte, error) {
	out, err := c.lib.Decrypt(s, data)
	return out, c.count("C_Decrypt", err)
}

func (c *counted) SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, h pkcs11.ObjectHandle) error {
	return c.count("C_SignInit", c.lib.SignInit(s, m, h))
}

func (c *counted) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	out, err := c.lib.Sign(s, message)
	return out, c.count("C_Sign", err)
}

func (c *counted) GenerateKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	out, err := c.lib.GenerateKey(s, m, t)
	return out, c.count("C_GenerateKey", err)
}

func (c *counted) WrapKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, by, h pkcs11.ObjectHandle) ([]byte, error) {
	out, err := c.lib.WrapKey(s, m, by, h)
	return out, c.count("C_WrapKey", err)
}

func (c *counted) UnwrapKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, by pkcs11.ObjectHandle, wrapped []byte, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	out, err := c.lib.UnwrapKey(s, m, by, wrapped, t)
	return out, c.count("C_UnwrapKey", err)
}

func (c *counted) DeriveKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, base pkcs11.ObjectHandle, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	out, err := c.lib.DeriveKey(s, m, base, t)
	return out, c.count("C_DeriveKey", err)
}

func (c *counted) GenerateRandom(s pkcs11.SessionHandle, n int) ([]byte, error) {
	out, err := c.lib.GenerateRandom(s, n)
	return out, c.count("C_GenerateRandom", err)
}

func (c *counted) FindObjects(s pkcs11.SessionHandle, n int) ([]pkcs11.ObjectHandle, bool, error) {
	out, more, err := c.lib.FindObjects(s, n)
	return out, more, c.count("C_FindObjects", err)
}

func (c *counted) GenerateKeyPair(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, public, private []*pkcs11.Attribute) (pkcs11.ObjectHandle, pkcs11.ObjectHandle, error) {
	pub, priv, err := c.lib.GenerateKeyPair(s, m, public, private)
	return pub, priv, c.count("C_GenerateKeyPair", err)
}
