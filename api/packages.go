package api

// Package states.
const (
	PackageOpen      = "open"
	PackageConfirmed = "confirmed"
)

// Steps of the script that carries a package, in their order.
const (
	StepOpen   = "open"
	StepChunks = "chunks"
	StepCommit = "commit"
	StepAbort  = "abort"
)

// ChunksPerScript bounds the chunks of one script.
const ChunksPerScript = 64

// CreatePackage asks for the package of an image for the card of a channel.
type CreatePackage struct {
	Channel   string  `json:"channel" pattern:"^([a-z][a-z0-9-]{0,62}[.])?[0-9a-f]{32}$" doc:"Authenticated channel at a level that protects responses."`
	Image     string  `json:"image" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of a registered image."`
	UpdateKey string  `json:"updateKey,omitempty" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of a card-update key; absent under suite 00."`
	KVN       HexByte `json:"kvn,omitzero" format:"hex" minLength:"2" maxLength:"2" doc:"Key Version Number of K-UPD on the card; absent under suite 00."`
	Status    Hex     `json:"status" format:"hex" minLength:"4" maxLength:"131076" doc:"The card's R-APDU to GET DATA for its status, as it was received."`
}

// ChunkRange is chunks by their numbers, from 1, both ends included.
type ChunkRange struct {
	First int `json:"first" minimum:"1"`
	Last  int `json:"last" minimum:"1"`
}

// Package is one update package for one card.
type Package struct {
	ID         string       `json:"id" doc:"32 hexadecimal digits."`
	State      string       `json:"state" enum:"open,confirmed" doc:"confirmed once the card's receipt verified."`
	Card       Hex          `json:"card" format:"hex" doc:"Key diversification data of the card."`
	Image      string       `json:"image"`
	KeyVersion string       `json:"keyVersion,omitempty" doc:"Resource name of the version of K-UPD's master; absent under suite 00."`
	Suite      HexByte      `json:"suite" format:"hex" doc:"00: protected by the channel only; 01: by the package's own keys."`
	KVN        HexByte      `json:"kvn" format:"hex" doc:"Key Version Number of K-UPD on the card."`
	Sequence   uint32       `json:"sequence" format:"int64" doc:"Rises with every package of a card."`
	Size       uint32       `json:"size" format:"int64" doc:"Bytes of the image."`
	ChunkSize  int          `json:"chunkSize" doc:"Image bytes in each chunk but the last."`
	Chunks     int          `json:"chunks" doc:"Number of chunks."`
	Manifest   Hex          `json:"manifest" format:"hex" doc:"The manifest object with its MAC."`
	Missing    []ChunkRange `json:"missing,omitempty" doc:"Chunks that the card still needs, ascending; present when the package is created or resumed."`
	Resumed    bool         `json:"resumed,omitzero" doc:"The card holds this package already; it only takes the missing chunks."`
}

// MissingChunks returns the numbers of the chunks that the card still needs.
func (p Package) MissingChunks() []int {
	var out []int
	for _, r := range p.Missing {
		for i := r.First; i <= r.Last && i <= p.Chunks; i++ {
			out = append(out, i)
		}
	}
	return out
}

// Ranges gathers ascending chunk numbers.
func Ranges(chunks []int) []ChunkRange {
	var out []ChunkRange
	for _, n := range chunks {
		if k := len(out) - 1; k >= 0 && out[k].Last+1 == n {
			out[k].Last = n
			continue
		}
		out = append(out, ChunkRange{n, n})
	}
	return out
}

// PackageScript asks for the secured commands of one step.
type PackageScript struct {
	Channel string `json:"channel" pattern:"^([a-z][a-z0-9-]{0,62}[.])?[0-9a-f]{32}$" doc:"Authenticated channel to the card."`
	Step    string `json:"step" enum:"open,chunks,commit,abort"`
	Chunks  []int  `json:"chunks,omitempty" maxItems:"64" minimum:"1" maximum:"65535" doc:"Step chunks: which."`
}

// ConfirmPackage carries the card's receipt.
type ConfirmPackage struct {
	Channel string `json:"channel" pattern:"^([a-z][a-z0-9-]{0,62}[.])?[0-9a-f]{32}$" doc:"Authenticated channel to the card."`
	Receipt Hex    `json:"receipt" format:"hex" minLength:"4" maxLength:"131076" doc:"The card's R-APDU to GET DATA for its receipt, as it was received."`
}
