package api

// Image states.
const (
	ImageReceiving  = "receiving"
	ImageRegistered = "registered"
)

// RegisterImage describes a COS image and who released it.
type RegisterImage struct {
	Name            string `json:"name" pattern:"^[a-z][a-z0-9-]{0,62}$" example:"cos-1-1" doc:"Name of the image."`
	Class           Hex    `json:"class" format:"hex" minLength:"32" maxLength:"32" doc:"UUID of the card product, 16 bytes."`
	Component       Hex    `json:"component" format:"hex" minLength:"10" maxLength:"32" doc:"AID of what the image replaces, 5 to 16 bytes."`
	FromVersion     Hex    `json:"fromVersion" format:"hex" minLength:"16" maxLength:"16" doc:"Version that the image replaces, 8 bytes."`
	ToVersion       Hex    `json:"toVersion" format:"hex" minLength:"16" maxLength:"16" doc:"Version that the image installs, 8 bytes."`
	SecurityCounter uint32 `json:"securityCounter" format:"int64" maximum:"4294967295" doc:"Never falls on a card."`
	Size            uint32 `json:"size" format:"int64" minimum:"1" maximum:"4294967295" doc:"Bytes of the content."`
	SHA256          Hex    `json:"sha256" format:"hex" minLength:"64" maxLength:"64" doc:"SHA-256 of the content."`
	CRC32           Hex    `json:"crc32" format:"hex" minLength:"8" maxLength:"8" doc:"CRC-32 (IEEE 802.3) of the content."`
	ReleaseKey      string `json:"releaseKey" pattern:"^[A-Za-z0-9._-]{1,63}$" doc:"Name of the release key of the server's configuration."`
	Signature       Hex    `json:"signature" format:"hex" minLength:"16" maxLength:"256" doc:"Over the image statement: Ed25519, or ECDSA P-256 in ASN.1."`
}

// Image is a registered image. Packages can be made of it once its content is
// there.
type Image struct {
	RegisterImage
	State string `json:"state" enum:"receiving,registered" doc:"receiving until the content was uploaded and checked, then registered."`
}

// ImageList is one page of images.
type ImageList struct {
	Images        []Image `json:"images"`
	NextPageToken string  `json:"nextPageToken,omitempty" doc:"Asks for the next page; absent at the end."`
}

// Page asks for one page of a list.
type Page struct {
	Size  int    // 0 for the server's default
	Token string // empty for the first page
}
