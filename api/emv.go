package api

// EMVTransaction is what a card and its terminal said in one transaction. The card
// is named in the body only, so that no proxy's log holds a PAN.
type EMVTransaction struct {
	Profile string  `json:"profile" enum:"visa-10,visa-18,visa-22,mchip-16,mchip-17,mchip-20,mchip-21,interac-133,ccd-5,aes-c" doc:"Scheme and cryptogram version number, in decimal; Visa's 22 is 0x22. ccd-5 (3DES) and aes-c (option C under AES, version 6) are of the Common Core Definitions, with scripts in Format 1: experimental and off by default."`
	Key     string  `json:"key" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of the emv-ac key."`
	DKI     HexByte `json:"dki" format:"hex" minLength:"2" maxLength:"2" example:"01" doc:"Derivation key index: which version of the keys the card carries."`
	PAN     string  `json:"pan" pattern:"^[0-9]{12,19}$" doc:"Primary account number."`
	PSN     string  `json:"psn,omitempty" pattern:"^[0-9]{2}$" doc:"PAN sequence number; absent for none."`
	ATC     Hex     `json:"atc" format:"hex" minLength:"4" maxLength:"4" example:"001C" doc:"Application transaction counter."`
	UN      Hex     `json:"unpredictableNumber,omitempty" format:"hex" minLength:"8" maxLength:"8" doc:"For profiles whose session keys follow from it."`
	Data    Hex     `json:"data" format:"hex" minLength:"2" maxLength:"2048" doc:"What the cryptogram covers, in the scheme's order, without padding."`
	ARQC    Hex     `json:"arqc" format:"hex" minLength:"16" maxLength:"16" doc:"The cryptogram: the ARQC, or the TC or AAC of a transaction that stayed offline; one for each ATC, in their order."`
}

// EMVDecision is a transaction with the issuer's decision.
type EMVDecision struct {
	EMVTransaction
	Code        Hex `json:"code" format:"hex" minLength:"4" maxLength:"8" example:"3030" doc:"Authorisation response code (2 bytes) under method 1, card status update (4) under method 2."`
	Proprietary Hex `json:"proprietary,omitempty" format:"hex" maxLength:"16" doc:"Proprietary authentication data, method 2 only."`
}

// EMVVerified is a cryptogram that verified; one that did not is proof_failed.
type EMVVerified struct {
	Verified bool `json:"verified"`
}

// EMVResponse is the answer to an ARQC.
type EMVResponse struct {
	ARPC Hex `json:"arpc" format:"hex" doc:"8 bytes under method 1, 4 under method 2."`
}

// EMVCommand is one command of an issuer script, before it is secured.
type EMVCommand struct {
	Command  Hex  `json:"command" format:"hex" minLength:"8" maxLength:"512" example:"84180000" doc:"Plain C-APDU without Le."`
	Encipher bool `json:"encipher,omitzero" doc:"Encrypt the command's data."`
}

// EMVScript asks for an issuer script for the card of a transaction.
type EMVScript struct {
	EMVDecision
	SMI      string       `json:"smi" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of the emv-smi key."`
	SMC      string       `json:"smc" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of the emv-smc key."`
	Commands []EMVCommand `json:"commands" minItems:"1" maxItems:"16"`
}

// EMVSecured is the answer to an ARQC with a secured script.
type EMVSecured struct {
	ARPC     Hex   `json:"arpc" format:"hex"`
	Commands []Hex `json:"commands" doc:"C-APDUs in the order of sending, with MACs of 8 bytes; in Format 2, under ccd-5 and aes-c in Format 1."`
}
