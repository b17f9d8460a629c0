package api

import "time"

// ChangedKeys is the command that adds a newer version's keys to a card.
type ChangedKeys struct {
	Command Hex     `json:"command" format:"hex" doc:"Secured PUT KEY to send to the card."`
	From    string  `json:"from" doc:"Resource name of the version that the card has."`
	To      string  `json:"to" doc:"Resource name of the version that it gets."`
	KVN     HexByte `json:"kvn" format:"hex" doc:"Key Version Number of the new keys."`
}

// ConfirmKeys is the card's answer to PUT KEY.
type ConfirmKeys struct {
	Response Hex `json:"response" format:"hex" minLength:"4" maxLength:"512" doc:"R-APDU of the card, as it sent it."`
}

// RetireKeys names the former keys of a card.
type RetireKeys struct {
	KVN HexByte `json:"kvn" format:"hex" minLength:"2" maxLength:"2" example:"30" doc:"Key Version Number of the keys to take away."`
}

// Command is one secured command.
type Command struct {
	Command Hex `json:"command" format:"hex" doc:"C-APDU to send to the card; its answer goes to :unwrap."`
}

// Move is a card on its way to a newer key version.
type Move struct {
	To       string    `json:"to" doc:"Resource name of the version."`
	KVN      HexByte   `json:"kvn" format:"hex"`
	State    string    `json:"state" enum:"sent,stored,wrong" doc:"sent: whether the card took the keys is not known. stored: it answered with the right check values. wrong: with others."`
	Attempts int       `json:"attempts"`
	At       time.Time `json:"at"`
}

// Rotation is how far a key's cards have come.
type Rotation struct {
	Key           string         `json:"key"`
	Versions      []VersionCards `json:"versions" doc:"Ascending."`
	Target        int            `json:"target" doc:"The newest version that protects; 0 for none."`
	Remaining     int64          `json:"remaining" doc:"Cards that last proved an older version than the target."`
	MovedLastHour int64          `json:"movedLastHour" doc:"In the current hour of the clock."`
	MovedLastDay  int64          `json:"movedLastDay"`
	Forecast      time.Time      `json:"forecast,omitzero" doc:"When the last card is expected, at the pace of the last day."`
}

// VersionCards is a version with its cards.
type VersionCards struct {
	Version int     `json:"version"`
	KVN     HexByte `json:"kvn" format:"hex"`
	State   string  `json:"state"`
	Cards   int64   `json:"cards" doc:"Cards that last proved this version."`
}

// ImportCards is a list of cards that a factory personalised.
type ImportCards struct {
	Cards []ImportedCard `json:"cards" minItems:"1" maxItems:"5000"`
}

// ImportedCard is one of them.
type ImportedCard struct {
	KDD     Hex     `json:"kdd" format:"hex" minLength:"20" maxLength:"20" doc:"Key diversification data."`
	KVN     HexByte `json:"kvn" format:"hex" minLength:"2" maxLength:"2" doc:"Key Version Number of the keys that it carries."`
	Counter uint64  `json:"counter,omitempty" maximum:"1099511627775" doc:"Its sequence counter, if it is known; of an ota key the highest counter that another system gave to a packet."`
}

// ImportedCards is the result.
type ImportedCards struct {
	Added int64 `json:"added" doc:"Cards that were not there, or whose counter of an ota key rose; the others stay as they were."`
}

// Radius is what hangs on a key version.
type Radius struct {
	Key      Key   `json:"key"`
	Cards    int64 `json:"cards" doc:"Cards that last proved it."`
	Channels int   `json:"channels" doc:"Open on this node."`
	Packages int64 `json:"packages" doc:"Open packages whose keys follow from it."`
	Next     int   `json:"next" doc:"Number of the version that would replace it."`
}
