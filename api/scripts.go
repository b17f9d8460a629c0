package api

// PrepareScripts asks for one script for cards that are not there.
type PrepareScripts struct {
	Key      string   `json:"key" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of a gp-scp03 key, or of a gp-scp02 key if the profile says SCP02."`
	KVN      HexByte  `json:"kvn" format:"hex" minLength:"2" maxLength:"2" example:"30" doc:"Key Version Number of the keys that the cards carry."`
	Profile  string   `json:"profile,omitempty" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Card profile with the AID of the Security Domain; absent for default."`
	Level    HexByte  `json:"level" format:"hex" minLength:"2" maxLength:"2" example:"03" doc:"Security level 01 or 03; under SCP02 01."`
	Commands []Hex    `json:"commands" minItems:"1" maxItems:"1024" doc:"Plain C-APDUs, in the order of sending."`
	Cards    []CardAt `json:"cards" minItems:"1" maxItems:"500" doc:"With at most 4,000 commands for all of them together."`
}

// CardAt is a card with the sequence counter that it will have when the script runs.
type CardAt struct {
	KDD     Hex    `json:"kdd" format:"hex" minLength:"20" maxLength:"20" doc:"Key diversification data."`
	Counter uint32 `json:"counter" maximum:"16777215" doc:"Sequence counter, above every one that the card proved or that served another script; the same request has the same script again."`
}

// PreparedScripts are the scripts, in the order of the cards.
type PreparedScripts struct {
	Scripts []PreparedScript `json:"scripts"`
}

// PreparedScript is the script of one card, or why there is none.
type PreparedScript struct {
	KDD      Hex    `json:"kdd" format:"hex"`
	Counter  uint32 `json:"counter" format:"int64"`
	Commands []Hex  `json:"commands,omitempty" doc:"INITIALIZE UPDATE, EXTERNAL AUTHENTICATE, then the secured commands; under SCP02 with i 1A the secured commands alone."`
	Code     Code   `json:"code,omitempty" doc:"Why there is no script; absent if there is one."`
	Detail   string `json:"detail,omitempty"`
}
