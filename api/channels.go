package api

import "time"

// ScriptMax bounds the APDUs of one request.
const ScriptMax = 1024

// OpenChannel says which card keys to use.
type OpenChannel struct {
	Key          string  `json:"key,omitempty" pattern:"^[a-z][a-z0-9-]{0,62}$" example:"isd" doc:"Name of a gp-scp03 key; of a gp-scp02 key if the profile says SCP02, and of the host's gp-scp11 key if it says SCP11a or c; absent under SCP11b."`
	KVN          HexByte `json:"kvn,omitzero" format:"hex" minLength:"2" maxLength:"2" example:"30" doc:"Key Version Number; absent or 00 for the card's default, under SCP11 for the first of the profile."`
	Profile      string  `json:"profile,omitempty" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Registered card profile; absent for default."`
	Certificates []Hex   `json:"certificates,omitempty" format:"hex" maxItems:"8" doc:"Under SCP11 the X.509 certificates of the card in DER: its own first, behind it those that lead to an authority of the profile."`
}

// OpenedChannel is a channel with what to send to the card.
type OpenedChannel struct {
	ID               string    `json:"id" doc:"32 hexadecimal digits."`
	InitializeUpdate Hex       `json:"initializeUpdate,omitempty" format:"hex" doc:"C-APDU to send to the card; absent under SCP11."`
	Agreement        []Hex     `json:"agreement,omitempty" format:"hex" doc:"Under SCP11 the C-APDUs to send to the card, in this order: each certificate of the host, which the card answers with 9000, and last MUTUAL or INTERNAL AUTHENTICATE, whose answer authenticate takes."`
	KDD              Hex       `json:"kdd,omitempty" format:"hex" doc:"Under SCP11 the card's name here: the first 10 bytes of the SHA-256 of its SubjectPublicKeyInfo."`
	ExpiresAt        time.Time `json:"expiresAt" doc:"Until when the card's answer is taken."`
}

// Authenticate is the card's answer to INITIALIZE UPDATE, or to the last command of SCP11.
type Authenticate struct {
	Response Hex      `json:"response" format:"hex" minLength:"4" maxLength:"512" doc:"R-APDU of the card, with its status word."`
	Level    *HexByte `json:"level,omitempty" format:"hex" minLength:"2" maxLength:"2" example:"33" doc:"Security level 00, 01, 03, 11, 13 or 33; absent for the profile's."`
}

// AuthenticatedChannel is a channel whose card is proved.
type AuthenticatedChannel struct {
	ExternalAuthenticate Hex     `json:"externalAuthenticate,omitempty" format:"hex" doc:"C-APDU to send to the card; absent under SCP11, where nothing is left to send. Under SCP02 nothing is wrapped before the card answered it: a counter whose keys were used is refused when it comes again."`
	KDD                  Hex     `json:"kdd" format:"hex" doc:"Key diversification data, 10 bytes: the card's name here. Under SCP11 they follow from the card's public key."`
	KVN                  HexByte `json:"kvn" format:"hex" doc:"Key Version Number of the card's keys that proved it."`
	I                    HexByte `json:"i" format:"hex" doc:"The card's parameter \"i\"; of SCP02 the profile's, of SCP11 00."`
	SequenceCounter      *uint32 `json:"sequenceCounter,omitempty" format:"int64" doc:"The card's sequence counter, if it has one."`
	Level                HexByte `json:"level" format:"hex" doc:"Security level of the channel."`
	DataMax              int     `json:"dataMax" doc:"Data bytes that one wrapped command can carry."`
	KeyVersion           string  `json:"keyVersion,omitempty" doc:"Resource name of the key version; under SCP11a and c of the host's own, absent under SCP11b."`
}

// Commands is a script of C-APDUs.
type Commands struct {
	Commands []Hex `json:"commands" format:"hex" minItems:"1" maxItems:"1024" doc:"C-APDUs, in the order in which the card gets them."`
}

// Responses is the card's answers to a script.
type Responses struct {
	Responses []Hex `json:"responses" format:"hex" minItems:"1" maxItems:"1024" doc:"R-APDUs with their status words, in the order of their commands."`
}
