package server

import (
	"context"
	"net/http"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/profile"
)

func (s *server) registerProfiles() {
	at := func(id, path, summary string) route {
		return route{id: id, method: http.MethodGet, path: issuerPath + path, tag: "inventory", summary: summary, does: kms.ProfileRead}
	}
	register(s, at("listProfiles", "/profiles", "List the newest versions of card profiles, without their documents"), s.listProfiles)
	register(s, at("getProfile", "/profiles/{profile}", "Get a version of a card profile"), s.getProfile)
}

type listProfilesInput struct{ InIssuer }

func (s *server) listProfiles(ctx context.Context, r kms.Request, in *listProfilesInput) (*answer[api.CardProfileList], error) {
	all, err := s.svc.Profiles(ctx, r, in.Issuer)
	out := api.CardProfileList{Profiles: make([]api.CardProfile, len(all))}
	for i, c := range all {
		out.Profiles[i] = profileOf(c)
		out.Profiles[i].Document = ""
	}
	return answered(out), err
}

type getProfileInput struct {
	InIssuer
	Profile string `path:"profile" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of the card profile."`
	Version int    `query:"version" minimum:"0" maximum:"999999999" default:"0" doc:"Number of the version; 0 for the newest."`
}

func (s *server) getProfile(ctx context.Context, r kms.Request, in *getProfileInput) (*answer[api.CardProfile], error) {
	c, err := s.svc.Profile(ctx, r, in.Issuer, in.Profile, in.Version)
	if err != nil {
		return nil, err
	}
	return answered(profileOf(c)), nil
}

func profileOf(c kms.CardProfile) api.CardProfile {
	digest := profile.Digest([]byte(c.Document))
	return api.CardProfile{
		Name: c.Object(), Profile: c.Name, Version: c.Version, Registered: c.Registered, SHA256: digest[:], Withdrawn: c.Withdrawn, Document: c.Document,
	}
}
