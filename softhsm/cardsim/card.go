package cardsim

import (
	"errors"
	"sync"
)

// ErrTorn is returned by Transmit when the power was cut during the command. The card is off; whether the command took
// effect is not known.
var ErrTorn = errors.New("cardsim: power cut during the command")

// ErrOff is returned by Transmit when the card has no power.
var ErrOff = errors.New("cardsim: card is off")

// ErrMute is returned by Transmit when the boot code found neither a journal nor an intact active image.
var ErrMute = errors.New("cardsim: card does not answer")

// Card is a simulated card.
type Card struct {
	mu     sync.Mutex // guards everything below
	cfg    Config
	layout layout
	nvm    *NVM
	ram    ram
	faults faults

	// answer, when set, replaces the functions of the card: tests inject responses with it.
	answer func(command) (data []byte, sw word)
}

// ram is everything that a reset loses.
type ram struct {
	powered  bool
	mute     bool
	keys     keyring
	pending  *session // after INITIALIZE UPDATE, before EXTERNAL AUTHENTICATE
	session  *session // open Secure Channel Session
	selected application
	fileOpen bool
	pinOK    bool
	chain    chain
	vouching vouching
	held     *heldPackage // package of the journal with its keys
}

// faults are defects that tests build in, to see that the tests find them.
type faults struct {
	markBeforeData   bool
	noReadBack       bool
	noMarkClear      bool
	stateBeforeClear bool
	singleSlot       bool
	noJournalCRC     bool
	writeActiveBank  bool
	counterAtCommit  bool
	noContextCheck   bool
	noSequenceCheck  bool
	noCounterCheck   bool
	noCommitCheck    bool
	noSelfTest       bool
	noRevert         bool
	pinAfterCompare  bool
}

// New makes a card over a memory. A blank memory (see NewNVM) is given its factory contents; nil stands for a blank
// byte-alterable one. The card is off.
func New(cfg Config, nvm *NVM) (*Card, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if nvm == nil {
		nvm = NewNVM(0)
	}
	c := &Card{cfg: cfg, layout: newLayout(cfg, nvm.pageBytes), nvm: nvm}
	if err := c.personalise(); err != nil {
		return nil, err
	}
	return c, nil
}

// NVM returns the card's memory. It may be used only while no command is in progress.
func (c *Card) NVM() *NVM { return c.nvm }

// StagingAddr returns the address of the bank that the next or present update is written to.
func (c *Card) StagingAddr() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	j, _ := c.loadJournal()
	return c.layout.banks[1-j.active]
}

var atr = []byte{0x3B, 0x80, 0x01, 0x81} // T=1 only: no GET RESPONSE, whole answers

// PowerOn starts the card if it is off, and returns its ATR. It returns nil when the power was cut during the boot code, and
// when the card has no image that it could run.
func (c *Card) PowerOn() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ram.powered {
		c.ram = ram{powered: true}
		if err := c.guarded(c.boot); err != nil {
			return nil
		}
	}
	if c.ram.mute {
		return nil
	}
	return append([]byte{}, atr...)
}

// PowerOff removes the power between two commands.
func (c *Card) PowerOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ram = ram{}
}

// Transmit executes one command. It returns the response with its status word, or ErrTorn, ErrOff or ErrMute and no response.
func (c *Card) Transmit(capdu []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.ram.powered:
		return nil, ErrOff
	case c.ram.mute:
		return nil, ErrMute
	}
	var rapdu []byte
	err := c.guarded(func() { rapdu = c.process(capdu) })
	if err != nil {
		return nil, err
	}
	return rapdu, nil
}

// guarded runs f; when the power is cut in it, the volatile state is gone.
func (c *Card) guarded(f func()) (err error) {
	defer func() {
		switch r := recover(); r.(type) {
		case nil:
		case powerCut:
			c.ram = ram{}
			err = ErrTorn
		default:
			panic(r)
		}
	}()
	f()
	return nil
}

