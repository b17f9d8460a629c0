package api

import "time"

// ScriptMax bounds the APDUs of one request.
const ScriptMax = 1024

// OpenChannel says which card keys to use.
type OpenChannel struct {
	Key     string  `json:"key" pattern:"^[a-z][a-z0-9-]{0,62}$" example:"isd" doc:"Name of a gp-scp03 key, or of a gp-scp02 key if the profile says SCP02."`
	KVN     HexByte `json:"kvn,omitzero" format:"hex" minLength:"2" maxLength:"2" example:"30" doc:"Key Version Number; absent or 00 for the card's default."`
	Profile string  `json:"profile,omitempty" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Registered card profile; absent for default."`
}

// OpenedChannel is a channel with the command to send to the card.
type OpenedChannel struct {
	ID               string    `json:"id" doc:"32 hexadecimal digits."`
	InitializeUpdate Hex       `json:"initializeUpdate" format:"hex" doc:"C-APDU to send to the card."`
	ExpiresAt        time.Time `json:"expiresAt" doc:"Until when the card's answer is taken."`
}

// Authenticate is the card's answer to INITIALIZE UPDATE.
type Authenticate struct {
	Response Hex      `json:"response" format:"hex" minLength:"4" maxLength:"512" doc:"R-APDU of the card, with its status word."`
	Level    *HexByte `json:"level,omitempty" format:"hex" minLength:"2" maxLength:"2" example:"33" doc:"Security level 00, 01, 03, 11, 13 or 33; absent for the profile's."`
}

// AuthenticatedChannel is a channel whose card is proved.
type AuthenticatedChannel struct {
	ExternalAuthenticate Hex     `json:"externalAuthenticate" format:"hex" doc:"C-APDU to send to the card. Under SCP02 nothing is wrapped before the card answered it: a counter whose keys were used is refused when it comes again."`
	KDD                  Hex     `json:"kdd" format:"hex" doc:"Key diversification data, 10 bytes: the card's name here."`
	KVN                  HexByte `json:"kvn" format:"hex" doc:"Key Version Number of the keys that proved the card."`
	I                    HexByte `json:"i" format:"hex" doc:"The card's parameter \"i\"; of SCP02 the profile's."`
	SequenceCounter      *uint32 `json:"sequenceCounter,omitempty" format:"int64" doc:"The card's sequence counter, if it has one."`
	Level                HexByte `json:"level" format:"hex" doc:"Security level of the channel."`
	DataMax              int     `json:"dataMax" doc:"Data bytes that one wrapped command can carry."`
	KeyVersion           string  `json:"keyVersion" doc:"Resource name of the key version."`
}

// Commands is a script of C-APDUs.
type Commands struct {
	Commands []Hex `json:"commands" format:"hex" minItems:"1" maxItems:"1024" doc:"C-APDUs, in the order in which the card gets them."`
}

// Responses is the card's answers to a script.
type Responses struct {
	Responses []Hex `json:"responses" format:"hex" minItems:"1" maxItems:"1024" doc:"R-APDUs with their status words, in the order of their commands."`
}
