package api

import "time"

// CardProfile is one version of a card profile.
type CardProfile struct {
	Name       string    `json:"name" doc:"Resource name of the profile."`
	Profile    string    `json:"profile" doc:"Its name within the issuer."`
	Version    int       `json:"version"`
	Registered time.Time `json:"registered"`
	SHA256     Hex       `json:"sha256" format:"hex" doc:"Of the document; what officers signed."`
	Withdrawn  bool      `json:"withdrawn" doc:"It serves no new channel until a newer version is registered."`
	Document   string    `json:"document,omitempty" doc:"YAML; deploy/profiles/README.md explains it. Absent in lists."`
}

// CardProfileList is the newest versions of an issuer's card profiles.
type CardProfileList struct {
	Profiles []CardProfile `json:"profiles"`
}