// process parses a command, opens its secure messaging, executes it and protects the answer.
func (c *Card) process(capdu []byte) []byte {
	cmd, err := parseCommand(capdu)
	switch {
	case err != nil, cmd.extended && !c.cfg.Extended:
		return response(nil, swLength)
	case cmd.cla&0x40 != 0: // further interindustry values, with another secure messaging bit
		return response(nil, swClass)
	case cmd.cla&0x03 != 0:
		return response(nil, swChannel)
	}
	switch {
	case cmd.cla == 0x80 && cmd.ins == insInitializeUpdate:
		return response(c.initializeUpdate(cmd))
	case cmd.cla == 0x84 && cmd.ins == insExternalAuthenticate:
		return response(nil, c.externalAuthenticate(cmd))
	case cmd.cla == 0x80 && (cmd.ins == insExternalAuthenticate || cmd.ins == insInternalAuthenticate):
		return response(c.agree(cmd))
	case cmd.cla&^0x10 == 0x80 && cmd.ins == insPerformSecurityOperation:
		return response(nil, c.performSecurityOperation(cmd))
	case cmd.cla&claSecured != 0:
		return c.secured(cmd)
	}
	return response(c.execute(cmd, nil))
}

// secured handles a command with secure messaging. An error in it ends the Secure Channel Session and nothing else: the
// update keeps its state (CUP-1, rule C12).
func (c *Card) secured(cmd command) []byte {
	s := c.ram.session
	if s == nil && c.cfg.Legacy.implicit() {
		s = c.initiateImplicitly(cmd)
	}
	if s == nil || s.level == 0 {
		return response(nil, swConditions)
	}
	plain, ok := s.unwrap(cmd, c.cfg.Quirks)
	if !ok {
		c.ram.session = nil
		return response(nil, swSecurity)
	}
	data, sw := c.execute(plain, s)
	return s.wrap(data, sw, c.cfg.Quirks)
}

// Instruction bytes and the secure messaging bit of CLA.
const (
	claSecured = 0x04

	insVerify                   = 0x20
	insPerformSecurityOperation = 0x2A
	insInitializeUpdate         = 0x50
	insExternalAuthenticate     = 0x82 // in the clear: MUTUAL AUTHENTICATE of SCP11
	insInternalAuthenticate     = 0x88
	insSelect                   = 0xA4
	insGenerate                 = 0xAE
	insReadBinary               = 0xB0
	insGetData                  = 0xCA
	insUpdateBinary             = 0xD6
	insPutKey                   = 0xD8
	insDeleteKey                = 0xE4
	insStoreData                = 0xE2
)

// execute runs a command without secure messaging; s is the session that protected it, nil if none did.
func (c *Card) execute(cmd command, s *session) ([]byte, word) {
	if c.answer != nil {
		return c.answer(cmd)
	}
	if cmd.cla&^0x80 != 0 {
		return nil, swClass
	}
	if s != nil && s.agreed && (cmd.ins == insStoreData || cmd.ins == insPutKey || cmd.ins == insDeleteKey) {
		return nil, swConditions
	}
	if cmd.ins == insStoreData && cmd.cla == 0x80 {
		return nil, c.storeData(cmd, s)
	}
	c.ram.chain = chain{} // a STORE DATA chain is not interrupted by other commands
	switch {
	case cmd.ins == insGetData:
		return c.getData(cmd, s)
	case cmd.cla == 0x00 && cmd.ins == insSelect:
		return c.selectName(cmd)
	case cmd.cla == 0x00 && cmd.ins == insReadBinary:
		return c.readBinary(cmd)
	case cmd.cla == 0x00 && cmd.ins == insUpdateBinary:
		return nil, c.updateBinary(cmd)
	case cmd.cla == 0x00 && cmd.ins == insVerify:
		return nil, c.verify(cmd)
	case cmd.cla == 0x80 && cmd.ins == insPutKey:
		return c.putKey(cmd, s)
	case cmd.cla == 0x80 && cmd.ins == insDeleteKey:
		return c.deleteKey(cmd, s)
	case cmd.cla == 0x80 && cmd.ins == insGenerate:
		return c.generate()
	}
	return nil, swInstruction
}
