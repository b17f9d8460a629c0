package api

// OTACard names a card that takes secured packets, and its key set. It stands in the
// body only, so that no proxy's log holds an ICCID.
type OTACard struct {
	Key string  `json:"key" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of the ota key."`
	KVN HexByte `json:"kvn" format:"hex" minLength:"2" maxLength:"2" example:"01" doc:"Number of the card's key set, 01 to 0F: the key number in KIc and KID."`
	KDD Hex     `json:"kdd" format:"hex" minLength:"20" maxLength:"20" doc:"What the card's keys are diversified by, 10 bytes: key diversification data, or the ICCID."`
}

// OTAPacket asks for one secured packet. KIc, KID and counter follow from the key and
// the card.
type OTAPacket struct {
	OTACard
	SPI  Hex `json:"spi" format:"hex" minLength:"4" maxLength:"4" example:"1609" doc:"Security parameter indicator: cryptographic checksum, counter higher (or exactly one higher); a response has a cryptographic checksum too."`
	TAR  Hex `json:"tar" format:"hex" minLength:"6" maxLength:"6" example:"B00011" doc:"Toolkit application reference of the receiver."`
	Data Hex `json:"data" format:"hex" minLength:"2" maxLength:"2048" doc:"What the packet carries."`
}

// OTASecured is a secured packet.
type OTASecured struct {
	Packet  Hex `json:"packet" format:"hex" doc:"Command packet from CPL on; the sender splits it into short messages."`
	Counter Hex `json:"counter" format:"hex" doc:"CNTR of the packet, 5 bytes, which names it when its response comes."`
}

// OTAResponse is what a card answered to a packet.
type OTAResponse struct {
	OTACard
	Counter  Hex `json:"counter" format:"hex" minLength:"10" maxLength:"10" doc:"CNTR of the packet that is answered."`
	Response Hex `json:"response" format:"hex" minLength:"26" maxLength:"2200" doc:"Response packet from RPL on, without the user data header."`
}

// OTAVerified is a proof of receipt that verified; one that did not is proof_failed.
type OTAVerified struct {
	Status HexByte `json:"status" format:"hex" doc:"Response status code; 00: the packet was unpacked and handed over."`
	Data   Hex     `json:"data" format:"hex" doc:"What the application answered."`
}
